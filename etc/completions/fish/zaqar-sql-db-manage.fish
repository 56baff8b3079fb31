# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_zaqar_sql_db_manage_global_optspecs
    string join \n config-file= config-dir= nodebug noadmin_mode use-json nouse-json use-syslog nouse-syslog use-journal nouse-journal daemon nodaemon log-file= log-dir= log-config-append= log-date-format= syslog-log-facility= d/debug admin_mode h/help V/version
end

function __fish_zaqar_sql_db_manage_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_zaqar_sql_db_manage_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_zaqar_sql_db_manage_using_subcommand
    set -l cmd (__fish_zaqar_sql_db_manage_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -s V -l version -d 'Print version'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "branches" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "check_migration" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "current" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "downgrade" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "history" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "revision" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "stamp" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "upgrade" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand branches" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand check_migration" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand current" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand downgrade" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand history" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand revision" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand stamp" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l log-config-append -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l log-date-format -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l syslog-log-facility -d '' -r
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l nodebug
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l noadmin_mode
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l nouse-json
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l nouse-syslog
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l nouse-journal
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l nodaemon
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -s d -l debug -d 'Logs at level debug'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "branches" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "check_migration" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "current" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "downgrade" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "history" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "revision" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "stamp" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "upgrade" -d 'Accepted from the original, without effect'
complete -c zaqar-sql-db-manage -n "__fish_zaqar_sql_db_manage_using_subcommand help; and not __fish_seen_subcommand_from branches check_migration current downgrade history revision stamp upgrade help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
