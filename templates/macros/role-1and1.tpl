# The actual role.
%if{%is-primary{}}{Primary}{Secondary}
