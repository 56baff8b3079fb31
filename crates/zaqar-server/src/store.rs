//! What a store driver is: it opens stores by their location.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::pools::Capability;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Secret, TaskMonitor};

use crate::config::Section;
use crate::config::known::Known;
use crate::error::StartError;

/// What a store is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreRole {
    /// Queue rows: metadata and generations.
    Management,
    /// Messages, claims and subscriptions.
    Messages,
}

impl StoreRole {
    /// The option of `[drivers]` that picks a driver for this role.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Management => "management_store",
            Self::Messages => "message_store",
        }
    }

    /// The section of the driver of this name in this role.
    pub fn section(self, driver: &str) -> String {
        format!("drivers:{}:{driver}", self.option())
    }
}

/// Where a store is, with what else it is opened with.
#[derive(Debug, Clone)]
pub struct StoreLocation {
    /// A URI or a path. It may hold a password.
    pub uri: Secret<String>,
    /// The options that go with it; errors about them name where they stand.
    pub options: Section,
}

/// What every store is opened with.
#[derive(Debug, Clone, Default)]
pub struct StoreContext {
    /// `[DEFAULT] unreliable`: a store may be used whose own configuration can lose acknowledged
    /// messages.
    pub unreliable: bool,
    /// Learns of the death of the store's long-lived tasks and threads.
    pub tasks: TaskMonitor,
}

/// Opens stores of one kind, any number of them.
#[async_trait]
pub trait StoreDriver: Send + Sync {
    /// The roles that its stores can have; configuration offers it for these only.
    fn roles(&self) -> &'static [StoreRole];

    /// The options that it reads, [`StoreDriver::location_option`] among them. Anything else in its
    /// sections is warned of.
    fn options(&self) -> &'static [Known];

    /// Which of its options holds the location. Its default, where it has one, is the location of a
    /// store that configuration does not locate.
    fn location_option(&self) -> &'static str;

    /// The schemes of the URIs that it opens, such as `redis` and `rediss`.
    fn schemes(&self) -> &'static [&'static str];

    /// What its stores can do, for flavors: the pools of a flavor can do the same.
    fn capabilities(&self) -> &'static [Capability];

    /// Whether two locations are one store, which is then opened once.
    ///
    /// # Errors
    /// A location that it cannot read.
    fn is_same_store(&self, one: &StoreLocation, other: &StoreLocation)
    -> Result<bool, StartError>;

    /// Opens the store at a location, for all roles that it can have.
    ///
    /// # Errors
    /// A location or an option that it cannot use, and a store that cannot be opened.
    async fn open(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError>;
}

/// What a store tells of itself, for metrics: see [`OpenedStore::with_figures`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Its name in the words of Prometheus, without the prefix `zaqar_store_` and, for a counter,
    /// without `_total`: `file_bytes`. It ends with its unit.
    pub name: &'static str,
    /// What it says, in one line.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: FigureKind,
    /// Its value now.
    pub value: f64,
}

/// Whether a figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// It only grows while the process runs.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Answers a store's figures. Called for each page of metrics and each report: it must not block
/// for longer than a system call takes.
pub type Figures = Arc<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// An open store in each role that it can have.
pub struct OpenedStore {
    /// As a management store.
    pub management: Option<Arc<dyn ManagementStore>>,
    /// As a message store.
    pub messages: Option<Arc<dyn MessageStore>>,
    /// What it tells of itself, if anything.
    pub figures: Option<Figures>,
}

impl OpenedStore {
    /// The same store, which tells these figures of itself.
    #[must_use]
    pub fn with_figures(self, figures: impl Fn() -> Vec<Figure> + Send + Sync + 'static) -> Self {
        Self { figures: Some(Arc::new(figures)), ..self }
    }

    /// A store that can have both roles.
    pub fn both<S: ManagementStore + MessageStore + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self { management: Some(Arc::clone(&store) as _), messages: Some(store), figures: None }
    }

    /// A store that holds queue rows only.
    pub fn management(store: impl ManagementStore + 'static) -> Self {
        Self { management: Some(Arc::new(store)), messages: None, figures: None }
    }

    /// A store that holds messages only.
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

/// The two stores of a server; they may be one.
#[derive(Clone)]
pub struct Stores {
    /// Queue rows.
    pub management: Arc<dyn ManagementStore>,
    /// Messages, claims and subscriptions.
    pub messages: Arc<dyn MessageStore>,
    /// Whether both are one store.
    pub is_one: bool,
    /// What the message store tells of itself.
    pub message_figures: Option<Figures>,
    /// What the management store tells of itself; nothing where both are one.
    pub management_figures: Option<Figures>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("is_one", &self.is_one).finish_non_exhaustive()
    }
}
