# What is here and not applied yet.
\ \ \ \ \ \ \ > replay: %human-number{}{}{}{%replay-rest{}}\
%if{%and{%not{%replay-reached{}}}{%>={%replay-age{}}{%{window}}}}{ age: %human-seconds{%replay-age{}}}\
\ rate: %human-number{}{}{}{%replay-rate{}}/s remaining: %human-seconds{%replay-remain{}}
