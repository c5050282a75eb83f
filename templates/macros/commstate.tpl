# How long nothing was heard from the designated primary, when that is long.
%if{%get-primary{}}{\
    %if{%>={%alive-age{%get-primary{}}}{%{window}}}{%human-seconds{%alive-age{%get-primary{}}}}\
}
