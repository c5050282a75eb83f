# State of the disk, first match wins.
%if{%disk-error{}}{DISK_ERROR=%disk-error{}%errno-text{%disk-error{}} }\
%elsif{%eq{%get-disk{}}{}}{NotJoined}\
    {%not{%disk-present{}}}{NotPresent}\
    {%not{%todo-attach{}}}{%if{%is-attach{}}{Detaching}{Detached}}\
    {%<{%replay-code{}}{0}}{\
        %elsif{%=={%replay-code{}}{-85}}{IncompleteLog}{%=={%replay-code{}}{-56}}{UnInitializedLogRecord}{DefectiveLog}\
        [%replay-code{}=%errno-text{%replay-code{}}]}\
    {%is-orphan{}}{Orphan}\
    {%not{%is-attach{}}}{NoAttach}\
    {%not{%or{%is-consistent{}}{%todo-primary{}}}}{InConsistent}\
    {%and{%todo-primary{}}{%not{%and{%is-consistent{}}{%work-reached{}}}}}{%if{%is-primary{}}{WriteBack}{Recovery}[%call{amount}{%max{%work-rest{}}{%writeback-rest{}}}]}\
    {%not{%work-reached{}}}{OutDated[%outdated-flags{}]}\
    {%and{%get-primary{}}{%is-emergency{%get-primary{}}}}{EmergencyMode}\
    {UpToDate}
