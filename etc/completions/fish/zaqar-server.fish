# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_zaqar_server_global_optspecs
    string join \n config-file= config-dir= nodebug noadmin_mode use-json nouse-json use-syslog nouse-syslog use-journal nouse-journal daemon nodaemon log-file= log-dir= log-config-append= log-date-format= syslog-log-facility= d/debug admin_mode h/help V/version
end

function __fish_zaqar_server_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_zaqar_server_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_zaqar_server_using_subcommand
    set -l cmd (__fish_zaqar_server_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -s V -l version -d 'Print version'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -f -a "config" -d 'Inspects the configuration instead of serving'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -f -a "health" -d 'Asks the running server with this configuration for its health'
complete -c zaqar-server -n "__fish_zaqar_server_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -f -a "check" -d 'Prints its errors and warnings'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -f -a "show" -d 'Prints each option that is set, and where'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -f -a "sample" -d 'Prints a file with every option and its default'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and not __fish_seen_subcommand_from check show sample help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from sample" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Prints its errors and warnings'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Prints each option that is set, and where'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "sample" -d 'Prints a file with every option and its default'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l log-config-append -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l log-date-format -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l syslog-log-facility -d '' -r
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l nodebug
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l noadmin_mode
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l nouse-json
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l nouse-syslog
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l nouse-journal
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l nodaemon
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand health" -s h -l help -d 'Print help'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and not __fish_seen_subcommand_from config health help" -f -a "config" -d 'Inspects the configuration instead of serving'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and not __fish_seen_subcommand_from config health help" -f -a "health" -d 'Asks the running server with this configuration for its health'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and not __fish_seen_subcommand_from config health help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Prints its errors and warnings'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Prints each option that is set, and where'
complete -c zaqar-server -n "__fish_zaqar_server_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "sample" -d 'Prints a file with every option and its default'
