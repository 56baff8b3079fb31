# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_zaqar_status_global_optspecs
    string join \n config-file= config-dir= nodebug noadmin_mode use-json nouse-json use-syslog nouse-syslog use-journal nouse-journal daemon nodaemon log-file= log-dir= log-config-append= log-date-format= syslog-log-facility= d/debug admin_mode h/help V/version
end

function __fish_zaqar_status_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_zaqar_status_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_zaqar_status_using_subcommand
    set -l cmd (__fish_zaqar_status_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l log-config-append -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l log-date-format -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l syslog-log-facility -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l nodebug
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l noadmin_mode
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l nouse-json
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l nouse-syslog
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l nouse-journal
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l nodaemon
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -s h -l help -d 'Print help'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -s V -l version -d 'Print version'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -f -a "upgrade" -d 'Runs checks for an upgrade'
complete -c zaqar-status -n "__fish_zaqar_status_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l log-config-append -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l log-date-format -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l syslog-log-facility -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l nodebug
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l noadmin_mode
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l nouse-json
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l nouse-syslog
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l nouse-journal
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l nodaemon
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -s h -l help -d 'Print help'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -f -a "check" -d 'Whether the server starts with the configuration'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and not __fish_seen_subcommand_from check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l log-config-append -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l log-date-format -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l syslog-log-facility -d '' -r
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l nodebug
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l noadmin_mode
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l nouse-json
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l nouse-syslog
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l nouse-journal
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l nodaemon
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from help" -f -a "check" -d 'Whether the server starts with the configuration'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand upgrade; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand help; and not __fish_seen_subcommand_from upgrade help" -f -a "upgrade" -d 'Runs checks for an upgrade'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand help; and not __fish_seen_subcommand_from upgrade help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-status -n "__fish_zaqar_status_using_subcommand help; and __fish_seen_subcommand_from upgrade" -f -a "check" -d 'Whether the server starts with the configuration'
