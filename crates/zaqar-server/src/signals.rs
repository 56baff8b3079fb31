//! Signals of the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::reload::Reloader;
use crate::report::Reporter;
use crate::service_manager;
use crate::status::Phase;

/// The handled signals. Without a handler, each of them kills the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Installs the handlers; signals before [`Signals::handle`] wait for it. Needs a runtime.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// SIGTERM and SIGINT stop the server; SIGHUP reloads the configuration and reopens the log
    /// file; SIGUSR2 requests a report; SIGUSR1 does nothing. Never returns.
    pub(crate) async fn handle(
        mut self,
        stop: CancellationToken,
        mut reloader: Reloader,
        reporter: Reporter,
    ) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => stop_at("SIGTERM", &stop),
                _ = self.interrupt.recv() => stop_at("SIGINT", &stop),
                _ = self.hangup.recv() => {
                    // READY would be wrong before the server serves and once it stops.
                    let serves =
                        || !stop.is_cancelled() && reporter.status().phase() == Phase::Serving;
                    match reload(reloader, serves).await {
                        Some(done) => reloader = done,
                        None => return,
                    }
                }
                _ = self.user1.recv() => ignore("SIGUSR1"),
                _ = self.user2.recv() => reporter.request(),
            }
        }
    }
}

/// Runs on a blocking thread, because files may be on a slow disk. The service manager is notified
/// while the server serves. `None` if the reload panicked, which stops the server.
async fn reload(mut reloader: Reloader, serves: impl Fn() -> bool) -> Option<Reloader> {
    let is_notified = serves();
    if is_notified {
        service_manager::reloading();
    }
    let reloaded = tokio::task::spawn_blocking(move || {
        reloader.reload();
        reloader
    });
    let reloaded = reloaded.await;
    if is_notified && serves() {
        service_manager::reloaded();
    }
    reloaded.inspect_err(|error| error!(%error, "the configuration was not reloaded")).ok()
}

fn stop_at(signal: &str, stop: &CancellationToken) {
    if !stop.is_cancelled() {
        service_manager::stopping();
        info!(signal, "stopping");
    }
    stop.cancel();
}

fn ignore(signal: &str) {
    info!(signal, "signal ignored");
}
