# fish completion for marsadm(8) and the daemons of MARS. What fits is computed by marsadm itself.
function __fish_marsadm
    set -l current (commandline -ct)
    for line in (marsadm complete -- (commandline -opc) "$current" 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path "$current"
        else
            printf '%s\n' "$line"
        end
    end
end
for program in marsadm mars-logger mars-fetch mars-replay mars-sync mars-status
    complete -c $program -f -a '(__fish_marsadm)'
end
