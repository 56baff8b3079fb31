//! `zaqar-manage`: backup, restore and check of embedded stores, definitions, imports from the
//! original, and moves of queues to other pools.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use zaqar_core::pools::PoolName;
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName, Secret};
use zaqar_storage_embedded::{Checked, Error, back_up, check, restore};

use crate::arguments::with_configuration;
use crate::definitions::{self, Export};
use crate::drivers::embedded;
use crate::error::{StartError, with_causes};
use crate::import::{self, Import};
use crate::offline::Setup;
use crate::queue_move::{self, QueueToMove};
use crate::store::StoreRole;

/// Why a command failed, as text.
type Failure = String;

pub(crate) fn command() -> Command {
    let file = |help: &'static str| {
        Arg::new("file").value_name("FILE").help(help).value_parser(value_parser!(PathBuf))
    };
    let role = Arg::new("role")
        .long("role")
        .value_name("ROLE")
        .help("Which store, if both roles have an embedded store of their own")
        .value_parser(["message", "management"])
        .default_value("message")
        .global(true);
    let replace = Arg::new("replace")
        .long("replace")
        .help("Keep the present store under names that end in .replaced")
        .action(ArgAction::SetTrue);
    let command = Command::new("zaqar-manage")
        .about("Copies, checks, exports and fills the stores of the server with this configuration")
        .subcommand_required(true)
        .arg(role)
        .subcommand(
            Command::new("backup")
                .about("Copies the store into a new file, while the server runs or not")
                .arg(file("The file to create").required(true)),
        )
        .subcommand(
            Command::new("restore")
                .about("Puts a copy in place of the store; stop the server first")
                .arg(file("A file that backup made").required(true))
                .arg(replace),
        )
        .subcommand(
            Command::new("check")
                .about("Checks every page of the store, while the server runs or not"),
        )
        .subcommand(export_command())
        .subcommand(import_command())
        .subcommand(
            Command::new("queue")
                .about("Moves queues to other pools")
                .subcommand_required(true)
                .subcommand(move_command()),
        );
    with_configuration(command)
}

fn move_command() -> Command {
    let required = |name: &'static str, shown: &'static str, help: &'static str| {
        Arg::new(name).value_name(shown).help(help).required(true)
    };
    Command::new("move")
        .about("Moves a queue to a pool with everything in it, while servers use it")
        .long_about(
            "Moves a queue to a pool with everything in it, while servers use it. Requests for the \
             queue wait a little meanwhile, or are answered 503. If this program is stopped, a \
             server goes on with the move. A move that makes no progress for a minute is an error.",
        )
        .arg(required("queue", "QUEUE", "The queue"))
        .arg(required("pool", "POOL", "The pool that it goes to"))
        .arg(
            Arg::new("project")
                .long("project")
                .value_name("ID")
                .help("The project that has it")
                .required(true),
        )
        .arg(
            Arg::new("topic")
                .long("topic")
                .help("It is a topic, not a queue")
                .action(ArgAction::SetTrue),
        )
}

fn run_move(matches: &ArgMatches, setup: Setup<'_>) -> Result<String, Failure> {
    let text = |name| matches.get_one::<String>(name).map_or("", String::as_str);
    let kind = if matches.get_flag("topic") { Kind::Topic } else { Kind::Queue };
    let project = ProjectId::new(text("project")).map_err(|error| format!("project: {error}"))?;
    let name = QueueName::new(text("queue")).map_err(|error| format!("queue: {error}"))?;
    let pool = PoolName::new(text("pool")).map_err(|error| format!("pool: {error}"))?;
    let order = QueueToMove { queue: QueueKey { project, kind, name }, pool };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(queue_move::run(&order, setup)).map_err(|error| with_causes(&*error))
}

fn import_command() -> Command {
    Command::new("import")
        .about("Takes queues and more from a file of export, or from the store of a Python service")
        .long_about(
            "Takes definitions from a file that export wrote, or the queues, messages and \
             subscriptions of a Python service from its Redis or MongoDB, into the stores of this \
             configuration. Stop this server first if its store is embedded.\n\n\
             From a file: what exists is left as it is, but for pools and flavors, which are \
             replaced. What this configuration does not accept is left out, and the exit code is \
             1.\n\n\
             From a Python service: its store is not changed; stop the service first. Claims are \
             not taken over: what was claimed is free. A queue that has messages here is left out, \
             so that a second import goes on where the first was interrupted, but for the queue it \
             was in.",
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .help("A file that export wrote")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(Arg::new("from").long("from").value_name("URI").help(
            "redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss://, mongodb:// or mongodb+srv://",
        ))
        .arg(
            Arg::new("database")
                .long("database")
                .value_name("NAME")
                .help("From MongoDB: the option database of the Python service")
                .requires("from")
                .default_value("zaqar"),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .help("Only checks and counts what would be imported; opens no configured store")
                .action(ArgAction::SetTrue),
        )
        .group(ArgGroup::new("source").args(["file", "from"]).required(true))
}

fn export_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
    };
    Command::new("export")
        .about("Writes queues, topics, subscriptions, flavors and pools as lines of JSON")
        .long_about(
            "Writes the queues and topics of projects with their metadata and subscriptions, their \
             flavors, and the pools, as lines of JSON: no messages. Stop this server first if its \
             store is embedded. Subscribers are written with whatever their addresses and options \
             contain; secrets of signatures and Keystone trusts are not.",
        )
        .arg(
            Arg::new("project")
                .long("project")
                .value_name("ID")
                .help("A project; may be repeated")
                .action(ArgAction::Append),
        )
        .arg(flag("pools", "The pools, too"))
        .arg(
            flag("secrets", "With the passwords in the URIs of pools; import needs them")
                .requires("pools"),
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .help("The file to make, which its owner alone can read; else standard output")
                .value_parser(value_parser!(PathBuf)),
        )
        .group(ArgGroup::new("what").args(["project", "pools"]).required(true).multiple(true))
}

fn run_import(matches: &ArgMatches, setup: Setup<'_>) -> Result<Outcome, Failure> {
    let is_dry = matches.get_flag("dry-run");
    if let Some(file) = matches.get_one::<PathBuf>("file") {
        return wait(definitions::import(file, is_dry, setup));
    }
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let (from, database) = (Secret::new(text("from")), text("database"));
    wait(import::run(&Import { from, database, is_dry }, setup)).map(Outcome::from)
}

fn run_export(matches: &ArgMatches, setup: Setup<'_>) -> Result<String, Failure> {
    let projects = matches.get_many::<String>("project").unwrap_or_default().cloned().collect();
    let (pools, secrets) = (matches.get_flag("pools"), matches.get_flag("secrets"));
    let file = matches.get_one::<PathBuf>("file").cloned();
    wait(definitions::export(&Export { projects, pools, secrets, file }, setup))
}

fn wait<T>(work: impl Future<Output = Result<T, StartError>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(work).map_err(|error| with_causes(&*error))
}

/// What a command did.
pub(crate) struct Outcome {
    /// For standard output.
    pub(crate) text: String,
    /// Why it is a failure although the command did the rest of its work.
    pub(crate) problem: Option<Failure>,
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        Self { text, problem: None }
    }
}

/// Runs the command.
///
/// # Errors
/// Why it failed.
pub(crate) fn run(matches: &ArgMatches, setup: Setup<'_>) -> Result<Outcome, Failure> {
    match matches.subcommand() {
        Some(("import", matches)) => run_import(matches, setup),
        Some(("export", matches)) => run_export(matches, setup).map(Outcome::from),
        Some((name, matches)) => run_on_store(name, matches, setup).map(Outcome::from),
        None => Ok(String::new().into()),
    }
}

fn run_on_store(name: &str, matches: &ArgMatches, setup: Setup<'_>) -> Result<String, Failure> {
    if name == "queue" {
        let Some((_, matches)) = matches.subcommand() else { return Ok(String::new()) };
        return run_move(matches, setup);
    }
    let role = match matches.get_one::<String>("role").map(String::as_str) {
        Some("management") => StoreRole::Management,
        _ => StoreRole::Messages,
    };
    let store =
        embedded::directory_of(setup.settings, role).map_err(|error| with_causes(&*error))?;
    let store = store.ok_or_else(|| {
        let option = role.option();
        format!("[drivers] {option} is not embedded: use the tools of the store that it names")
    })?;
    let file = || matches.get_one::<PathBuf>("file").map_or(Path::new(""), PathBuf::as_path);
    let done = match name {
        "backup" => back_up(&store, file()).map(|done| said(file(), done)),
        "restore" => restore(file(), &store, matches.get_flag("replace"))
            .map(|done| format!("{} restored from {}", store.display(), said(file(), done))),
        _ => check(&store).map(|done| said(&store, done)),
    };
    done.map_err(|error| failure(name, &error))
}

/// What failed, and what to do about it.
#[expect(clippy::wildcard_enum_match_arm, reason = "other errors say themselves what to do")]
fn failure(command: &str, error: &Error) -> Failure {
    let text = with_causes(error);
    match error {
        Error::Exists { .. } if command == "restore" => format!(
            "{text}: stop the server that has it open, if one runs, and say --replace; the present \
             store is then kept under names that end in .replaced"
        ),
        Error::InUse { .. } if command == "restore" => format!("{text}; stop it first"),
        Error::Damaged { path, problems } => {
            let path = path.display();
            let problems: Vec<_> = problems.split("; ").flat_map(str::lines).collect();
            format!("{path} is damaged:\n  {}", problems.join("\n  "))
        }
        _ => text,
    }
}

fn said(path: &Path, checked: Checked) -> String {
    let Checked { bytes, format, queues, messages } = checked;
    let path = path.display();
    format!("{path}: {bytes} bytes, format {format}, {queues} queues, {messages} messages, sound\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_is_sound() {
        super::command().debug_assert();
    }
}
