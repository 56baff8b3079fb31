# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_zaqar_manage_global_optspecs
    string join \n role= config-file= config-dir= nodebug noadmin_mode use-json nouse-json use-syslog nouse-syslog use-journal nouse-journal daemon nodaemon log-file= log-dir= log-config-append= log-date-format= syslog-log-facility= d/debug admin_mode h/help V/version
end

function __fish_zaqar_manage_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_zaqar_manage_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_zaqar_manage_using_subcommand
    set -l cmd (__fish_zaqar_manage_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -s h -l help -d 'Print help'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -s V -l version -d 'Print version'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "backup" -d 'Copies the store into a new file, while the server runs or not'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "restore" -d 'Puts a copy in place of the store; stop the server first'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "check" -d 'Checks every page of the store, while the server runs or not'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "export" -d 'Writes queues, topics, subscriptions, flavors and pools as lines of JSON'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "import" -d 'Takes queues and more from a file of export, or from the store of a Python service'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "queue" -d 'Moves queues to other pools'
complete -c zaqar-manage -n "__fish_zaqar_manage_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand backup" -s h -l help -d 'Print help'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l replace -d 'Keep the present store under names that end in .replaced'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand restore" -s h -l help -d 'Print help'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand check" -s h -l help -d 'Print help'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l project -d 'A project; may be repeated' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l pools -d 'The pools, too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l secrets -d 'With the passwords in the URIs of pools; import needs them'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l from -d 'redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss://, mongodb:// or mongodb+srv://' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l database -d 'From MongoDB: the option database of the Python service' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l dry-run -d 'Only checks and counts what would be imported; opens no configured store'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand import" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -s h -l help -d 'Print help'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -f -a "move" -d 'Moves a queue to a pool with everything in it, while servers use it'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and not __fish_seen_subcommand_from move help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l project -d 'The project that has it' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l role -d 'Which store, if both roles have an embedded store of their own' -r -f -a "message\t''
management\t''"
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l log-config-append -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l log-date-format -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l syslog-log-facility -d '' -r
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l topic -d 'It is a topic, not a queue'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l nodebug
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l noadmin_mode
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l nouse-json
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l nouse-syslog
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l nouse-journal
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l nodaemon
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from move" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "move" -d 'Moves a queue to a pool with everything in it, while servers use it'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "backup" -d 'Copies the store into a new file, while the server runs or not'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "restore" -d 'Puts a copy in place of the store; stop the server first'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "check" -d 'Checks every page of the store, while the server runs or not'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "export" -d 'Writes queues, topics, subscriptions, flavors and pools as lines of JSON'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "import" -d 'Takes queues and more from a file of export, or from the store of a Python service'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "queue" -d 'Moves queues to other pools'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and not __fish_seen_subcommand_from backup restore check export import queue help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-manage -n "__fish_zaqar_manage_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "move" -d 'Moves a queue to a pool with everything in it, while servers use it'
