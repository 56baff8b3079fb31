# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_zaqar_policy_global_optspecs
    string join \n config-file= config-dir= policy-file= h/help V/version
end

function __fish_zaqar_policy_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_zaqar_policy_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_zaqar_policy_using_subcommand
    set -l cmd (__fish_zaqar_policy_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -l config-file -d 'Reads `[oslo_policy]` from this configuration file; may be given several times' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -l config-dir -d 'Reads every *.conf in this directory after the files' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -l policy-file -d 'Uses the rules of this file, whatever the configuration says' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -s h -l help -d 'Print help'
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -s V -l version -d 'Print version'
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -f -a "list" -d 'Lists the names of all rules, with the checks of defaults'
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -f -a "check" -d 'Evaluates rules for a caller: one line per rule, exit code 1 if one denies'
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -f -a "sample" -d 'Prints a policy file with every default as a comment'
complete -c zaqar-policy -n "__fish_zaqar_policy_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand list" -l config-file -d 'Reads `[oslo_policy]` from this configuration file; may be given several times' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand list" -l config-dir -d 'Reads every *.conf in this directory after the files' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand list" -l policy-file -d 'Uses the rules of this file, whatever the configuration says' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand list" -s h -l help -d 'Print help'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l rule -d 'The rule; every rule if it is omitted' -r
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l credentials -d 'A JSON object with the caller\'s roles, user_id, project_id and so on, or a token as Keystone describes it; - for standard input' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l target -d 'A JSON object with the attributes of the operation\'s target; if it is omitted, its project_id is the caller\'s' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l config-file -d 'Reads `[oslo_policy]` from this configuration file; may be given several times' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l config-dir -d 'Reads every *.conf in this directory after the files' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -l policy-file -d 'Uses the rules of this file, whatever the configuration says' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand check" -s h -l help -d 'Print help'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand sample" -l config-file -d 'Reads `[oslo_policy]` from this configuration file; may be given several times' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand sample" -l config-dir -d 'Reads every *.conf in this directory after the files' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand sample" -l policy-file -d 'Uses the rules of this file, whatever the configuration says' -r -F
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand sample" -s h -l help -d 'Print help'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand help; and not __fish_seen_subcommand_from list check sample help" -f -a "list" -d 'Lists the names of all rules, with the checks of defaults'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand help; and not __fish_seen_subcommand_from list check sample help" -f -a "check" -d 'Evaluates rules for a caller: one line per rule, exit code 1 if one denies'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand help; and not __fish_seen_subcommand_from list check sample help" -f -a "sample" -d 'Prints a policy file with every default as a comment'
complete -c zaqar-policy -n "__fish_zaqar_policy_using_subcommand help; and not __fish_seen_subcommand_from list check sample help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
