//! How a driver's tests hand their store to the kit.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{ManagementStore, MessageStore};

/// Opens the stores to test. Its methods panic where a store cannot be had: that is a failed test.
#[async_trait]
pub trait Factory: Send + Sync + 'static {
    /// Opens the store of this name: an empty one, or, where [`About::keeps`] is set and the name
    /// was opened before, what that kept.
    ///
    /// A name has at most 40 characters of `[a-z0-9_]`, so that it can name a directory, a database
    /// or a prefix of keys. The kit uses a name for one test and never again.
    async fn open(&self, name: &str) -> Stores;

    /// Throws away what is kept under a name. Called when a test has passed.
    async fn discard(&self, name: &str);

    /// What the kit may expect of the stores.
    fn about(&self) -> About;
}

/// The two roles of a store. A driver of one role fills the other with [`crate::Memory`].
#[derive(Clone)]
pub struct Stores {
    /// Keeps queue rows.
    pub management: Arc<dyn ManagementStore>,
    /// Keeps heads, messages and claims.
    pub messages: Arc<dyn MessageStore>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

/// What the kit may expect of a factory's stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// A store that is shut down and opened again under its name shows what it held.
    pub keeps: bool,
    /// All names are one store, told apart by project ids alone. A sweep at one test's time then
    /// touches another's messages, so the kit runs one test after the other, each later in time
    /// than the one before: mind that it can do so within one process only.
    pub shared: bool,
    /// A queue whose latest time lies more than [`MAX_CLOCK_SKEW`] ahead of the `now` of a call
    /// goes on at that `now`. Not so where the store compares `now` with a clock of its own: that
    /// has tests of its own with its driver.
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
