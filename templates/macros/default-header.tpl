# Before all resources: what the daemons use, and a limit that holds back syncs.
%if{%or{%used-log-digest{}}{%used-net-digest{}}}{Used digests: log %used-log-digest{}, network %used-net-digest{}\n}\
%if{%or{%used-log-compression{}}{%used-net-compression{}}}{Used compressions: log %used-log-compression{}, network %used-net-compression{}\n}\
%if{%>{%global-sync-limit-value{}}{0}}{Hint: at most %global-sync-limit-value{} resources are synced at the same time (set-global-sync-limit-value)\n}
