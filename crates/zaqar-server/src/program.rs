//! The whole program: command line, logs, signals, exit codes.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_core::TaskMonitor;

use crate::arguments::Task;
use crate::config::{self, Loaded, Settings, Shown};
use crate::error::{StartError, with_causes};
use crate::preflight::{self, Findings};
use crate::registry::Registry;
use crate::reload::Reloader;
use crate::report::{RecentErrors, Reporter};
use crate::run::run_monitored;
use crate::service_manager::{self, Passed};
use crate::signals::Signals;
use crate::{arguments, commands, health, logs, runtime};

/// Success.
const OK: u8 = 0;
/// The server could not start, failed, or did not stop in order.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;

/// The main function of the server, with the registered drivers: reads the command line and the
/// configuration, starts logging, and serves until SIGTERM or SIGINT. SIGHUP reloads what can be
/// reloaded and reopens the log file, SIGUSR2 writes a report, SIGUSR1 does nothing.
///
/// With `config check`, `config show` or `config sample` it prints information about the
/// configuration instead, and with `health` the health of the running server.
///
/// The exit code is 0 after a stop, 1 if the server could not start, failed, or did not stop in
/// order, 2 if the command line or the configuration is wrong; standard error says what.
///
/// Run by the name of another program, such as `zaqar-manage`, it is that program, with the same
/// drivers, its own command line and exit codes.
pub fn main(registry: &Registry) -> ExitCode {
    let name = env::args_os().next().map(PathBuf::from);
    match commands::named(name.as_deref().and_then(Path::file_name)) {
        Some(program) => program(registry),
        None => ExitCode::from(serve(registry)),
    }
}

fn serve(registry: &Registry) -> u8 {
    // Before any thread is started, because it changes the environment, so that no child process
    // takes over the sockets.
    let passed = match Passed::take() {
        Ok(passed) => passed,
        Err(error) => {
            print_error(&format!("LISTEN_FDS: {error}"));
            return FAILED;
        }
    };
    runtime::raise_descriptor_limit();
    // Signals first: what follows may take time.
    let caught = runtime::start().and_then(|runtime| {
        let _context = runtime.enter();
        Signals::catch().map(|signals| (runtime, signals))
    });
    let (runtime, signals) = match caught {
        Ok(caught) => caught,
        Err(error) => {
            print_error(&error);
            return FAILED;
        }
    };
    let (task, sources) = arguments::parse();
    if task == Task::Sample {
        return print(&config::sample::sample(&registry.registered().known()));
    }
    let loaded = match config::load(&sources, &registry.registered()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            print_error(&errors);
            return USAGE;
        }
    };
    match task {
        // The sample needs no configuration, and was printed before.
        Task::Serve | Task::Sample => {}
        Task::Check => {
            let findings = runtime.block_on(preflight::check(registry, &loaded.settings));
            return check(&loaded, &findings);
        }
        Task::Show => return show(&loaded),
        Task::Health => return health(&loaded.settings),
    }
    let Loaded { settings, warnings } = loaded;
    let (recent, tasks) = (RecentErrors::default(), TaskMonitor::default());
    let reporter = match Reporter::new(&settings, tasks.clone(), recent.clone()) {
        Ok(reporter) => reporter,
        Err(error) => {
            print_error(&error);
            return USAGE;
        }
    };
    let logs = match logs::start(&settings.logging, recent) {
        Ok(logs) => logs,
        Err(error) => {
            print_error(&error);
            return FAILED;
        }
    };
    log_panics();
    for file in settings.raw().files() {
        info!(%file, "configuration read");
    }
    for warning in warnings {
        warn!(%warning, "problem in the configuration");
    }
    let served = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let status = reporter.status().clone();
        let registered = registry.registered();
        let reloader = Reloader::new(sources, registered, &settings, logs, status.clone());
        spawn_endless(
            &tasks,
            "signals",
            signals.handle(shutdown.clone(), reloader, reporter.clone()),
        );
        spawn_endless(&tasks, "reports", reporter.clone().run());
        spawn_endless(&tasks, "service manager", service_manager::run(status));
        run_monitored(registry, &settings, shutdown, &reporter, passed).await
    });
    exit_code(&settings, served)
}

/// Starts a task that must not end; if it dies, the server stops.
fn spawn_endless(
    tasks: &TaskMonitor,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let guard = tasks.guard(name);
    tokio::spawn(async move {
        let _guard = guard;
        task.await;
    });
}

/// Prints what is wrong with a configuration whose options can be read, and its warnings.
fn check(loaded: &Loaded, findings: &Findings) -> u8 {
    let mut text = String::new();
    for file in loaded.settings.raw().files() {
        text += &format!("read: {file}\n");
    }
    for error in &findings.errors {
        text += &format!("error: {error}\n");
    }
    let warnings = loaded.warnings.iter().map(ToString::to_string);
    let warnings: Vec<_> = warnings.chain(findings.warnings.iter().cloned()).collect();
    for warning in &warnings {
        text += &format!("warning: {warning}\n");
    }
    let count = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (findings.errors.len(), warnings.len());
    text += &format!("{}, {}\n", count(errors, "error"), count(warnings, "warning"));
    let printed = print(&text);
    if errors > 0 { USAGE } else { printed }
}

/// Asks the running server for its health, and prints the answer.
fn health(settings: &Settings) -> u8 {
    match health::ask(settings) {
        Ok(text) => print(&format!("{text}\n")),
        Err(text) => {
            print_error(&text);
            FAILED
        }
    }
}

/// Prints each option that is set, and where, as a configuration file.
fn show(loaded: &Loaded) -> u8 {
    let (mut text, mut last) = (String::new(), None);
    for Shown { section, option, value, origin } in loaded.settings.raw().shown() {
        if last != Some(section) {
            let space = if last.is_some() { "\n" } else { "" };
            text += &format!("{space}[{section}]\n");
            last = Some(section);
        }
        text += &format!("{option} = {value}  # {origin}\n");
    }
    print(&text)
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => OK,
        // Whoever reads has seen enough: `zaqar-server config show | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(_) => FAILED,
    }
}

fn exit_code(settings: &Settings, served: Result<(), StartError>) -> u8 {
    let Err(error) = served else { return OK };
    let text = with_causes(error.as_ref());
    error!(error = text, "the server failed");
    if settings.logging.file.is_some() && !settings.logging.stderr {
        print_error(&text);
    }
    // Some values can only be checked by their driver.
    if error.is::<config::Error>() { USAGE } else { FAILED }
}

/// Logs panics like everything else; the default hook writes to standard error only.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let location = panic.location().map(ToString::to_string);
        error!(panic = text.unwrap_or_default(), location, "panicked");
        default(panic);
    }));
}

/// Prints an error before logging is started; standard error may be closed, which is ignored.
fn print_error(what: &dyn Display) {
    let _ = writeln!(io::stderr(), "{what}");
}
