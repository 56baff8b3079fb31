//! The state of deliveries to a subscriber, as the API reports it.

use crate::{MessageId, Timestamp};

pub use crate::id::RecoveryId;

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// It waits for its first attempt or for a retry, or an attempt is in progress.
    Pending,
    /// The subscriber has received the message.
    Delivered,
    /// The retries were exhausted, or the receiver rejected the message.
    Failed,
    /// The message expired before it was delivered.
    Expired,
}

impl DeliveryState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Pending, Self::Delivered, Self::Failed, Self::Expired];
        all.into_iter().find(|state| state.as_str() == name)
    }
}

/// One attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// When it began.
    pub at: Timestamp,
    /// Its duration in milliseconds.
    pub millis: u64,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// Why there was no response.
    pub error: Option<String>,
    /// The first 4 KiB of the response's body. Headers are never stored.
    pub answer: String,
}

/// The delivery of one message to one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id.
    pub id: MessageId,
    /// Its state.
    pub state: DeliveryState,
    /// When the message was posted.
    pub posted: Timestamp,
    /// When the last attempt ended; `posted` if there was none.
    pub changed: Timestamp,
    /// The recorded attempts, in order.
    pub attempts: Vec<DeliveryAttempt>,
}

/// Which deliveries a page contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Only deliveries in this state; all if `None`.
    pub state: Option<DeliveryState>,
    /// Only deliveries that changed at this time or later.
    pub since: Option<Timestamp>,
    /// Begin after this id.
    pub after: Option<MessageId>,
    /// Deliveries on the page, at least 1.
    pub limit: usize,
}

/// The result of a request to deliver again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// It is attempted as soon as its destination allows.
    Scheduled,
    /// No such delivery is known.
    Unknown,
    /// It has ended in this state, and the message is no longer stored.
    Ended(DeliveryState),
}

/// Which failed deliveries are recovered, by the time at which their messages were posted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryRange {
    /// From then on; from the first where it is `None`.
    pub since: Option<Timestamp>,
    /// Before then; up to the last where it is `None`.
    pub until: Option<Timestamp>,
}

/// How far a recovery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryState {
    /// Deliveries are still to be taken.
    Running,
    /// All were taken: each is tried as any delivery.
    Done,
    /// It was ended before.
    Cancelled,
}

impl RecoveryState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Running, Self::Done, Self::Cancelled];
        all.into_iter().find(|state| state.as_str() == name)
    }
}

/// Failed deliveries that are delivered once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Its id.
    pub id: RecoveryId,
    /// How far it is.
    pub state: RecoveryState,
    /// What it takes.
    pub range: RecoveryRange,
    /// Deliveries that it takes, as counted when it began.
    pub total: u64,
    /// Those of them that are still kept as failed.
    pub remaining: u64,
    /// When it began.
    pub started: Timestamp,
}

/// What came of asking for a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeginRecovery {
    /// It has begun.
    Begun(Recovery),
    /// Another one is running.
    Runs(RecoveryId),
    /// Another caller asked at the same moment.
    Contended,
}

/// Whether deliveries to a subscriber are attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriberState {
    /// Messages are sent.
    Ok,
    /// Its destination fails: one delivery at a time is attempted, not before this time.
    Failing(Timestamp),
    /// Nothing is sent until it is resumed.
    Suspended,
}

/// The health of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriberHealth {
    /// Whether deliveries are attempted. [`SubscriberState::Failing`] is known to the server that
    /// answers; other servers may report otherwise.
    pub state: SubscriberState,
    /// Pending deliveries.
    pub waiting: u64,
    /// How many deliveries in the log succeeded.
    pub delivered: u64,
    /// How many deliveries in the log failed.
    pub failed: u64,
    /// How many deliveries in the log expired.
    pub expired: u64,
    /// When a delivery in the log last succeeded.
    pub last_delivered: Option<Timestamp>,
    /// When an attempt in the log last failed.
    pub last_failed: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_names() {
        for name in ["pending", "delivered", "failed", "expired"] {
            assert_eq!(DeliveryState::parse(name).map(DeliveryState::as_str), Some(name));
        }
        assert_eq!(DeliveryState::parse("Failed"), None);
        for name in ["running", "done", "cancelled"] {
            assert_eq!(RecoveryState::parse(name).map(RecoveryState::as_str), Some(name));
        }
        assert_eq!(RecoveryState::parse("failed"), None);
    }
}
