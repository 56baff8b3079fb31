//! Pools: opens their stores, and composes the message store of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::pools::{Capability, Pool, masked};
use zaqar_core::storage::MessageStore;
use zaqar_core::{Clock, Secret, SystemClock};
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal};

use crate::config::{Section, Settings};
use crate::drivers::embedded;
use crate::drivers::snapshots::Snapshots;
use crate::error::{StartError, with_causes};
use crate::registry::{Registry, driver_of};
use crate::status::Status;
use crate::store::{
    OpenHere, OpenedStore, Presence, StoreContext, StoreDriver, StoreLocation, Stores,
};

/// The driver whose stores belong to one process.
const EMBEDDED: &str = "embedded";

/// How long a check waits for a store that this process is about to close: the pools notice a
/// change within 2 s, and then close what they do not need.
const CLOSING: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The pools of a server.
pub(crate) struct Pooling {
    pub(crate) registry: Arc<zaqar_pooling::Registry>,
    pub(crate) pooled: Arc<Pooled>,
}

impl Pooling {
    /// As [`Self::new`], if the settings have pools.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn if_set(
        registry: &Registry,
        settings: &Settings,
        context: &StoreContext,
        stores: &Stores,
    ) -> Result<Option<Self>, StartError> {
        settings.pooling.then(|| Self::new(registry, settings, context, stores)).transpose()
    }

    /// Pools in front of the configured stores.
    ///
    /// # Errors
    /// The location of the configured message store is invalid.
    pub(crate) fn new(
        registry: &Registry,
        settings: &Settings,
        context: &StoreContext,
        stores: &Stores,
    ) -> Result<Self, StartError> {
        let connector = PoolConnector {
            drivers: registry.store_drivers(),
            context: context.clone(),
            clock: Arc::new(SystemClock),
            configured: registry.message_location(settings)?,
            is_one_process: settings.drivers.management_store == EMBEDDED,
        };
        let (management, configured) = (Arc::clone(&stores.management), &stores.messages);
        let registry =
            zaqar_pooling::Registry::new(management, Arc::clone(configured), Arc::new(connector));
        let registry =
            Arc::new(if settings.virtual_pool { registry.with_virtual_pool() } else { registry });
        let options = Options { tasks: context.tasks.clone(), ..Options::default() };
        let pooled = Arc::new(Pooled::new(Arc::clone(&registry), options));
        Ok(Self { registry, pooled })
    }

    /// Registers the pools with the server's status and API, if there are any.
    pub(crate) fn register(
        pooling: Option<&Self>,
        status: &Status,
        options: zaqar_api::Options,
    ) -> zaqar_api::Options {
        let Some(pooling) = pooling else { return options };
        status.set_pools(Arc::clone(&pooling.pooled) as _);
        zaqar_api::Options {
            pools: Some(Arc::clone(&pooling.registry) as _),
            pool_stores: Some(Arc::clone(&pooling.pooled) as _),
            queue_moves: Some(Arc::clone(&pooling.pooled) as _),
            ..options
        }
    }

    /// The stores that spread queues over the pools where there are any.
    pub(crate) async fn spread(stores: Stores, pooling: Option<&Self>) -> Stores {
        let Some(pooling) = pooling else { return stores };
        pooling.pooled.refresh().await;
        pooling.stores(&stores)
    }

    /// The stores, with the pools as message store.
    fn stores(&self, stores: &Stores) -> Stores {
        let management = Arc::clone(&stores.management);
        Stores {
            messages: Arc::clone(&self.pooled) as _,
            management,
            is_one: false,
            message_figures: stores.message_figures.clone(),
            management_figures: stores.management_figures.clone(),
        }
    }
}

/// Opens the stores of pools by the scheme of their URIs.
struct PoolConnector {
    drivers: Vec<Arc<dyn StoreDriver>>,
    context: StoreContext,
    clock: Arc<dyn Clock>,
    /// The driver and the location of the configured message store.
    configured: (Arc<dyn StoreDriver>, StoreLocation),
    /// The management store is one that no other process can share.
    is_one_process: bool,
}

impl PoolConnector {
    fn driver(&self, pool: &Pool) -> Result<&dyn StoreDriver, Refusal> {
        let driver = driver_of(self.drivers.iter(), pool.uri.expose());
        driver.map(AsRef::as_ref).map_err(|reason| Refusal { reason })
    }

    /// Makes snapshots of a pool's store until it is closed.
    fn make_snapshots(&self, pool: &Pool, snapshots: Snapshots, store: &Arc<dyn MessageStore>) {
        let guard = self.context.tasks.guard(format!("snapshots of pool {}", pool.name));
        let store = Arc::downgrade(store);
        let closed = async move {
            // Whoever closes a store drops it.
            while store.strong_count() > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::spawn(async move {
            // Bound first, so that a panic drops it.
            let guard = guard;
            tokio::select! {
                () = snapshots.run(CancellationToken::new()) => {}
                () = closed => {}
            }
            guard.finish();
        });
    }

    /// Opens a store that this process may be closing.
    async fn open_closing(
        &self,
        driver: &dyn StoreDriver,
        location: &StoreLocation,
    ) -> Result<OpenedStore, StartError> {
        let deadline = tokio::time::Instant::now() + CLOSING;
        loop {
            match driver.open(location, &self.context).await {
                Err(error) if error.is::<OpenHere>() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                opened => return opened,
            }
        }
    }

    /// Whether two pools are the same store, as their drivers read them.
    fn compare(&self, one: &Pool, other: &Pool) -> Result<bool, StartError> {
        let (driver, second) = (self.driver(one)?, self.driver(other)?);
        if driver.schemes() != second.schemes() {
            return Ok(false);
        }
        driver.is_same_store(&location(driver, one)?, &location(second, other)?)
    }

    fn check_shared(&self, driver: &dyn StoreDriver) -> Result<(), Refusal> {
        if self.is_one_process || !driver.schemes().contains(&EMBEDDED) {
            return Ok(());
        }
        let reason = "an embedded store belongs to one process: it can only be a pool if the \
                      management store is embedded, too";
        Err(Refusal { reason: reason.to_owned() })
    }
}

#[async_trait]
impl Connector for PoolConnector {
    async fn open(&self, pool: &Pool, purpose: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        let driver = self.driver(pool)?;
        self.check_shared(driver)?;
        let location = location(driver, pool)?;
        let refusal = |error: StartError| {
            let uri = pool.uri.expose();
            Refusal { reason: with_causes(error.as_ref()).replace(uri, &masked(uri)) }
        };
        let is_embedded = driver.schemes().contains(&EMBEDDED);
        let snapshots = match is_embedded {
            true => embedded::snapshots_of_pool(&location, &self.clock).map_err(refusal)?,
            false => None,
        };
        let presence = driver.presence(&location).map_err(refusal)?;
        if purpose != Purpose::CheckNew && presence == Presence::Absent {
            let reason = "its store is gone, and an empty one would lose its queues: put the store \
                          back, or set the pool's option accept_loss to go on without it";
            return Err(Refusal { reason: reason.to_owned() });
        }
        let opened = match purpose {
            Purpose::CheckNew => self.open_closing(driver, &location).await,
            Purpose::CheckKnown | Purpose::Serve => driver.open(&location, &self.context).await,
        };
        let opened = opened.map_err(refusal)?;
        let lacks = || Refusal { reason: "its driver has no message store".to_owned() };
        let store = opened.messages.ok_or_else(lacks)?;
        // Once, rather than at each attempt to open it.
        for option in pool.options.keys().filter(|name| !is_read(driver, name)) {
            warn!(pool = pool.name.as_str(), option, "an option of a pool has no effect");
        }
        if let (Some(snapshots), Purpose::Serve) = (snapshots, purpose) {
            self.make_snapshots(pool, snapshots, &store);
        }
        Ok(store)
    }

    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability> {
        let driver = self.driver(pool);
        driver.map(|driver| driver.capabilities().iter().copied().collect()).unwrap_or_default()
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        self.compare(one, other).unwrap_or_else(|_| one.uri == other.uri)
    }

    fn is_configured_store(&self, pool: &Pool) -> bool {
        let (driver, configured) = &self.configured;
        let is_of_driver = self.driver(pool).is_ok_and(|other| other.schemes() == driver.schemes());
        is_of_driver
            && location(driver.as_ref(), pool)
                .is_ok_and(|own| driver.is_same_store(&own, configured).unwrap_or(false))
    }
}

/// Whether a driver reads an option of a pool.
fn is_read(driver: &dyn StoreDriver, name: &str) -> bool {
    name != driver.location_option() && driver.options().iter().any(|known| known.name == name)
}

/// A pool's URI and options as its driver reads them. Unknown options are ignored, as in the
/// original: some are the original's.
fn location(driver: &dyn StoreDriver, pool: &Pool) -> Result<StoreLocation, Refusal> {
    let section = format!("pool {}", pool.name);
    let mut options = Vec::new();
    for (name, value) in &pool.options {
        if !is_read(driver, name) {
            continue;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let reason = format!("option {name} must be a text, a number or a boolean");
                return Err(Refusal { reason });
            }
        };
        options.push((name.as_str(), text));
    }
    let pairs = options.iter().map(|(name, text)| (*name, text.as_str()));
    let options = Section::of_options(&section, driver.options(), pairs);
    Ok(StoreLocation { uri: Secret::new(pool.uri.expose().clone()), options })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use zaqar_core::pools::PoolName;

    use super::*;

    fn pool(uri: &str, options: &Value) -> Pool {
        Pool {
            name: PoolName::new("p").unwrap(),
            uri: Secret::new(uri.to_owned()),
            weight: 1,
            flavor: None,
            options: options.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn options_tell_pools_of_one_uri_apart() {
        let drivers = Registry::default().store_drivers();
        let redis = driver_of(drivers.iter(), "redis://configured").unwrap();
        let location = location(redis.as_ref(), &pool("redis://configured", &json!({}))).unwrap();
        let connector = PoolConnector {
            configured: (Arc::clone(redis), location),
            drivers,
            context: StoreContext::default(),
            clock: Arc::new(SystemClock),
            is_one_process: true,
        };
        let (none, unreadable) = (json!({}), json!({ "max_clock_skew": [] }));
        let mut pairs = vec![
            ("redis://a", none.clone(), "redis://a:6379", none.clone(), true),
            ("redis://a?dbid=1", none.clone(), "redis://a?dbid=2", none.clone(), false),
            ("redis://a", unreadable.clone(), "redis://a", none.clone(), true),
            ("redis://a", unreadable, "redis://a:6379", none.clone(), false),
            ("redis://a", none.clone(), "redis://a", json!({ "wait_replicas": 1 }), true),
        ];
        if cfg!(feature = "mongodb") {
            let database = |name: &str| json!({ "database": name });
            pairs.extend([
                ("mongodb://a", database("x"), "mongodb://a", database("y"), false),
                ("mongodb://a", database("x"), "mongodb://a:27017", database("x"), true),
                ("mongodb://a", database("zaqar"), "mongodb://a", none, true),
            ]);
        }
        for (one, options, other, others, is_same) in pairs {
            let (one, other) = (pool(one, &options), pool(other, &others));
            assert_eq!(connector.is_same_store(&one, &other), is_same, "{one:?} {other:?}");
            assert_eq!(connector.is_same_store(&other, &one), is_same, "{other:?} {one:?}");
        }
    }
}
