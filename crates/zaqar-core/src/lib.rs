#![doc = include_str!("../README.md")]

mod budget;
mod checksum;
mod clock;
mod host;
mod id;
mod name;
mod operations;
mod payload;
mod secret;
mod state_log;
mod suggest;
mod system_clock;
mod task_monitor;

pub mod delivery;
pub mod iso8601;
pub mod json;
pub mod limits;
pub mod metadata;
pub mod pools;
pub mod signing;
pub mod storage;

pub use budget::{
    Holder, MemoryBounds, MemoryBudget, MemoryScope, OverBudget, Permit, RejectionPermit,
};
pub use clock::{Clock, ClockStatus, ManualClock, Timestamp};
pub use host::canonical_host;
pub use id::{
    ClaimId, IdError, Incarnation, LeaseId, MessageId, Position, RecoveryId, SubscriptionId,
    Version, hex,
};
pub use limits::Limits;
pub use metadata::Metadata;
pub use name::{ClientId, Kind, NameError, ProjectId, QueueKey, QueueName};
pub use operations::{OperationInProgress, OperationLimit, TooManyOperations};
pub use payload::{Checksum, KeyId, Payload};
pub use secret::Secret;
pub use state_log::StateLog;
pub use suggest::nearest;
pub use system_clock::SystemClock;
pub use task_monitor::{TaskFailure, TaskGuard, TaskMonitor};

/// The generation of a queue: its incarnation and the version of its metadata.
///
/// Generations are compared for equality only: a post is rejected if it assumes a generation other
/// than the head's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// New each time a queue of this name is created.
    pub incarnation: Incarnation,
    /// Increases with each change of the metadata within one incarnation.
    pub version: Version,
}
