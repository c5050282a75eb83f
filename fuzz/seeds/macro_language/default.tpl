# One block for a resource: device, status, hints, progress, trouble.
%if{%device-present{}}{%default-device{}\n}\
%if{%is-member{}}{\
    %status{}\n\
    %default-hints{}\
    %if{%and{%not{%is-primary{}}}{%is-attach{}}}{\
        %unless{%sync-reached{}}{%syncinfo{}\n}\
        %unless{%work-reached{}}{%replinfo{}\n}\
    }\
}\
%resource-errors{}
