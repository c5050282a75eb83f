# An amount of bytes, always with three decimals: %amount{bytes}
%elsif{%>={%{1}}{10984120766791}}{%sprintf{%.3f TiB}{%/{%{1}}{1099511627776}}}\
    {%>={%{1}}{10726680822}}{%sprintf{%.3f GiB}{%/{%{1}}{1073741824}}}\
    {%>={%{1}}{1048576}}{%sprintf{%.3f MiB}{%/{%{1}}{1048576}}}\
    {%>={%{1}}{1024}}{%sprintf{%.3f KiB}{%/{%{1}}{1024}}}\
    {%+{%{1}}{0} B}
