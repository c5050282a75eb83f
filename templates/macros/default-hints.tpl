# What could be done better with the disk.
%tmp{\
    %let{size}{%resource-size{}}\
    %if{%{size}}{\
        %let{waste}{%-{%disk-size{}}{%{size}}}\
        %if{%>{%{waste}}{%{threshold}}}{\ \ \ \ \ Hint: you are wasting %call{amount}{%{waste}} on disk %get-disk{}\n}\
        %let{more}{%-{%resource-possible-size{}}{%{size}}}\
        %if{%>{%{more}}{0}}{\ \ \ \ \ Hint: marsadm resize would increase resource %{res} by %call{amount}{%{more}}\n}\
    }\
}
