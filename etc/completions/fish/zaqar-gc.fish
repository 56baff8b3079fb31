complete -c zaqar-gc -l config-file -d 'Reads this configuration file; may be given several times, later ones win' -r -F
complete -c zaqar-gc -l config-dir -d 'Reads every *.conf in this directory, sorted by name, after the files' -r -F
complete -c zaqar-gc -l log-file -d 'Logs to this file instead of standard error' -r
complete -c zaqar-gc -l log-dir -d 'The directory of the log file' -r
complete -c zaqar-gc -l log-config-append -d '' -r
complete -c zaqar-gc -l log-date-format -d '' -r
complete -c zaqar-gc -l syslog-log-facility -d '' -r
complete -c zaqar-gc -l nodebug
complete -c zaqar-gc -l noadmin_mode
complete -c zaqar-gc -l use-json -d 'Logs one JSON object per line'
complete -c zaqar-gc -l nouse-json
complete -c zaqar-gc -l use-syslog -d 'Accepted from old start scripts, without effect'
complete -c zaqar-gc -l nouse-syslog
complete -c zaqar-gc -l use-journal -d 'Accepted from old start scripts, without effect'
complete -c zaqar-gc -l nouse-journal
complete -c zaqar-gc -l daemon -d 'Accepted from old start scripts; the server stays in the foreground'
complete -c zaqar-gc -l nodaemon
complete -c zaqar-gc -s d -l debug -d 'Logs at level debug'
complete -c zaqar-gc -l admin_mode -d 'Serves health, pools and flavors too'
complete -c zaqar-gc -s h -l help -d 'Print help'
complete -c zaqar-gc -s V -l version -d 'Print version'
