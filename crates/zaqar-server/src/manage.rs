//! `zaqar-manage`: copies of embedded stores and their check, the import of an original's data, and
//! moves of queues to other pools.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use zaqar_core::pools::PoolName;
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName, Secret};
use zaqar_storage_embedded::{Checked, back_up, check, restore};

use crate::arguments::with_configuration;
use crate::config::Settings;
use crate::drivers::embedded;
use crate::error::with_causes;
use crate::import::{self, Import};
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
        .about("Copies, restores and checks the embedded store of this configuration")
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
             server goes on with the move.",
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

fn run_move(matches: &ArgMatches, settings: &Settings) -> Result<String, Failure> {
    let text = |name| matches.get_one::<String>(name).map_or("", String::as_str);
    let kind = if matches.get_flag("topic") { Kind::Topic } else { Kind::Queue };
    let project = ProjectId::new(text("project")).map_err(|error| format!("project: {error}"))?;
    let name = QueueName::new(text("queue")).map_err(|error| format!("queue: {error}"))?;
    let pool = PoolName::new(text("pool")).map_err(|error| format!("pool: {error}"))?;
    let order = QueueToMove { queue: QueueKey { project, kind, name }, pool };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(queue_move::run(&order, settings)).map_err(|error| with_causes(&*error))
}

fn import_command() -> Command {
    Command::new("import")
        .about("Imports the queues, messages and subscriptions of a Python service from its Redis")
        .long_about(
            "Imports the queues, messages and subscriptions of a Python service from its Redis into \
             the stores of this configuration. The Redis is not changed. Stop the Python service \
             first, and this server too if its store is embedded. Claims are not taken over: what \
             was claimed is free. A queue that has messages here is left out, so that a second \
             import goes on where the first was interrupted, but for the queue it was in.",
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("URI")
                .help("redis://[USER:PASSWORD@]HOST:PORT[/DB], or rediss://")
                .required(true),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .help("Only counts what would be imported; opens no store")
                .action(ArgAction::SetTrue),
        )
}

fn run_import(matches: &ArgMatches, settings: &Settings) -> Result<String, Failure> {
    let from = matches.get_one::<String>("from").cloned().unwrap_or_default();
    if !from.starts_with("redis://") && !from.starts_with("rediss://") {
        return Err("--from: a URI that begins with redis:// or rediss://".to_owned());
    }
    let import = Import { from: Secret::new(from), is_dry: matches.get_flag("dry-run") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(import::run(&import, settings)).map_err(|error| with_causes(&*error))
}

/// Runs the command. Returns its message.
///
/// # Errors
/// Why it failed.
pub(crate) fn run(matches: &ArgMatches, settings: &Settings) -> Result<String, Failure> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(String::new()) };
    if name == "import" {
        return run_import(matches, settings);
    }
    if name == "queue" {
        let Some((_, matches)) = matches.subcommand() else { return Ok(String::new()) };
        return run_move(matches, settings);
    }
    let role = match matches.get_one::<String>("role").map(String::as_str) {
        Some("management") => StoreRole::Management,
        _ => StoreRole::Messages,
    };
    let store = embedded::directory_of(settings, role).map_err(|error| with_causes(&*error))?;
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
    done.map_err(|error| with_causes(&error))
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
