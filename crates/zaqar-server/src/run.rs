//! The server from its settings to its end.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_api::{Api, Keyring, Options, Sweeper};
use zaqar_core::{Clock, SystemClock};

use crate::config::{self, AuthStrategy, Settings};
use crate::registry::{Registry, StartError, Stores};

/// Serves as the settings say until `shutdown`; then answers what was accepted and closes the stores.
///
/// # Errors
/// What keeps the server from starting: a store that cannot be opened, an address that cannot be had, a setting that this build does
/// not serve. Once it serves, only a store that cannot be closed.
pub async fn run(
    registry: &Registry,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    check_served(settings)?;
    let opened = tokio::select! {
        // A store that is away is waited for, which is no reason to make a stop wait.
        () = shutdown.cancelled() => return Ok(()),
        opened = registry.open_stores(settings) => opened?,
    };
    let Stores { management, messages } = opened;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let options = Options {
        limits: settings.limits.clone(),
        clock: Arc::clone(&clock),
        checksums: settings.enable_checksum,
        signing_key: settings.signed_url_key.clone(),
        keyring: keyring(settings),
        ..Options::default()
    };
    let api = Api::new(Arc::clone(&management), Arc::clone(&messages), options);
    let transports = registry.bind_transports(&api, settings).await?;

    // Sweepers go on until the last request is answered.
    let sweeping = CancellationToken::new();
    let mut sweepers = JoinSet::new();
    sweepers.spawn(Sweeper::new(messages.clone(), Arc::clone(&clock)).run(sweeping.clone()));
    if settings.drivers.management_store != settings.drivers.message_store {
        sweepers.spawn(Sweeper::new(management.clone(), clock).run(sweeping.clone()));
    }
    let mut serving = JoinSet::new();
    for transport in transports {
        info!(address = transport.address(), "serving");
        serving.spawn(transport.run(shutdown.clone()));
    }
    while let Some(ended) = serving.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a transport failed");
            shutdown.cancel();
        }
    }
    // What connections did not end one by one goes with this server's lease.
    api.stop_pushes().await;
    sweeping.cancel();
    while sweepers.join_next().await.is_some() {}
    messages.shut_down().await?;
    management.shut_down().await?;
    info!("stopped");
    Ok(())
}

/// Refuses settings that would change who may do what if they were passed over.
fn check_served(settings: &Settings) -> Result<(), config::Error> {
    let default = settings.driver_section("DEFAULT");
    if settings.auth_strategy == AuthStrategy::Keystone {
        let allowed =
            "empty: this build has no Keystone support, and would let anybody in without it";
        return Err(default.invalid("auth_strategy", allowed));
    }
    if settings.pooling {
        let allowed = "false: this build has no pools, and would put queues into the wrong store without them";
        return Err(default.invalid("pooling", allowed));
    }
    Ok(())
}

/// The keys that seal bodies. One that cannot be used is no key: queues that ask for encryption are then refused, others are served.
fn keyring(settings: &Settings) -> Option<Arc<Keyring>> {
    let option = settings.message_encryption_key.as_ref()?;
    match Keyring::parse(option) {
        Ok(keyring) => Some(Arc::new(keyring)),
        Err(error) => {
            let origin = settings.raw().origin("transport", "message_encryption_key");
            warn!(%error, %origin, "[transport] message_encryption_key is not used; no queue can be encrypted");
            None
        }
    }
}

/// An error with everything below it, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Some errors show their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
