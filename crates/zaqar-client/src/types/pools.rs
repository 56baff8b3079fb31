//! Pools, flavors and health.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Link, Object};
use crate::auth::Stars;

/// A store that takes a share of the queues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Where it is, with stars for passwords.
    pub uri: String,
    /// Its share of new queues.
    pub weight: u64,
    /// The flavor that it belongs to.
    #[serde(default)]
    pub flavor: Option<String>,
    /// Options of its driver, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Object>,
    /// Its path.
    pub href: String,
}

/// What to register or change of a pool. A new one needs an address and a weight.
#[derive(Clone, Default, PartialEq, Serialize)]
pub struct PoolChange {
    /// Where the store is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Its share of new queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// The flavor that it belongs to; none, where it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// Options of its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Object>,
}

impl fmt::Debug for PoolChange {
    /// An address may have a password: it prints as stars.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolChange")
            .field("uri", &self.uri.as_ref().map(|_| Stars))
            .field("weight", &self.weight)
            .field("flavor", &self.flavor)
            .field("options", &self.options)
            .finish()
    }
}

/// A queue to move to a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueToMove {
    /// Its name.
    pub queue_name: String,
    /// `topic`, or `queue` where it is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its project; the caller's where it is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// A queue on its way to another pool, or one that was some minutes ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMove {
    /// Its name.
    pub queue_name: String,
    /// `queue` or `topic`.
    pub kind: String,
    /// Its project.
    pub project: String,
    /// The pool that it leaves; `None` for the store that is configured.
    pub from: Option<String>,
    /// The pool that it goes to; `None` for the store that is configured.
    pub to: Option<String>,
    /// `copying`, `moved`, `undoing` or `failed`.
    pub state: String,
    /// Rows that were copied.
    pub rows: u64,
    /// When it began.
    pub began: String,
    /// Why it failed.
    pub problem: Option<String>,
}

/// What the drain of a pool has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDrain {
    /// Whether the pool is drained.
    pub draining: bool,
    /// Queues that are still in it, counted to 100.
    pub queues_left: u64,
    /// Whether there are more.
    pub more: bool,
    /// Moves from the pool and to it.
    pub moves: Vec<QueueMove>,
}

/// A project's name for some of the pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavor {
    /// Its name.
    pub name: String,
    /// The pools.
    #[serde(default)]
    pub pool_list: Vec<String>,
    /// What the pools can do, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Its path.
    pub href: String,
}

/// What the server found when it tried every operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Health {
    /// Of a server with one store.
    Store(StoreHealth),
    /// Of a server with pools.
    Pools(PoolsHealth),
}

impl Health {
    /// Whether the store, or the catalogue and every pool, can be reached.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Store(store) => store.storage_reachable,
            Self::Pools(all) => {
                all.catalog_reachable && all.pools.values().all(|pool| pool.storage_reachable)
            }
        }
    }
}

/// What came of trying every operation on each pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolsHealth {
    /// Whether the configured stores and every pool can be reached.
    pub catalog_reachable: bool,
    /// What is wrong with the server and the configured stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The pools by name.
    #[serde(flatten)]
    pub pools: BTreeMap<String, StoreHealth>,
}

/// What came of trying every operation on one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreHealth {
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Whether the store can be reached.
    pub storage_reachable: bool,
    /// Every operation by its name; empty where the store cannot be reached.
    pub operation_status: BTreeMap<String, OperationStatus>,
    /// What the store holds, where it can tell.
    #[serde(default)]
    pub message_volume: Option<MessageVolume>,
}

/// How an operation went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Whether it worked.
    pub succeeded: bool,
    /// How long it took.
    pub seconds: f64,
    /// What went wrong.
    #[serde(rename = "ref")]
    pub failure: Option<String>,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageVolume {
    /// Messages that no claim holds.
    pub free: u64,
    /// Messages that a claim holds.
    pub claimed: u64,
    /// All.
    pub total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PoolList {
    pub(crate) pools: Vec<Pool>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FlavorList {
    pub(crate) flavors: Vec<Flavor>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}
