# The designated primary.
%if{%get-primary{}}{%get-primary{}}{(none)}
