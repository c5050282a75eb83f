# Progress of the sync.
\ \ \ \ \ syncing: %progress{20}{%sync-pos{}}{0}{%sync-size{}}  %sprintf{%.2f}{%sync-percent{}}%  \
%subst{%subst{%human-number{}{/}{|}{%sync-pos{}}{%sync-size{}}}{\\.[0-9]+}{}{g}}{^(.*)\\|(.*)$}{($1)$2}\
\ \ rate: %tmp{%let{r}{%human-number{}{}{|}{%sync-rate{}}}%sprintf{%.2f}{%{r}{|}{0}} %{r}{|}{1}}/sec\
\ \ remaining: %human-seconds{%sync-remain{}} hrs\n\
%sync-line-1and1{}
