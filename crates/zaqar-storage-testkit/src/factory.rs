//! How a driver's tests provide their store to the kit.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{ManagementStore, MessageStore};

/// Opens the stores to test. Its methods panic if a store cannot be opened, which fails the test.
#[async_trait]
pub trait Factory: Send + Sync + 'static {
    /// Opens the store of this name. It is empty, unless [`About::keeps`] is set and the name was
    /// opened before.
    ///
    /// A name has at most 40 characters of `[a-z0-9_]`, so that it can name a directory, a database
    /// or a prefix of keys. The kit uses each name for one test only.
    async fn open(&self, name: &str) -> Stores;

    /// Deletes the store of a name. Called when a test has passed.
    async fn discard(&self, name: &str);

    /// Properties of the stores.
    fn about(&self) -> About;
}

/// The two roles of a store. A driver with one role uses [`crate::Memory`] for the other.
#[derive(Clone)]
pub struct Stores {
    /// Stores queue rows.
    pub management: Arc<dyn ManagementStore>,
    /// Stores the contents of queues.
    pub messages: Arc<dyn MessageStore>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

/// Properties of a factory's stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Whether a store that is shut down and opened again under its name still has its contents.
    pub keeps: bool,
    /// Whether all names are the same store, separated only by project ids. A sweep with one test's
    /// time then affects another's messages, so the kit runs one test at a time, each at a later
    /// time than the one before. It can do so within one process only.
    pub shared: bool,
    /// Whether a queue whose latest time is more than [`MAX_CLOCK_SKEW`] ahead of the `now` of a
    /// call is reset to that `now`. Not for stores that compare `now` with their own clock: their
    /// drivers test this themselves.
    ///
    /// [`MAX_CLOCK_SKEW`]: zaqar_core::storage::MAX_CLOCK_SKEW
    pub repairs_time: bool,
}

impl Stores {
    /// One object for both roles.
    pub fn both<S: ManagementStore + MessageStore + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self { management: store.clone(), messages: store }
    }
}
