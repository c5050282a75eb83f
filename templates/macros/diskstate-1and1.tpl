# State of the disk.
%elsif{%not{%and{%disk-present{}}{%is-attach{}}}}{Detached}\
    {%not{%is-almost-consistent{}}}{Inconsistent}\
    {%or{%is-primary{}}{%work-reached{}}}{Uptodate}\
    {Outdated[%outdated-flags-1and1{}]}
