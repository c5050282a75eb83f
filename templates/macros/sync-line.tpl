# Numbers of the sync.
\ \ \ \ \ \ \ > sync: %human-number{}{}{}{%sync-pos{}}{%sync-size{}} rate: %human-number{}{}{}{%sync-rate{}}/sec  remaining: %human-seconds{%sync-remain{}} hrs
