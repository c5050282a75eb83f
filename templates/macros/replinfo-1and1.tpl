# Progress of fetch and replay.
\ \ \ \ \ replaying: %progress{20}{%replay-pos{}}{%fetch-pos{}}{%fetch-size{}}  %sprintf{%.2f}{%work-percent{}}%  \
%subst{%subst{%human-number{}{/}{|}{%replay-pos{}}{%fetch-size{}}}{\\.[0-9]+}{}{g}}{^(.*)\\|(.*)$}{($1)$2}\
\ \ logs: [%replay-lognr{}..%fetch-lognr{}\
]\n\
%fetch-line-1and1{}\n\
%replay-line-1and1{}
