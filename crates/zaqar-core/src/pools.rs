//! Pools and flavors, which an administrator registers to spread queues over several message
//! stores.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::storage::MessageStore;
use crate::{NameError, ProjectId, QueueKey, QueueName, Secret, Timestamp, storage};

/// The maximum number of pools of a deployment: all of them are one row of the management store.
pub const MAX_POOLS: usize = 256;
/// The maximum number of flavors of a project.
pub const MAX_FLAVORS: u64 = 1000;
/// The maximum size of a pool's options as JSON text, in bytes.
pub const MAX_OPTIONS: usize = 4096;
/// The maximum length of a pool's URI in characters, as in the original.
pub const MAX_URI: usize = 255;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(QueueName);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// As [`QueueName::new`].
            pub fn new(name: &str) -> Result<Self, NameError> {
                QueueName::new(name).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The name as the name of a row in the management store.
            pub const fn as_row_name(&self) -> &QueueName {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
name! {
    /// The name of a pool: 1 to 64 characters of `[a-zA-Z0-9_.-]`.
    PoolName
}
name! {
    /// The name of a flavor: 1 to 64 characters of `[a-zA-Z0-9_.-]`.
    FlavorName
}

impl From<QueueName> for FlavorName {
    /// The row of a flavor has the flavor's name.
    fn from(name: QueueName) -> Self {
        Self(name)
    }
}

/// Capabilities of a pool's store, with the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// First in, first out.
    Fifo,
    /// Claims.
    Claims,
    /// Acknowledged data survives a restart of the store.
    Durability,
    /// Delivery at least once.
    Aod,
    /// Built for many operations per second.
    HighThroughput,
}

impl Capability {
    /// Its name in requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fifo => "FIFO",
            Self::Claims => "CLAIMS",
            Self::Durability => "DURABILITY",
            Self::Aod => "AOD",
            Self::HighThroughput => "HIGH_THROUGHPUT",
        }
    }
}

/// A pool: a message store that takes a share of the queues.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// The location of the store. It may contain a password: show it [`masked`] only.
    pub uri: Secret<String>,
    /// Its share of new queues, relative to the other pools' weights; with 0 it gets none.
    pub weight: u32,
    /// The flavor that it belongs to; without one it gets queues without a flavor.
    pub flavor: Option<FlavorName>,
    /// Options of the store's driver.
    pub options: Map<String, Value>,
}

/// A change of a pool; `None` keeps the old value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolChange {
    /// The new location.
    pub uri: Option<Secret<String>>,
    /// The new weight.
    pub weight: Option<u32>,
    /// The new flavor, or none.
    pub flavor: Option<Option<FlavorName>>,
    /// The new options, which replace all old ones.
    pub options: Option<Map<String, Value>>,
}

/// A flavor: a project's name for some of the pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flavor {
    /// Its name.
    pub name: FlavorName,
    /// Its pools, by name.
    pub pools: Vec<PoolName>,
    /// The capabilities that all of them have.
    pub capabilities: BTreeSet<Capability>,
}

/// Why a change of pools or flavors failed, or no pool could be assigned to a queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such pool.
    #[error("Pool {name} does not exist")]
    PoolNotFound {
        /// The name.
        name: PoolName,
    },
    /// No such flavor in the project.
    #[error("Flavor {name} does not exist")]
    FlavorNotFound {
        /// The name.
        name: FlavorName,
    },
    /// The pool's store cannot be opened or cannot be used as a pool.
    #[error("cannot connect to {uri}: {reason}")]
    Unreachable {
        /// The URI, masked.
        uri: String,
        /// Why; without secrets.
        reason: String,
    },
    /// Another pool is the same store.
    #[error("The database URI is in use by another pool.")]
    UriInUse,
    /// The store is the configured message store.
    #[error(
        "The database URI is that of the configured message store, which takes queues as the \
         virtual pool (enable_virtual_pool)."
    )]
    UriOfMessageStore,
    /// The pools of a flavor must have the same capabilities.
    #[error("The pool being added does not support the minimum set of capabilities")]
    CapabilitiesMismatch,
    /// The pool is the last of its flavor.
    #[error("This pool is used by flavors {flavor}; It cannot be deleted.")]
    LastOfFlavor {
        /// The flavor.
        flavor: FlavorName,
    },
    /// The limit is reached.
    #[error("there are {max} {what} already, which is the limit")]
    TooMany {
        /// `pools` or `flavors of the project`.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The queue is not in any pool.
    #[error("Queue {name} does not exist")]
    QueueNotFound {
        /// The name.
        name: QueueName,
    },
    /// The queue cannot be moved, or the pool cannot be drained.
    #[error("{reason}")]
    CannotMove {
        /// Why; without secrets.
        reason: String,
    },
    /// Concurrent changes of the pools won every retry of this change.
    #[error("too many concurrent changes of the pools")]
    Contended,
    /// The management store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// The pools of a deployment, the flavors of its projects, and which pool has which queue.
#[async_trait]
pub trait Pools: Send + Sync {
    /// Pools after a name, by name, at most `limit`.
    async fn pools(&self, after: Option<&str>, limit: usize) -> Result<Vec<Pool>, Error>;

    /// Reads a pool; [`Error::PoolNotFound`] if there is none.
    async fn pool(&self, name: &PoolName) -> Result<Pool, Error>;

    /// Registers a pool, or replaces the one of that name.
    ///
    /// # Behavior
    /// - The store cannot be opened: [`Error::Unreachable`]; nothing changes.
    /// - It is the configured message store: [`Error::UriOfMessageStore`]. A pool that was
    ///   registered as that before can be changed in all but its URI.
    /// - Another pool has the same store: [`Error::UriInUse`], also if pools are registered
    ///   concurrently.
    /// - A URI that equals the [`masked`] form of the old one keeps the old one.
    async fn put_pool(&self, pool: Pool) -> Result<(), Error>;

    /// Changes a pool, all or nothing, and returns it. Errors as for [`Pools::put_pool`].
    async fn change_pool(&self, name: &PoolName, change: PoolChange) -> Result<Pool, Error>;

    /// Removes a pool; a missing one is not an error. The contents of its store are not deleted.
    ///
    /// # Behavior
    /// - The last pool of a flavor is not removed: [`Error::LastOfFlavor`].
    async fn delete_pool(&self, name: &PoolName) -> Result<(), Error>;

    /// Flavors of a project after a name, by name, at most `limit`.
    async fn flavors(
        &self,
        project: &ProjectId,
        after: Option<&FlavorName>,
        limit: usize,
    ) -> Result<Vec<Flavor>, Error>;

    /// Reads a flavor; [`Error::FlavorNotFound`] if the project has none of this name.
    async fn flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<Flavor, Error>;

    /// Creates a flavor of these pools, or replaces the pools of the one of that name.
    ///
    /// # Behavior
    /// - A pool belongs to one flavor: it is removed from its previous one.
    /// - An unknown pool is [`Error::PoolNotFound`]; nothing changes.
    async fn put_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error>;

    /// Replaces the pools of a flavor. As [`Pools::put_flavor`], but [`Error::FlavorNotFound`] if
    /// there is none.
    async fn change_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error>;

    /// Deletes a flavor; its pools then belong to no flavor. A missing one is not an error.
    async fn delete_flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<(), Error>;

    /// Assigns a pool to a queue that has none yet. A queue keeps its pool until it is deleted.
    ///
    /// # Behavior
    /// - With a flavor: by weight among the pools of the flavor; [`Error::FlavorNotFound`] if the
    ///   project has none of this name.
    async fn place(&self, key: &QueueKey, flavor: Option<&FlavorName>) -> Result<(), Error>;
}

/// A pool as a server has it open.
#[derive(Clone)]
pub struct PoolStatus {
    /// Its name.
    pub name: PoolName,
    /// Its store, once it is open.
    pub store: Option<Arc<dyn MessageStore>>,
    /// Why it does not serve, as of the last time that it was asked something as a whole, some
    /// seconds ago at most; without secrets.
    pub problem: Option<String>,
}

impl fmt::Debug for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolStatus")
            .field("name", &self.name)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// How far a move of a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueMoveState {
    /// Its contents are copied; requests for it wait.
    Copying,
    /// It is in the other pool. The copy that it left is deleted soon.
    Moved,
    /// It stays where it was, and what was copied is deleted.
    Undoing,
    /// It stayed where it was.
    Failed,
}

impl QueueMoveState {
    /// Its name in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Moved => "moved",
            Self::Undoing => "undoing",
            Self::Failed => "failed",
        }
    }
}

/// A queue on its way to another pool, or one that was some minutes ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMove {
    /// The queue.
    pub queue: QueueKey,
    /// The pool that it leaves; `None` for the store that is configured.
    pub from: Option<PoolName>,
    /// The pool that it goes to; `None` for the store that is configured.
    pub to: Option<PoolName>,
    /// How far it is.
    pub state: QueueMoveState,
    /// Rows that were copied, as of some seconds ago: messages, claims, subscriptions and
    /// deliveries.
    pub rows: u64,
    /// When it began.
    pub began: Timestamp,
    /// Why it failed; without secrets.
    pub problem: Option<String>,
}

/// What a pool's drain has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDrain {
    /// Whether the pool is drained: it gets no new queues, and those that it has are moved.
    pub is_draining: bool,
    /// Queues that are still in the pool. Counted to 100.
    pub queues_left: u64,
    /// There may be more: 100 were counted, or the store has too many keys to look through in 5 s.
    pub has_more: bool,
    /// Moves from the pool and to it. At most 100, in no order.
    pub moves: Vec<QueueMove>,
}

/// The pools that a server has open.
#[async_trait]
pub trait PoolStores: Send + Sync {
    /// All of them by name. Asks nobody: what other servers changed may be missing for 2 s.
    fn statuses(&self) -> Vec<PoolStatus>;

    /// All of them by name, as they are registered now. Those that are just being opened are waited
    /// for, some seconds at most.
    async fn current(&self) -> Vec<PoolStatus>;
}

/// Moves of queues from pool to pool.
#[async_trait]
pub trait QueueMoves: Send + Sync {
    /// Begins to move a queue to a pool, with everything that is in it, while it is in use.
    ///
    /// # Behavior
    /// - It goes on in the background, by any server: see [`QueueMoves::drain`]. What cannot be
    ///   done later is undone: then the queue stays where it was.
    /// - A queue that is in the pool already, or is being moved, or whose store or the pool's
    ///   cannot move queues: [`Error::CannotMove`]. Unknown queues and pools:
    ///   [`Error::QueueNotFound`], [`Error::PoolNotFound`].
    async fn move_queue(&self, key: &QueueKey, to: &PoolName, now: Timestamp) -> Result<(), Error>;

    /// Begins to move all queues of a pool to the other pools of its flavor, or stops.
    ///
    /// # Behavior
    /// - From then on no queue is assigned to the pool. Moves that have begun are finished.
    /// - A pool whose store cannot move queues: [`Error::CannotMove`].
    async fn set_draining(&self, pool: &PoolName, is_draining: bool) -> Result<(), Error>;

    /// What a pool's drain has come to, and moves from the pool and to it.
    async fn drain(&self, pool: &PoolName) -> Result<PoolDrain, Error>;
}

/// A URI with stars in place of its password, its fragment, and the values of all parameters that
/// are not known to be harmless.
pub fn masked(uri: &str) -> String {
    let (uri, fragment) = match uri.split_once('#') {
        Some((uri, _)) => (uri, "#***"),
        None => (uri, ""),
    };
    let (location, query) = match uri.split_once('?') {
        Some((location, query)) => (location, Some(query)),
        None => (uri, None),
    };
    let mut shown = masked_userinfo(location);
    if let Some(query) = query {
        let parameters: Vec<_> = query.split('&').map(masked_parameter).collect();
        shown.push('?');
        shown.push_str(&parameters.join("&"));
    }
    shown + fragment
}

fn masked_userinfo(location: &str) -> String {
    let Some((before, host)) = location.rsplit_once('@') else { return location.to_owned() };
    let start = before.find("://").map_or(0, |at| at + 3);
    let (scheme, userinfo) = before.split_at(start);
    let user = userinfo.split_once(':').map_or("", |(user, _)| user);
    let separator = if userinfo.contains(':') { ":" } else { "" };
    format!("{scheme}{user}{separator}***@{host}")
}

fn masked_parameter(parameter: &str) -> String {
    const HARMLESS: &[&str] = &[
        "authmechanism",
        "authsource",
        "connecttimeoutms",
        "db",
        "dbid",
        "directconnection",
        "journal",
        "layout",
        "master",
        "maxpoolsize",
        "minpoolsize",
        "protocol",
        "readconcernlevel",
        "readpreference",
        "replicaset",
        "retryreads",
        "retrywrites",
        "serverselectiontimeoutms",
        "socket_timeout",
        "sockettimeoutms",
        "ssl",
        "tls",
        "w",
        "wtimeoutms",
    ];
    let name = parameter.split('=').next().unwrap_or_default();
    match HARMLESS.contains(&name.to_ascii_lowercase().as_str()) {
        true => parameter.to_owned(),
        false => format!("{name}=***"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_uris_are_masked() {
        for (uri, shown) in [
            ("redis://127.0.0.1:6379/3", "redis://127.0.0.1:6379/3"),
            ("redis://:secret@host:1", "redis://:***@host:1"),
            ("redis://user:secret@host", "redis://user:***@host"),
            ("mongodb://user:p@ss@a,b/db?w=majority", "mongodb://user:***@a,b/db?w=majority"),
            ("redis://token@host", "redis://***@host"),
            ("redis:/run/x?db=1&password=secret", "redis:/run/x?db=1&password=***"),
            (
                "redis://h?master=m&sentinel_password=s#x",
                "redis://h?master=m&sentinel_password=***#***",
            ),
            ("embedded:/var/lib/zaqar", "embedded:/var/lib/zaqar"),
        ] {
            assert_eq!(masked(uri), shown);
            assert_eq!(masked(&masked(uri)), shown, "twice is once");
        }
    }
}
