//! Distributes news to the listeners of this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::DateTime;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::time::Instant;
use zaqar_core::storage::Posted;
use zaqar_core::{MessageId, QueueKey};

/// The capacity of the channel. A listener that lags by more polls for the queues that were posted
/// to.
const CAPACITY: usize = 1024;
/// A post may become visible this much later than its time: each poll looks back this far.
pub(crate) const SLACK: Duration = Duration::from_secs(10);
/// The listeners of this process, and the news that were reported to them.
#[derive(Default)]
pub(crate) struct Broadcaster {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Announcement>>,
    /// For each queue that was posted to recently, the last reported message and the time of the
    /// report.
    announced: HashMap<QueueKey, (MessageId, Instant)>,
    is_closed: bool,
}

/// News, and the start time of the poll that found them, by the server's clock.
#[derive(Clone)]
pub(crate) struct Announcement {
    pub(crate) posted: Posted,
    pub(crate) since: Option<DateTime>,
}

impl Broadcaster {
    /// Reports a post of this process.
    pub(crate) fn announce(&self, key: &QueueKey, last: MessageId) {
        self.publish(Posted { key: key.clone(), last }, None);
    }

    pub(crate) fn publish(&self, posted: Posted, since: Option<DateTime>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { sender: Some(sender), announced, .. } = &mut *state else { return };
        let is_known = announced.get(&posted.key).is_some_and(|(last, _)| {
            last.incarnation == posted.last.incarnation && last.position >= posted.last.position
        });
        if is_known {
            return;
        }
        announced.insert(posted.key.clone(), (posted.last, Instant::now()));
        // Fails only without listeners, which is fine.
        drop(sender.send(Announcement { posted, since }));
    }

    /// Drops reports that no poll can find again.
    pub(crate) fn forget_old(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.announced.retain(|_, (_, when)| when.elapsed() < 3 * SLACK);
    }

    /// A receiver, and whether it is the first one, so that the task must be started.
    pub(crate) fn listen(&self) -> Option<(Receiver<Announcement>, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return None;
        }
        if let Some(sender) = &state.sender {
            return Some((sender.subscribe(), false));
        }
        let (sender, receiver) = broadcast::channel(CAPACITY);
        state.sender = Some(sender);
        state.announced.clear();
        Some((receiver, true))
    }

    /// Whether the task may end because there are no listeners.
    pub(crate) fn has_no_listeners(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_no_listeners =
            state.sender.as_ref().is_none_or(|sender| sender.receiver_count() == 0);
        if has_no_listeners {
            state.sender = None;
        }
        has_no_listeners
    }

    /// Ends all streams.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        state.sender = None;
    }
}
