//! Deployments with a pool on each server and one on disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Map;
use tempfile::TempDir;
use zaqar_core::Secret;
use zaqar_core::pools::{Capability, Pool, PoolChange, PoolName, PoolStores, Pools};
use zaqar_core::storage::MessageStore;
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal, Registry};
use zaqar_storage_embedded::Embedded;
use zaqar_storage_mongo::Mongo;
use zaqar_storage_redis::Redis;
use zaqar_storage_testkit::{About, Factory, Memory, Stores};

use crate::servers::{REDIS, mongo_uri};

/// The timeout for a server: these tests are not about time.
const TIMEOUT: Duration = Duration::from_secs(100);

/// The pools, each named after its server.
pub(crate) const POOLS: [&str; 4] = ["redis0", "redis1", "mongodb", "disk"];

static DISK: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().unwrap());

/// Opens the stores of one test, kept apart from those of other tests by its name.
pub(crate) struct Places {
    name: String,
    /// Whether pools are being registered. Registering opens each store as a check, which these
    /// tests skip.
    is_registering: AtomicBool,
}

impl Places {
    pub(crate) fn new(name: String) -> Self {
        Self { name, is_registering: AtomicBool::new(true) }
    }

    pub(crate) async fn redis(&self, server: usize) -> Redis {
        let mut options =
            zaqar_storage_redis::Options::new(&format!("redis://127.0.0.1:{}", REDIS[server].port))
                .unwrap();
        options.prefix.clone_from(&self.name);
        // Tests have clocks of their own.
        options.max_clock_skew = None;
        options.uri.socket_timeout = TIMEOUT;
        Redis::open(options).await.unwrap()
    }

    pub(crate) async fn mongo(&self) -> Mongo {
        let options = zaqar_storage_mongo::Options {
            deadline: TIMEOUT,
            command_timeout: TIMEOUT,
            max_clock_skew: None,
            ..zaqar_storage_mongo::Options::new(mongo_uri(&self.name), &self.name)
        };
        Mongo::open(options).await.unwrap()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        DISK.path().join(&self.name)
    }
}

#[async_trait]
impl Connector for Places {
    async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        if self.is_registering.load(Ordering::Relaxed) {
            return Ok(Arc::new(Memory::new()));
        }
        Ok(match pool.name.as_str() {
            "redis0" => Arc::new(self.redis(0).await),
            "redis1" => Arc::new(self.redis(1).await),
            "mongodb" => Arc::new(self.mongo().await),
            _ => {
                let options = zaqar_storage_embedded::Options::new(self.disk());
                let reason = |error| Refusal { reason: format!("{error}") };
                Arc::new(Embedded::open(options).map_err(reason)?)
            }
        })
    }

    fn capabilities(&self, _: &Pool) -> BTreeSet<Capability> {
        BTreeSet::from([Capability::Fifo, Capability::Claims])
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        one.name == other.name
    }

    fn is_configured_store(&self, _: &Pool) -> bool {
        false
    }
}

/// A deployment of one name: its rows are on the first Redis server.
pub(crate) struct Deployment {
    pub(crate) management: Arc<Redis>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) pooled: Arc<Pooled>,
}

impl Deployment {
    /// Opens it, with all pools.
    pub(crate) async fn open(name: &str) -> Self {
        let places = Arc::new(Places::new(name.to_owned()));
        let management = Arc::new(places.redis(0).await);
        // Not the store that is a pool.
        let configured = Arc::new(Places::new(format!("{name}_c")).redis(0).await);
        let registry = Arc::new(Registry::new(management.clone(), configured, places.clone()));
        if registry.pools(None, 1).await.unwrap().is_empty() {
            for name in POOLS {
                let pool = Pool {
                    name: PoolName::new(name).unwrap(),
                    uri: Secret::new(format!("{name}:")),
                    weight: 1,
                    flavor: None,
                    options: Map::new(),
                };
                registry.put_pool(pool).await.unwrap();
            }
        }
        places.is_registering.store(false, Ordering::Relaxed);
        let options =
            Options { answer_timeout: TIMEOUT, dead_letter_wait: TIMEOUT, ..Options::default() };
        let pooled = Arc::new(Pooled::new(registry.clone(), options));
        pooled.refresh().await;
        let opened = async {
            while pooled.statuses().iter().any(|pool| pool.problem.is_some()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, opened).await.unwrap();
        Self { management, registry, pooled }
    }

    /// Makes one pool take all new queues.
    pub(crate) async fn prefer(&self, pool: &str) {
        for name in POOLS {
            let weight = Some(u32::from(name == pool));
            let change = PoolChange { weight, ..PoolChange::default() };
            self.registry.change_pool(&PoolName::new(name).unwrap(), change).await.unwrap();
        }
    }
}

/// A deployment for each test of the kit.
pub(crate) struct Deployments;

#[async_trait]
impl Factory for Deployments {
    async fn open(&self, name: &str) -> Stores {
        let deployment = Deployment::open(name).await;
        Stores { management: deployment.management, messages: deployment.pooled }
    }

    async fn discard(&self, name: &str) {
        // The servers end with the tests.
        let _ = std::fs::remove_dir_all(Places::new(name.to_owned()).disk());
    }

    fn about(&self) -> About {
        About { keeps: true, shared: false, repairs_time: false }
    }
}
