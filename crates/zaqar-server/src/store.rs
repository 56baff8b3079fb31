//! Store drivers: they open stores by their location.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::pools::Capability;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Secret, TaskMonitor};

use crate::config::Section;
use crate::config::known::Known;
use crate::error::StartError;

/// The role of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreRole {
    /// Queue rows: metadata and generations.
    Management,
    /// Messages, claims and subscriptions.
    Messages,
}

impl StoreRole {
    /// The option of `[drivers]` that chooses the driver for this role.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Management => "management_store",
            Self::Messages => "message_store",
        }
    }

    /// The section of a driver in this role.
    pub fn section(self, driver: &str) -> String {
        format!("drivers:{}:{driver}", self.option())
    }
}

/// The location of a store, with its options.
#[derive(Debug, Clone)]
pub struct StoreLocation {
    /// A URI or a path. It may contain a password.
    pub uri: Secret<String>,
    /// The options; errors about them name where they are set.
    pub options: Section,
}

/// Whether there is a store at a location that is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The driver cannot tell, or opening creates no store.
    Unknown,
    /// There is one.
    Present,
    /// There is none: opening would create an empty one.
    Absent,
}

/// A store that cannot be opened because this process has it open. It may be about to close it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenHere(pub(crate) String);

/// What all stores are opened with.
#[derive(Debug, Clone, Default)]
pub struct StoreContext {
    /// `[DEFAULT] unreliable`: allow a store whose own configuration can lose acknowledged
    /// messages.
    pub unreliable: bool,
    /// Is notified when a long-lived task or thread of the store dies.
    pub tasks: TaskMonitor,
}

/// Opens any number of stores of one kind.
#[async_trait]
pub trait StoreDriver: Send + Sync {
    /// The roles that its stores support; a configuration can choose it only for these.
    fn roles(&self) -> &'static [StoreRole];

    /// The options that it reads, including [`StoreDriver::location_option`]. Anything else in its
    /// sections causes a warning.
    fn options(&self) -> &'static [Known];

    /// The option that has the location. If it has a default, that is the location of a store
    /// without a configured one.
    fn location_option(&self) -> &'static str;

    /// The schemes of the URIs that it opens, such as `redis` and `rediss`.
    fn schemes(&self) -> &'static [&'static str];

    /// The capabilities of its stores, for flavors: all pools of a flavor have the same ones.
    fn capabilities(&self) -> &'static [Capability];

    /// Checks a location and its options as [`StoreDriver::open`] reads them, with the files that
    /// they name, but opens nothing and connects to nothing: for `config check`. The default is for
    /// a driver that any location suits and that has no other options.
    ///
    /// # Errors
    /// The location, an option or a file is invalid.
    async fn check(&self, _location: &StoreLocation) -> Result<(), StartError> {
        Ok(())
    }

    /// Whether two locations are one store, whatever users and options they have: it is opened once
    /// for both roles, and is one pool. Names of hosts are not resolved. The default is for a
    /// driver that has one way to write each location.
    ///
    /// # Errors
    /// A location is invalid.
    fn is_same_store(
        &self,
        one: &StoreLocation,
        other: &StoreLocation,
    ) -> Result<bool, StartError> {
        Ok(one.uri == other.uri)
    }

    /// Whether there is a store at a location, without opening it: one that is known to have been
    /// there is not replaced by an empty one, unless an option accepts that; then the answer is
    /// [`Presence::Unknown`]. The default is for a driver whose stores need not be created.
    ///
    /// # Errors
    /// The location or an option is invalid.
    fn presence(&self, _location: &StoreLocation) -> Result<Presence, StartError> {
        Ok(Presence::Unknown)
    }

    /// Opens the store at a location, for all roles that it supports.
    ///
    /// # Errors
    /// The location or an option is invalid, or the store cannot be opened.
    async fn open(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError>;
}

/// A metric of a store: see [`OpenedStore::with_figures`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Its name for Prometheus, without the prefix `zaqar_store_` and, for a counter, without
    /// `_total`: `file_bytes`. It ends with its unit.
    pub name: &'static str,
    /// Its description, in one line.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: FigureKind,
    /// Its value now.
    pub value: f64,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// It only increases while the process runs.
    Counter,
    /// It can increase and decrease.
    Gauge,
}

/// Returns a store's metrics. Called for each page of metrics and each report, so it must not block
/// for longer than a system call takes.
pub type Figures = Arc<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// An open store in each role that it supports.
pub struct OpenedStore {
    /// As a management store.
    pub management: Option<Arc<dyn ManagementStore>>,
    /// As a message store.
    pub messages: Option<Arc<dyn MessageStore>>,
    /// Its own metrics, if it has any.
    pub figures: Option<Figures>,
}

impl OpenedStore {
    /// The same store, with these metrics.
    #[must_use]
    pub fn with_figures(self, figures: impl Fn() -> Vec<Figure> + Send + Sync + 'static) -> Self {
        Self { figures: Some(Arc::new(figures)), ..self }
    }

    /// A store that supports both roles.
    pub fn both<S: ManagementStore + MessageStore + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self { management: Some(Arc::clone(&store) as _), messages: Some(store), figures: None }
    }

    /// A store for queue rows only.
    pub fn management(store: impl ManagementStore + 'static) -> Self {
        Self { management: Some(Arc::new(store)), messages: None, figures: None }
    }

    /// A store for messages only.
    pub fn messages(store: impl MessageStore + 'static) -> Self {
        Self { management: None, messages: Some(Arc::new(store)), figures: None }
    }
}

impl fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedStore")
            .field("management", &self.management.is_some())
            .field("messages", &self.messages.is_some())
            .finish()
    }
}

/// The two stores of a server, which may be the same store.
#[derive(Clone)]
pub struct Stores {
    /// Queue rows.
    pub management: Arc<dyn ManagementStore>,
    /// Messages, claims and subscriptions.
    pub messages: Arc<dyn MessageStore>,
    /// Whether both are the same store.
    pub is_one: bool,
    /// The message store's own metrics.
    pub message_figures: Option<Figures>,
    /// The management store's own metrics; `None` if both are the same store.
    pub management_figures: Option<Figures>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("is_one", &self.is_one).finish_non_exhaustive()
    }
}
