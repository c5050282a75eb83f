# State of replication.
%elsif{%eq{%get-disk{}}{}}{NotJoined}\
    {%is-primary{}}{Replicating}\
    {%and{%get-primary{}}{%not{%is-alive{%get-primary{}}}}}{PrimaryUnreachable}\
    {%not{%or{%sync-reached{}}{%todo-sync{}}}}{PausedSync}\
    {%is-sync{}}{Syncing}\
    {%not{%and{%todo-fetch{}}{%todo-replay{}}}}{PausedReplay}\
    {Replaying}
