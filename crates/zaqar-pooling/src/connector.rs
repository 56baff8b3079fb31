//! Opens the stores of pools; implemented by the server, which knows the drivers.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::pools::{Capability, Pool};
use zaqar_core::storage::MessageStore;

/// Why a pool's store cannot be opened. The text has no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The cause.
    pub reason: String,
}

/// What a pool's store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To check a pool that is new, or gets another store: the store may be created. It is closed
    /// at once.
    CheckNew,
    /// To check a pool that keeps its store, which must exist. It is closed at once.
    CheckKnown,
    /// To serve the requests of a registered pool. Its store was there when the pool was
    /// registered, so it must exist.
    Serve,
}

/// Opens the stores of pools.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Opens the store of a pool. The caller shuts it down.
    ///
    /// # Errors
    /// The URI or an option is not supported, or the store cannot be opened. A store that must
    /// exist and is known not to is not replaced by an empty one.
    async fn open(&self, pool: &Pool, purpose: Purpose) -> Result<Arc<dyn MessageStore>, Refusal>;

    /// The capabilities of the store at a pool's URI; empty if no driver opens the URI.
    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability>;

    /// Whether two pools are the same store. Options may tell pools of one URI apart.
    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool;

    /// Whether a pool is the configured message store.
    fn is_configured_store(&self, pool: &Pool) -> bool;
}
