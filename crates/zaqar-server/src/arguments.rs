//! The command line: configuration files, the original's flags for options of `[DEFAULT]`, and
//! subcommands.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{Environment, Sources};

/// Options with the flags that switch them on and off.
const SWITCHES: [(&str, &str, &str); 6] = [
    ("debug", "nodebug", "Logs at level debug"),
    ("admin_mode", "noadmin_mode", "Serves health, pools and flavors too"),
    ("use-json", "nouse-json", "Logs one JSON object per line"),
    ("use-syslog", "nouse-syslog", "Accepted from old start scripts, without effect"),
    ("use-journal", "nouse-journal", "Accepted from old start scripts, without effect"),
    ("daemon", "nodaemon", "Accepted from old start scripts; the server stays in the foreground"),
];

/// Options that take a value, with their older flags.
const VALUES: [(&str, &[&str], &str); 5] = [
    ("log-file", &["logfile"], "Logs to this file instead of standard error"),
    ("log-dir", &["logdir"], "The directory of the log file"),
    ("log-config-append", &["log-config", "log_config"], ""),
    ("log-date-format", &[], ""),
    ("syslog-log-facility", &[], ""),
];

/// What the program must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Serve until a signal.
    Serve,
    /// Print errors and warnings about the configuration.
    Check,
    /// Print the options that are set, and where each is set.
    Show,
    /// Print a configuration file with every option.
    Sample,
    /// Ask the server with this configuration for its health.
    Health,
}

/// The flags for the configuration, shared by all programs that read it.
pub(crate) fn with_configuration(command: Command) -> Command {
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .help(help)
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .global(true)
    };
    let switch = |name, opposite| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).overrides_with(opposite).global(true)
    };
    let switches = SWITCHES
        .into_iter()
        .flat_map(|(on, off, help)| [switch(on, off).help(help), switch(off, on).hide(true)]);
    let values = VALUES.into_iter().map(|(name, older, help)| {
        Arg::new(name)
            .long(name)
            .aliases(older)
            .value_name("VALUE")
            .help(help)
            .hide(help.is_empty())
            .global(true)
    });
    command
        // As in the original, the last of a repeated flag counts.
        .args_override_self(true)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(path(
            "config-file",
            "PATH",
            "Reads this configuration file; may be given several times, later ones win",
        ))
        .arg(path(
            "config-dir",
            "DIR",
            "Reads every *.conf in this directory, sorted by name, after the files",
        ))
        .args(switches)
        .args(values)
        .mut_arg("debug", |debug| debug.short('d'))
        .mut_arg("admin_mode", |admin| admin.alias("admin-mode"))
}

pub(crate) fn command() -> Command {
    let config = Command::new("config")
        .about("Inspects the configuration instead of serving")
        .subcommand_required(true)
        .subcommand(Command::new("check").about("Prints its errors and warnings"))
        .subcommand(Command::new("show").about("Prints each option that is set, and where"))
        .subcommand(
            Command::new("sample").about("Prints a file with every option and its default"),
        );
    let health = Command::new("health")
        .about("Asks the running server with this configuration for its health");
    let about = "A message queue server that speaks OpenStack Zaqar's v2 API";
    with_configuration(
        Command::new("zaqar-server").about(about).subcommand(config).subcommand(health),
    )
}

/// Parses the command line of this process; exits if it is wrong.
pub(crate) fn matches_of(command: Command) -> ArgMatches {
    command.try_get_matches().unwrap_or_else(|error| without_hidden_tip(error).exit())
}

/// The error, without the tip to use a flag that the help does not name.
fn without_hidden_tip(mut error: clap::Error) -> clap::Error {
    let is_hidden = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(tip)) => {
            SWITCHES.iter().any(|(_, off, _)| tip.strip_prefix("--") == Some(off))
        }
        _ => false,
    };
    if is_hidden {
        error.remove(ContextKind::SuggestedArg);
    }
    error
}

/// Parses the command line and the environment of this process; exits if the command line is wrong.
pub(crate) fn parse() -> (Task, Sources) {
    let matches = matches_of(command());
    (task_of(&matches), sources_of(&matches, Environment::of_process()))
}

fn task_of(matches: &ArgMatches) -> Task {
    let Some((name, matches)) = matches.subcommand() else { return Task::Serve };
    match (name, matches.subcommand_name()) {
        ("health", _) => Task::Health,
        (_, Some("check")) => Task::Check,
        (_, Some("sample")) => Task::Sample,
        (_, _) => Task::Show,
    }
}

/// The configuration that the matches of [`with_configuration`] name.
pub(crate) fn sources_of(matches: &ArgMatches, environment: Environment) -> Sources {
    let paths = |name| matches.get_many(name).into_iter().flatten().cloned().collect();
    let mut sources = Sources {
        files: paths("config-file"),
        dirs: paths("config-dir"),
        environment,
        ..Sources::default()
    };
    let mut set = |flag: &str, name: &str, value: &str| {
        let flag = format!("--{flag}");
        sources =
            std::mem::take(&mut sources).flag(&flag, "DEFAULT", &name.replace('-', "_"), value);
    };
    for (on, off, _) in SWITCHES {
        for (flag, value) in [(on, "true"), (off, "false")] {
            if matches.get_flag(flag) {
                set(flag, on, value);
            }
        }
    }
    for (name, _, _) in VALUES {
        if let Some(value) = matches.get_one::<String>(name) {
            set(name, name, value);
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use crate::config::Environment;

    use super::{Task, command, sources_of, task_of, without_hidden_tip};

    /// `flag: option = value` for each flag that sets an option.
    fn flags(line: &str) -> Vec<String> {
        let words = std::iter::once("zaqar-server").chain(line.split(' '));
        let matches = command().try_get_matches_from(words).unwrap();
        sources_of(&matches, Environment::default())
            .flags
            .iter()
            .map(|flag| format!("{}: {} = {}", flag.flag, flag.option, flag.value))
            .collect()
    }

    #[test]
    fn flags_of_the_original_stand_for_options() {
        let table: [(&str, &[&str]); 10] = [
            (
                "--debug -d --log-file a --log-file b",
                &["--debug: debug = true", "--log-file: log_file = b"],
            ),
            ("-d", &["--debug: debug = true"]),
            ("--nodebug", &["--nodebug: debug = false"]),
            ("--debug --nodebug", &["--nodebug: debug = false"]),
            ("--nodebug --debug", &["--debug: debug = true"]),
            ("--admin_mode", &["--admin_mode: admin_mode = true"]),
            (
                "--admin-mode --daemon",
                &["--admin_mode: admin_mode = true", "--daemon: daemon = true"],
            ),
            ("--use-syslog", &["--use-syslog: use_syslog = true"]),
            (
                "--log-file=/l/z --logdir /d",
                &["--log-file: log_file = /l/z", "--log-dir: log_dir = /d"],
            ),
            ("--config-file a --config-file b --config-dir c", &[]),
        ];
        for (line, expected) in table {
            assert_eq!(flags(line), expected, "{line}");
        }
    }

    #[test]
    fn files_and_directories_are_read_in_their_order() {
        let line = ["zaqar-server", "--config-file", "b", "--config-file=a", "--config-dir", "c"];
        let matches = command().try_get_matches_from(line).unwrap();
        let sources = sources_of(&matches, Environment::default());
        assert_eq!(sources.files, ["b", "a"].map(std::path::PathBuf::from));
        assert_eq!(sources.dirs, [std::path::PathBuf::from("c")]);
    }

    #[test]
    fn a_subcommand_takes_the_same_flags() {
        let table = [
            ("zaqar-server --config-file a", Task::Serve),
            ("zaqar-server --config-file a config check", Task::Check),
            ("zaqar-server config show --config-file a", Task::Show),
            ("zaqar-server config sample --config-file a", Task::Sample),
            ("zaqar-server health --config-file a", Task::Health),
        ];
        for (line, task) in table {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            assert_eq!(task_of(&matches), task, "{line}");
            let sources = sources_of(&matches, Environment::default());
            assert_eq!(sources.files, [std::path::PathBuf::from("a")], "{line}");
        }
    }

    #[test]
    fn no_tip_names_a_flag_that_the_help_does_not() {
        for (flag, tip) in [("--nodebugg", false), ("--debugg", true)] {
            let wrong = command().try_get_matches_from(["zaqar-server", flag]).unwrap_err();
            let text = without_hidden_tip(wrong).to_string();
            assert_eq!(text.contains("a similar argument"), tip, "{text}");
        }
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }
}
