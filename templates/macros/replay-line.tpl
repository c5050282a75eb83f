# What is here and not applied yet.
\ \ \ \ \ \ \ > replay: %human-number{}{}{}{%replay-rest{}}\
%if{%and{%not{%replay-reached{}}}{%>={%replay-age{}}{%{window}}}}{ age: %human-seconds{%replay-age{}}}\
\ rate: %human-number{}{}{}{%replay-rate{}}/s remaining: %human-seconds{%replay-remain{}}\
%if{%and{%not{%replay-reached{}}}{%is-module-loaded{}}{%>{%replay-age{}}{%{stuck-seconds}}}}{%warn{replay of resource %{res} appears stuck since %human-seconds{%replay-age{}}\n}}
