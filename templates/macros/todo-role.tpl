# What the host is meant to be.
%elsif{%not{%disk-present{}}}{None}{%todo-primary{}}{Primary}{Secondary}
