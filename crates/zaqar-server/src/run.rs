//! The server from its settings to its end.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_api::{Api, Keyring, Options, Sweeper};
use zaqar_core::{Clock, SystemClock};

use crate::config::{AuthStrategy, Settings};
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
    let Stores { management, messages } = registry.open_stores(settings).await?;
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
fn check_served(settings: &Settings) -> Result<(), StartError> {
    if settings.auth_strategy == AuthStrategy::Keystone {
        return Err(
            "[DEFAULT] auth_strategy = keystone: this build has no Keystone support; serving \
                    without it would let anybody in, so the server does not start"
                .into(),
        );
    }
    if settings.pooling {
        return Err(
            "[DEFAULT] pooling = True: this build has no pools; serving without them would \
                    put queues into the wrong store, so the server does not start"
                .into(),
        );
    }
    Ok(())
}

/// The keys that seal bodies. One that cannot be used is no key: queues that ask for encryption are then refused, others are served.
fn keyring(settings: &Settings) -> Option<Arc<Keyring>> {
    let option = settings.message_encryption_key.as_ref()?;
    match Keyring::parse(option) {
        Ok(keyring) => Some(Arc::new(keyring)),
        Err(error) => {
            warn!(
                "[transport] message_encryption_key is not used: {error}; no queue can be encrypted"
            );
            None
        }
    }
}
