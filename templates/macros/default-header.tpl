# Before all resources.
%if{%>{%global-sync-limit-value{}}{0}}{Hint: at most %global-sync-limit-value{} resources are synced at the same time (set-global-sync-limit-value)}
