# What is not here yet.
\ \ \ \ \ \ \ > fetch: %human-number{}{}{}{%fetch-rest{}}\
%if{%and{%not{%fetch-reached{}}}{%>={%fetch-age{}}{%{window}}}}{ age: %human-seconds{%fetch-age{}}}\
%if{%and{%not{%fetch-reached{}}}{%>={%fetch-lag{}}{%{window}}}}{ lag: %human-seconds{%fetch-lag{}}}\
\ rate: %human-number{}{}{}{%fetch-rate{}}/s remaining: %human-seconds{%fetch-remain{}}\
%if{%and{%not{%fetch-reached{}}}{%is-module-loaded{}}{%>{%fetch-age{}}{%{stuck-seconds}}}}{%warn{fetch of resource %{res} appears stuck since %human-seconds{%fetch-age{}}\n}}
