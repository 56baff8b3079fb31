//! In-memory pools and pools on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Map;
use zaqar_core::pools::{Capability, FlavorName, Pool, PoolName, Pools};
use zaqar_core::storage::{MessageStore, Queues};
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName, Secret};
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal, Registry};
use zaqar_storage_embedded::Embedded;
use zaqar_storage_testkit::{Fault, Memory};

/// Opens `memory:NAME`, one store for each name, `disk:PATH`, `immovable:`, and nothing else.
#[derive(Default)]
pub(crate) struct Places {
    stores: Mutex<BTreeMap<String, Arc<Memory>>>,
    /// The fault of the in-memory stores.
    fault: Option<Fault>,
}

impl Places {
    pub(crate) fn with_fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    pub(crate) fn memory(&self, uri: &str) -> Arc<Memory> {
        let mut stores = self.stores.lock().unwrap();
        let new = || Arc::new(self.fault.map_or_else(Memory::new, Memory::with_fault));
        Arc::clone(stores.entry(uri.to_owned()).or_insert_with(new))
    }
}

#[async_trait]
impl Connector for Places {
    async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        let uri = pool.uri.expose();
        if uri.starts_with("memory:") {
            // A connection of its own, so that closing it does not close the store.
            return Ok(Arc::new(self.memory(uri).connect()));
        }
        if uri == "immovable:" {
            return Ok(Arc::new(Memory::immovable()));
        }
        let path = uri.strip_prefix("disk:").map(PathBuf::from);
        let path = path.ok_or_else(|| Refusal { reason: "nothing is there".to_owned() })?;
        let opened = Embedded::open(zaqar_storage_embedded::Options::new(&path));
        opened
            .map(|store| Arc::new(store) as _)
            .map_err(|error| Refusal { reason: error.to_string() })
    }

    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability> {
        let durable = pool.uri.expose().starts_with("disk:").then_some(Capability::Durability);
        BTreeSet::from_iter([Capability::Fifo, Capability::Claims].into_iter().chain(durable))
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        let is_same_option = one.options.get("database") == other.options.get("database");
        is_same_option && one.uri.expose().to_lowercase() == other.uri.expose().to_lowercase()
    }

    fn is_configured_store(&self, pool: &Pool) -> bool {
        pool.uri.expose() == "memory:configured" && !pool.options.contains_key("database")
    }
}

/// Opens the stores of a server that dies after a number of calls.
struct Dying {
    places: Arc<Places>,
    calls_left: Arc<AtomicI64>,
}

#[async_trait]
impl Connector for Dying {
    async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        let store = self.places.memory(pool.uri.expose());
        Ok(Arc::new(store.connect_for(self.calls_left.clone())))
    }

    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability> {
        self.places.capabilities(pool)
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        self.places.is_same_store(one, other)
    }

    fn is_configured_store(&self, pool: &Pool) -> bool {
        self.places.is_configured_store(pool)
    }
}

/// A deployment: a management store, a configured message store, and what its servers share.
#[derive(Clone)]
pub(crate) struct Deployment {
    pub(crate) management: Arc<Memory>,
    pub(crate) configured: Arc<Memory>,
    pub(crate) places: Arc<Places>,
    pub(crate) has_virtual_pool: bool,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        Self {
            management: Arc::new(Memory::new()),
            configured: Arc::new(Memory::new()),
            places: Arc::default(),
            has_virtual_pool: false,
        }
    }

    pub(crate) fn registry(&self) -> Registry {
        let (management, configured) = (self.management.clone(), self.configured.clone());
        self.virtual_or_not(Registry::new(management, configured, self.places.clone()))
    }

    fn virtual_or_not(&self, registry: Registry) -> Registry {
        if self.has_virtual_pool { registry.with_virtual_pool() } else { registry }
    }

    /// Another server of the deployment.
    pub(crate) async fn server(&self) -> Arc<Pooled> {
        self.server_with(Options::default()).await
    }

    pub(crate) async fn server_with(&self, options: Options) -> Arc<Pooled> {
        let pooled = Arc::new(Pooled::new(Arc::new(self.registry()), options));
        pooled.refresh().await;
        pooled
    }

    /// Another server of the deployment, which dies after a number of calls to stores.
    pub(crate) async fn dying_server(&self, calls_left: Arc<AtomicI64>) -> Arc<Pooled> {
        let management = Arc::new(self.management.connect_for(calls_left.clone()));
        let configured = Arc::new(self.configured.connect_for(calls_left.clone()));
        let places = Dying { places: self.places.clone(), calls_left };
        let registry = Registry::new(management, configured, Arc::new(places));
        let registry = self.virtual_or_not(registry);
        let pooled = Arc::new(Pooled::new(Arc::new(registry), Options::default()));
        pooled.refresh().await;
        pooled
    }

    pub(crate) async fn with_pools(uris: &[(&str, u32)]) -> Self {
        Self::new().and_pools(uris).await
    }

    /// The number of rows of the catalogue for queues of project `p`.
    pub(crate) async fn catalogue_rows(&self) -> u64 {
        let (management, project) = (self.management.as_ref(), catalogue());
        Queues::count(management, &project, Kind::Internal).await.unwrap()
    }

    /// Registers more pools.
    pub(crate) async fn and_pools(self, uris: &[(&str, u32)]) -> Self {
        for (uri, weight) in uris {
            let name = uri.rsplit([':', '/']).next().unwrap();
            self.registry().put_pool(pool(name, uri, *weight)).await.unwrap();
        }
        self
    }
}

/// The project of the rows of the catalogue for queues of project `p`.
pub(crate) fn catalogue() -> ProjectId {
    // SHA-256 of "p".
    let digest = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
    project(&format!("zaqar.catalogue/queue/{digest}"))
}

pub(crate) fn pool(name: &str, uri: &str, weight: u32) -> Pool {
    Pool {
        name: PoolName::new(name).unwrap(),
        uri: Secret::new(uri.to_owned()),
        weight,
        flavor: None,
        options: Map::new(),
    }
}

pub(crate) fn pool_name(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

pub(crate) fn flavor(name: &str) -> FlavorName {
    FlavorName::new(name).unwrap()
}

pub(crate) fn project(id: &str) -> ProjectId {
    ProjectId::new(id).unwrap()
}

pub(crate) fn queue(name: &str) -> QueueKey {
    QueueKey { project: project("p"), kind: Kind::Queue, name: QueueName::new(name).unwrap() }
}
