# State of replication, first match wins.
%elsif{%and{%eq{%{host}}{%{real_host}}}{%not{%is-module-loaded{}}}}{ModuleNotLoaded}\
    {%not{%is-alive{%{host}}}}{UnResponsive}\
    {%eq{%get-disk{}}{}}{NotJoined}\
    {%not{%todo-attach{}}}{NotStarted}\
    {%todo-primary{}}{%elsif{%is-emergency{}}{EmergencyMode}{%is-primary{}}{Replicating}{NotYetPrimary}}\
    {%not{%or{%sync-reached{}}{%todo-sync{}}}}{PausedSync}\
    {%is-sync{}}{Syncing}\
    {%not{%todo-fetch{}}}{PausedFetch}\
    {%not{%todo-replay{}}}{PausedReplay}\
    {%eq{%get-primary{}}{}}{NoPrimaryDesignated}\
    {%not{%is-alive{%get-primary{}}}}{PrimaryUnreachable}\
    {%is-orphan{}}{Orphan}\
    {Replaying}
