//! How the stores of pools are opened: the server knows the drivers.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::pools::{Capability, Pool};
use zaqar_core::storage::MessageStore;

/// Why a pool's store cannot be opened. Its text has no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What is wrong.
    pub reason: String,
}

/// Opens the stores of pools.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Opens the store of a pool. The caller shuts it down.
    ///
    /// # Errors
    /// A URI or an option that no driver takes, a store that cannot be opened.
    async fn open(&self, pool: &Pool) -> Result<Arc<dyn MessageStore>, Refusal>;

    /// What the store at a pool's URI can do; empty for a URI that no driver opens.
    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability>;

    /// Whether two pools are one store.
    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool;
}
