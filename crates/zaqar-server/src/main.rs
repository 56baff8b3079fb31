//! `zaqar-server`: command line, signals, exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_server::config::{self, Environment, Loaded, Sources};
use zaqar_server::{Registry, StartError, logs, run};

/// Nothing went wrong.
const OK: u8 = 0;
/// The server could not start or stop as it should.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;

/// A message queue and notification service that speaks OpenStack Zaqar's v2 API.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Reads this configuration file; may be given several times, later ones win
    #[arg(long, value_name = "PATH")]
    config_file: Vec<PathBuf>,
    /// Reads every *.conf in this directory, sorted by name, after the files
    #[arg(long, value_name = "DIR")]
    config_dir: Vec<PathBuf>,
    /// Logs from debug on
    #[arg(long, short)]
    debug: bool,
    /// Serves health, pools and flavors too
    #[arg(long = "admin_mode", alias = "admin-mode")]
    admin_mode: bool,
    /// Accepted from old start scripts; the server stays in the foreground
    #[arg(long)]
    daemon: bool,
}

impl Arguments {
    fn sources(self) -> Sources {
        let mut sources = Sources {
            files: self.config_file,
            dirs: self.config_dir,
            environment: Environment::of_process(),
            ..Sources::default()
        };
        if self.debug {
            sources = sources.flag("--debug", "DEFAULT", "debug", "true");
        }
        if self.admin_mode {
            sources = sources.flag("--admin_mode", "DEFAULT", "admin_mode", "true");
        }
        if self.daemon {
            sources = sources.flag("--daemon", "DEFAULT", "daemon", "true");
        }
        sources
    }
}

fn main() -> ExitCode {
    ExitCode::from(serve(Arguments::parse()))
}

fn serve(arguments: Arguments) -> u8 {
    let registry = Registry::default();
    let Loaded { settings, warnings } = match config::load(&arguments.sources(), &registry.names())
    {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return USAGE;
        }
    };
    if let Err(error) = logs::start(&settings.logging) {
        eprintln!("{error}");
        return FAILED;
    }
    for file in settings.raw().files() {
        info!(%file, "configuration read");
    }
    for warning in warnings {
        warn!("{warning}");
    }
    match serve_until_signal(&registry, &settings) {
        Ok(()) => OK,
        Err(error) => {
            error!("{}", with_causes(error.as_ref()));
            FAILED
        }
    }
}

fn serve_until_signal(registry: &Registry, settings: &config::Settings) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            info!("stopping");
            stop.cancel();
        });
        run(registry, settings, shutdown).await
    })
}

/// An error with everything below it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        text = format!("{text}: {below}");
        cause = below.source();
    }
    text
}
