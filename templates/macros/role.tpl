# What the host wants to be and is.
%elsif{%not{%disk-present{}}}{None}\
    {%todo-primary{}}{%if{%is-primary{}}{%if{%>{%nr-primary{}}{1}}{ForcedPrimary}{Primary}}{NotYetPrimary}}\
    {%is-primary{}}{RemainsPrimary}\
    {Secondary}
