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

/// Opens the stores of pools.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Opens the store of a pool. The caller shuts it down.
    ///
    /// # Errors
    /// The URI or an option is not supported, or the store cannot be opened.
    async fn open(&self, pool: &Pool) -> Result<Arc<dyn MessageStore>, Refusal>;

    /// The capabilities of the store at a pool's URI; empty if no driver opens the URI.
    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability>;

    /// Whether two pools are the same store. Options may tell pools of one URI apart.
    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool;

    /// Whether a pool is the configured message store.
    fn is_configured_store(&self, pool: &Pool) -> bool;
}
