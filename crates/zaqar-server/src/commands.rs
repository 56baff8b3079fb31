//! The programs besides the server: `zaqar-manage`, and `zaqar-gc`, `zaqar-policy`,
//! `zaqar-sql-db-manage` and `zaqar-status`, which deployment tools of the original call. The
//! server acts as one of them when it is run by its name.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};

use crate::arguments::{matches_of, sources_of, with_configuration};
use crate::config::{self, Environment, Loaded};
use crate::manage::{self, Outcome};
use crate::offline::Setup;
use crate::policy_program::policy_main;
use crate::preflight::{self, Findings};
use crate::registry::Registry;

/// The subcommands of the original's `zaqar-sql-db-manage`: Alembic's and its own.
const MIGRATIONS: [&str; 8] = [
    "branches",
    "check_migration",
    "current",
    "downgrade",
    "history",
    "revision",
    "stamp",
    "upgrade",
];

/// The program of this name.
pub(crate) fn named(name: Option<&OsStr>) -> Option<fn(&Registry) -> ExitCode> {
    Some(match name?.to_str()? {
        "zaqar-gc" => gc,
        "zaqar-manage" => manage,
        "zaqar-policy" => policy_main,
        "zaqar-sql-db-manage" => sql_db_manage,
        "zaqar-status" => status,
        _ => return None,
    })
}

/// `zaqar-gc`, which cron jobs call: prints that there is nothing to collect, and exits with 0.
fn gc(_: &Registry) -> ExitCode {
    matches_of(gc_command());
    print("Nothing to collect: the server itself deletes what has expired.\n")
}

/// `zaqar-sql-db-manage`, which deployment tools call before they start the server: prints that
/// there is nothing to migrate, and exits with 0. It accepts every subcommand of the original, with
/// any arguments.
fn sql_db_manage(_: &Registry) -> ExitCode {
    matches_of(sql_db_manage_command());
    print("Nothing to migrate: the stores of this server keep their own format up to date.\n")
}

fn gc_command() -> Command {
    let about = "Does nothing: the server deletes expired messages by itself";
    with_configuration(Command::new("zaqar-gc").about(about))
}

fn sql_db_manage_command() -> Command {
    let about = "Does nothing: no store of this server has a schema that is migrated by hand";
    let migration = |name: &'static str| {
        let rest = Arg::new("arguments").num_args(..).trailing_var_arg(true);
        Command::new(name)
            .about("Accepted from the original, without effect")
            .arg(rest.allow_hyphen_values(true).action(ArgAction::Append))
    };
    let command = Command::new("zaqar-sql-db-manage")
        .about(about)
        .subcommand_required(true)
        .subcommands(MIGRATIONS.map(migration));
    with_configuration(command)
}

fn status_command() -> Command {
    let check = Command::new("check").about("Whether the server starts with the configuration");
    let upgrade = Command::new("upgrade")
        .about("Runs checks for an upgrade")
        .subcommand_required(true)
        .subcommand(check);
    let command = Command::new("zaqar-status")
        .about("Checks that the server starts with this configuration")
        .subcommand_required(true)
        .subcommand(upgrade);
    with_configuration(command)
}

/// `zaqar-manage`: copies, restores and checks the embedded store of the server with this
/// configuration. Exits with 0 on success, 1 on failure, 2 if the command line or the configuration
/// is wrong; standard error says what.
fn manage(registry: &Registry) -> ExitCode {
    let matches = matches_of(manage::command());
    let sources = sources_of(&matches, Environment::of_process());
    let loaded = match config::load(&sources, &registry.registered()) {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors.to_string(), 2),
    };
    match manage::run(&matches, Setup { registry, settings: &loaded.settings }) {
        Ok(Outcome { text, problem: None }) => print(&text),
        Ok(Outcome { text, problem: Some(why) }) => {
            print(&text);
            fail(&why, 1)
        }
        Err(why) => fail(&why, 1),
    }
}

/// `zaqar-status upgrade check`: whether the server would start with the configuration, printed in
/// the original's format. Exits with 0 for success, 1 for warnings, 2 for failures.
fn status(registry: &Registry) -> ExitCode {
    let matches = matches_of(status_command());
    let sources = sources_of(&matches, Environment::of_process());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), 2),
    };
    let findings = match config::load(&sources, &registry.registered()) {
        Ok(Loaded { settings, warnings }) => {
            let mut found = runtime.block_on(preflight::check(registry, &settings));
            found.warnings.splice(0..0, warnings.iter().map(ToString::to_string));
            found
        }
        Err(errors) => Findings {
            errors: errors.to_string().lines().map(str::to_owned).collect(),
            warnings: Vec::new(),
        },
    };
    let (code, result, details) = check_result(findings);
    print(&table(result, &details));
    ExitCode::from(code)
}

/// Exit code, result and details of the check of a configuration.
fn check_result(findings: Findings) -> (u8, &'static str, Vec<String>) {
    let Findings { errors, warnings } = findings;
    match (errors.is_empty(), warnings.is_empty()) {
        (false, _) => (2, "Failure", errors.into_iter().chain(warnings).collect()),
        (true, false) => (1, "Warning", warnings),
        (true, true) => (0, "Success", Vec::new()),
    }
}

/// The table in the format of oslo.upgradecheck.
fn table(result: &str, details: &[String]) -> String {
    let mut lines = vec!["Check: Configuration".to_owned(), format!("Result: {result}")];
    match details {
        [] => lines.push("Details: None".to_owned()),
        [first, rest @ ..] => {
            lines.push(format!("Details: {first}"));
            lines.extend(rest.iter().map(|line| format!("  {line}")));
        }
    }
    let title = "Upgrade Check Results";
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(title.len());
    let rule = format!("+{}+\n", "-".repeat(width + 2));
    let mut text = format!("{rule}| {title:^width$} |\n{rule}");
    for line in lines {
        text += &format!("| {line:<width$} |\n");
    }
    text + &rule
}

/// Prints an error for the caller; standard error may be closed, which is ignored.
fn fail(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough: `zaqar-manage … | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::{gc_command, named, sql_db_manage_command, status_command, table};
    use crate::policy_program::policy_command;
    use crate::{arguments, manage};

    fn commands() -> [clap::Command; 6] {
        [
            arguments::command(),
            manage::command(),
            gc_command(),
            sql_db_manage_command(),
            status_command(),
            policy_command(),
        ]
    }

    /// Compares a file with its expected content; `ZAQAR_WRITE_MAN=1` writes it.
    fn is_written(path: &str, content: Vec<u8>) {
        if std::env::var_os("ZAQAR_WRITE_MAN").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &content).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert_eq!(found, String::from_utf8(content).unwrap(), "{path}");
    }

    #[test]
    fn each_program_has_a_name_of_its_own() {
        let names: Vec<_> = commands().iter().map(|one| one.get_name().to_owned()).collect();
        let without = names.iter().filter(|name| named(Some(name.as_ref())).is_none());
        assert_eq!(without.collect::<Vec<_>>(), ["zaqar-server"], "of {names:?}");
        assert!(named(None).is_none());
    }

    #[test]
    fn the_manual_pages_are_those_of_the_commands() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/man");
        for command in commands() {
            let path = format!("{directory}/{}.1", command.get_name());
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).unwrap();
            is_written(&path, page);
        }
    }

    #[test]
    fn the_completions_are_those_of_the_commands() {
        use clap_complete::Shell;

        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/completions");
        for mut command in commands() {
            let name = command.get_name().to_owned();
            let files = [
                (Shell::Bash, format!("bash/{name}")),
                (Shell::Zsh, format!("zsh/_{name}")),
                (Shell::Fish, format!("fish/{name}.fish")),
            ];
            for (shell, file) in files {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command, &name, &mut script);
                is_written(&format!("{directory}/{file}"), script);
            }
        }
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_line() {
        let expected = "\
+-----------------------+
| Upgrade Check Results |
+-----------------------+
| Check: Configuration  |
| Result: Success       |
| Details: None         |
+-----------------------+
";
        assert_eq!(table("Success", &[]), expected);
        let wide = table("Warning", &["é".repeat(40), "second".to_owned()]);
        let widths: Vec<_> = wide.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{wide}");
        assert!(wide.contains("|   second "), "{wide}");
    }
}
