#![doc = include_str!("../README.md")]

mod checksum;
mod clock;
mod id;
mod name;
mod payload;
mod secret;

pub mod iso8601;
pub mod json;
pub mod limits;
pub mod metadata;
pub mod signing;
pub mod storage;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use id::{
    ClaimId, IdError, Incarnation, LeaseId, MessageId, Position, SubscriptionId, Version,
};
pub use limits::Limits;
pub use metadata::Metadata;
pub use name::{ClientId, Kind, NameError, ProjectId, QueueKey, QueueName};
pub use payload::{Checksum, KeyId, Payload};
pub use secret::Secret;

/// The generation of a queue: which life of it, and which state of its metadata.
///
/// Two generations are compared for equality only: a post that assumes another generation than the head's is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Which life of the queue: new each time a queue of this name is created.
    pub incarnation: Incarnation,
    /// Which state of its metadata: grows with each change within one life.
    pub version: Version,
}
