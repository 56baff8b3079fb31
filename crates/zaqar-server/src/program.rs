//! A whole program: command line, logs, signals, exit codes.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Loaded};
use crate::registry::{Registry, StartError};
use crate::run::{run, with_causes};
use crate::{arguments, logs};

/// Nothing went wrong.
const OK: u8 = 0;
/// The server could not start or stop as it should.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;

/// What the binary does, with what is registered: reads the command line and the configuration, logs, and serves until SIGTERM or
/// SIGINT. SIGHUP opens the log file again.
///
/// The exit code is 0 after a stop, 1 when the server could not start or stop as it should, 2 when the command line or the
/// configuration is wrong; standard error says what.
pub fn main(registry: &Registry) -> ExitCode {
    ExitCode::from(serve(registry))
}

fn serve(registry: &Registry) -> u8 {
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
    match serve_until_signal(registry, &settings, log_file) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use zaqar_core::storage::{ManagementStore, MessageStore};
    use zaqar_storage_testkit::Memory;

    use crate::config::{self, Settings, Sources};
    use crate::{Registry, StartError, StoreDriver, Stores};

    struct Driver;

    #[async_trait]
    impl StoreDriver for Driver {
        async fn management(&self, _: &Settings) -> Result<Arc<dyn ManagementStore>, StartError> {
            Ok(Arc::new(Memory::new()))
        }

        async fn messages(&self, _: &Settings) -> Result<Arc<dyn MessageStore>, StartError> {
            Ok(Arc::new(Memory::new()))
        }

        async fn both(&self, settings: &Settings) -> Result<Stores, StartError> {
            let section = settings.driver_section("drivers:message_store:mine");
            Err(section.text("path")?.unwrap_or_default().into())
        }
    }

    #[tokio::test]
    async fn a_store_of_ones_own_is_chosen_by_its_name() {
        let registry = Registry::default().store("mine", Arc::new(Driver));
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
            config::load(&sources, &registry.names()).unwrap().settings
        };
        let both = "[drivers]\nmessage_store = mine\nmanagement_store = mine\n";
        let settings = load(&format!("{both}[drivers:message_store:mine]\npath = its own\n"));
        let opened = registry.open_stores(&settings).await;
        assert_eq!(opened.err().unwrap().to_string(), "its own");

        let directory = tempfile::tempdir().unwrap();
        let one = format!(
            "[drivers]\nmessage_store = embedded\nmanagement_store = mine\n\
             [drivers:message_store:embedded]\npath = {}\n",
            directory.path().join("data").display()
        );
        let stores = registry.open_stores(&load(&one)).await.unwrap();
        stores.management.ping().await.unwrap();
        stores.messages.shut_down().await.unwrap();
    }
}
