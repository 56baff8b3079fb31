//! Pools and flavors: what an administrator registers where queues are spread over several message
//! stores.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::storage::MessageStore;
use crate::{NameError, ProjectId, QueueKey, QueueName, Secret, storage};

/// Pools of a deployment, at most: all of them are one row of the management store.
pub const MAX_POOLS: usize = 256;
/// Flavors of a project, at most.
pub const MAX_FLAVORS: u64 = 1000;
/// Bytes of a pool's options as JSON text, at most.
pub const MAX_OPTIONS: usize = 4096;
/// Characters of a pool's URI, at most, as in the original.
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

            /// The name as a row of the management store has it.
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
    /// A flavor's row has its name.
    fn from(name: QueueName) -> Self {
        Self(name)
    }
}

/// What the stores of a pool can do, under the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// First in, first out.
    Fifo,
    /// Claims.
    Claims,
    /// What is acknowledged survives the store's restart.
    Durability,
    /// Delivery at least once.
    Aod,
    /// Made for many operations a second.
    HighThroughput,
}

impl Capability {
    /// Its name on the wire.
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
    /// Where the store is. It may hold a password: show [`masked`] only.
    pub uri: Secret<String>,
    /// Its share of new queues, in proportion to the other pools' weights; 0 takes none.
    pub weight: u32,
    /// The flavor that it belongs to; without one it takes queues without a flavor.
    pub flavor: Option<FlavorName>,
    /// Options of the store's driver.
    pub options: Map<String, Value>,
}

/// What to change of a pool; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolChange {
    /// Another place.
    pub uri: Option<Secret<String>>,
    /// Another share.
    pub weight: Option<u32>,
    /// Another flavor, or none.
    pub flavor: Option<Option<FlavorName>>,
    /// Other options, all of them.
    pub options: Option<Map<String, Value>>,
}

/// A flavor: a name of a project's for some of the pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flavor {
    /// Its name.
    pub name: FlavorName,
    /// Its pools, by name.
    pub pools: Vec<PoolName>,
    /// What all of them can do.
    pub capabilities: BTreeSet<Capability>,
}

/// Why a change of pools or flavors was not made, or a queue not placed.
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
    /// The pool's store cannot be opened, or cannot be a pool.
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
    /// The pools of a flavor must have the same capabilities.
    #[error("The pool being added does not support the minimum set of capabilities")]
    CapabilitiesMismatch,
    /// The pool is the last of its flavor.
    #[error("This pool is used by flavors {flavor}; It cannot be deleted.")]
    LastOfFlavor {
        /// The flavor.
        flavor: FlavorName,
    },
    /// As many are there as there may be.
    #[error("there are {max} {what} already, the most that there may be")]
    TooMany {
        /// `pools` or `flavors of the project`.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// Others changed the pools faster than this change could follow.
    #[error("the pools change too fast")]
    Contended,
    /// The management store did not do it.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// The pools of a deployment, the flavors of its projects, and which pool has which queue.
#[async_trait]
pub trait Pools: Send + Sync {
    /// Pools behind a name, by name, at most `limit`.
    async fn pools(&self, after: Option<&str>, limit: usize) -> Result<Vec<Pool>, Error>;

    /// A pool; [`Error::PoolNotFound`] where there is none.
    async fn pool(&self, name: &PoolName) -> Result<Pool, Error>;

    /// Registers a pool, or replaces the one of that name.
    ///
    /// # Behavior
    /// - A store that cannot be opened is [`Error::Unreachable`]; nothing changes.
    /// - Where another pool is the same store: [`Error::UriInUse`], whoever else registers one at
    ///   the same time.
    /// - A URI that is the old one as [`masked`] shows it is the old one.
    async fn put_pool(&self, pool: Pool) -> Result<(), Error>;

    /// Changes a pool, all of it or nothing, and answers it. Errors as [`Pools::put_pool`] has.
    async fn change_pool(&self, name: &PoolName, change: PoolChange) -> Result<Pool, Error>;

    /// Removes a pool; one that is not there is no error. Its store keeps what it has.
    ///
    /// # Behavior
    /// - The last pool of a flavor stays: [`Error::LastOfFlavor`].
    async fn delete_pool(&self, name: &PoolName) -> Result<(), Error>;

    /// Flavors of a project behind a name, by name, at most `limit`.
    async fn flavors(
        &self,
        project: &ProjectId,
        after: Option<&FlavorName>,
        limit: usize,
    ) -> Result<Vec<Flavor>, Error>;

    /// A flavor; [`Error::FlavorNotFound`] where the project has none of this name.
    async fn flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<Flavor, Error>;

    /// Creates a flavor of these pools, or gives the one of that name these pools.
    ///
    /// # Behavior
    /// - A pool belongs to one flavor: it leaves the one that it belonged to.
    /// - An unknown pool is [`Error::PoolNotFound`]; nothing changes.
    async fn put_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error>;

    /// Gives a flavor other pools. As [`Pools::put_flavor`], but [`Error::FlavorNotFound`] where
    /// there is none.
    async fn change_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error>;

    /// Deletes a flavor; its pools belong to none then. One that is not there is no error.
    async fn delete_flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<(), Error>;

    /// Chooses the pool of a queue that has none yet. A queue that has one keeps it, until it is
    /// deleted.
    ///
    /// # Behavior
    /// - With a flavor: by weight among the pools of the flavor; [`Error::FlavorNotFound`] where
    ///   the project has none of this name.
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

/// The pools that a server has open.
#[async_trait]
pub trait PoolStores: Send + Sync {
    /// All of them by name. Asks nobody: what other servers changed may be missing for 2 s.
    fn statuses(&self) -> Vec<PoolStatus>;

    /// All of them by name, as they are registered now. Those that are just being opened are waited
    /// for, some seconds at most.
    async fn current(&self) -> Vec<PoolStatus>;
}

/// A URI with stars for its password, and for parameters that are named as passwords are.
pub fn masked(uri: &str) -> String {
    let (uri, fragment) = match uri.split_once('#') {
        Some((uri, _)) => (uri, "#***"),
        None => (uri, ""),
    };
    let (place, query) = match uri.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (uri, None),
    };
    let mut shown = masked_userinfo(place);
    if let Some(query) = query {
        let parameters: Vec<_> = query.split('&').map(masked_parameter).collect();
        shown.push('?');
        shown.push_str(&parameters.join("&"));
    }
    shown + fragment
}

fn masked_userinfo(place: &str) -> String {
    let Some((before, host)) = place.rsplit_once('@') else { return place.to_owned() };
    let start = before.find("://").map_or(0, |at| at + 3);
    let (scheme, userinfo) = before.split_at(start);
    let user = userinfo.split_once(':').map_or("", |(user, _)| user);
    let separator = if userinfo.contains(':') { ":" } else { "" };
    format!("{scheme}{user}{separator}***@{host}")
}

fn masked_parameter(parameter: &str) -> String {
    const OPEN: &[&str] = &[
        "authmechanism",
        "authsource",
        "connecttimeoutms",
        "db",
        "dbid",
        "directconnection",
        "journal",
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
    match OPEN.contains(&name.to_ascii_lowercase().as_str()) {
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
