# The local device and its users.
\ \ LocalDevice %get-device{} [\
%if{%>{%device-opened{}}{0}}{\
    Opened, \
    %tmp{\
        %let{where}{%known-device-mountpoint{}}\
        %if{%{where}}{%{where}%if{%{verbose}}{ %known-device-fstype{} %known-device-mountflags{}}, }\
    }\
    %if{%device-error{}}{DEVICE_ERROR=%errno-text{%device-error{}}, }\
    %device-ops-rate{} IOPS\
    %if{%>{%device-nrflying{}}{0}}{\
        , %device-nrflying{} Flying\
        %if{%>={%device-completion-age{}}{%{window}}}{, HANGING age: %human-seconds{%device-completion-age{}}}\
    }\
}{Closed}]
