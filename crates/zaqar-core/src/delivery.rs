//! What becomes of messages for one subscriber, for those who ask.

use crate::{MessageId, Timestamp};

pub use crate::id::RecoveryId;

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// It waits for its first attempt or for a retry, or is on its way.
    Pending,
    /// The subscriber has the message.
    Delivered,
    /// It ended without success: the retries were used up, or the receiver rejected the message.
    Failed,
    /// The message expired before.
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
    /// Milliseconds that it took.
    pub millis: u64,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub error: Option<String>,
    /// The beginning of the answer's body, at most 4 KiB. Headers are never kept.
    pub answer: String,
}

/// One message for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id.
    pub id: MessageId,
    /// How far it is.
    pub state: DeliveryState,
    /// When the message was posted.
    pub posted: Timestamp,
    /// When the last attempts ended; where there was none, as `posted`.
    pub changed: Timestamp,
    /// The attempts that are known, in order.
    pub attempts: Vec<DeliveryAttempt>,
}

/// Which deliveries a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Those of this state; all where it is `None`.
    pub state: Option<DeliveryState>,
    /// Those that changed at this time or later.
    pub since: Option<Timestamp>,
    /// Begin behind this id.
    pub after: Option<MessageId>,
    /// Deliveries on the page, at least 1.
    pub limit: usize,
}

/// What came of asking to deliver once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// It is tried as soon as its destination allows.
    Scheduled,
    /// No such delivery is known.
    Unknown,
    /// It has ended in this state, and the message is not kept.
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

/// Whether a subscriber is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriberState {
    /// Messages are sent.
    Ok,
    /// Its destination fails: one delivery at a time is tried, not before this time.
    Failing(Timestamp),
    /// Nothing is sent until it is resumed.
    Suspended,
}

/// How a subscriber does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriberHealth {
    /// Whether it is served. [`SubscriberState::Failing`] is what the server that is asked knows;
    /// others may know otherwise.
    pub state: SubscriberState,
    /// Deliveries that wait or are on their way.
    pub waiting: u64,
    /// Of those in the log, how many were delivered.
    pub delivered: u64,
    /// Of those in the log, how many failed.
    pub failed: u64,
    /// Of those in the log, how many expired.
    pub expired: u64,
    /// When the last one in the log was delivered.
    pub last_delivered: Option<Timestamp>,
    /// When the last attempt in the log failed.
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
