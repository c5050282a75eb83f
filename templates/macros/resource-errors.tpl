# Trouble of the resource.
%if{%get-resource-fat-count{}}{FATALS   FILE (%get-resource-fat-count{})%if{%{verbose}}{:\n%get-resource-fat{}}{: available with --verbose}\n}\
%if{%the-err-count{}}{ERRORS   LNK  (%the-err-count{}):\n%the-pretty-err-msg{}\n}\
%if{%get-resource-err-count{}}{ERRORS   FILE (%get-resource-err-count{})%if{%{verbose}}{:\n%get-resource-err{}}{: available with --verbose}\n}\
%if{%the-wrn-count{}}{WARNINGS LNK  (%the-wrn-count{}):\n%the-pretty-wrn-msg{}\n}\
%if{%{verbose}}{%if{%get-resource-wrn-count{}}{WARNINGS FILE (%get-resource-wrn-count{})%if{1}{:\n%get-resource-wrn{}}{: available with --verbose}\n}}\
%if{%>={%{verbose}}{2}}{%if{%the-inf-count{}}{INFOS    LNK  (%the-inf-count{}):\n%the-pretty-inf-msg{}\n}}\
%if{%and{%>={%{verbose}}{2}}{%get-log-status{}}}{STATUS   FILE:\n%get-log-status{}\n}
