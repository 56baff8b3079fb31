//! `zaqar-server`: command line, signals, exit codes.

mod arguments;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_server::config::{self, Loaded};
use zaqar_server::{Registry, StartError, logs, run, with_causes};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Nothing went wrong.
const OK: u8 = 0;
/// The server could not start or stop as it should.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    ExitCode::from(serve())
}

fn serve() -> u8 {
    let registry = Registry::default();
    let Loaded { settings, warnings } = match config::load(&arguments::sources(), &registry.names())
    {
        Ok(loaded) => loaded,
        Err(errors) => {
            say(&errors);
            return USAGE;
        }
    };
    let log_file = match logs::start(&settings.logging) {
        Ok(log_file) => log_file,
        Err(error) => {
            say(&error);
            return FAILED;
        }
    };
    for file in settings.raw().files() {
        info!(%file, "configuration read");
    }
    for warning in warnings {
        warn!(%warning, "odd configuration");
    }
    match serve_until_signal(&registry, &settings, log_file) {
        Ok(()) => OK,
        Err(error) => {
            let text = with_causes(error.as_ref());
            error!(error = text, "the server cannot go on");
            if settings.logging.file.is_some() && !settings.logging.stderr {
                say(&text);
            }
            // Some values only their driver can judge.
            if error.is::<config::Error>() { USAGE } else { FAILED }
        }
    }
}

/// Tells whoever started the server, before there is a log; that nobody may be listening is no reason to fail otherwise.
fn say(what: &dyn Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn serve_until_signal(
    registry: &Registry,
    settings: &config::Settings,
    log_file: Option<logs::LogFile>,
) -> Result<(), StartError> {
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
        if let Some(file) = log_file {
            reopen_on_hangup(file)?;
        }
        run(registry, settings, shutdown).await
    })
}

/// Who rotates logs renames the file and sends SIGHUP.
fn reopen_on_hangup(file: logs::LogFile) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match file.reopen() {
                Ok(()) => info!("log file opened again"),
                Err(error) => error!(%error, "the log file cannot be opened again"),
            }
        }
    });
    Ok(())
}
