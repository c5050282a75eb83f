# Trouble of the host as a whole.
%tmp{\
    %let{msg}{%subst{%the-pretty-global-msg{}}{^.*CONNECTED.*(\\n|\\z)}{}{mg}}\
    %let{msg}{%subst{%{msg}}{\\n+\\z}{}}\
    %if{%{msg}}{++++++++++++ Global / Communication Status ++++++++++++\n%{msg}\n}\
    %let{slip}{%-{%time{}}{%real-time{}}}\
    %if{%and{%real-time{}}{%>{%{slip}}{%{window}}}}{++++++++++++ Lamport time slip: %human-seconds{%{slip}} ++++++++++++\n}\
}
