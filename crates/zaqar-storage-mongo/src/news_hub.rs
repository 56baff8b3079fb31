//! Who listens for news in this process, and what they have been told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::DateTime;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::time::Instant;
use zaqar_core::storage::Posted;
use zaqar_core::{MessageId, QueueKey};

/// News that wait for a listener; one that is slower is told which queues were posted to.
const CAPACITY: usize = 1024;
/// A post may become visible this much later than it was timed: each look goes back that far.
pub(crate) const SLACK: Duration = Duration::from_secs(10);
/// Who listens in this process, and what they have been told.
#[derive(Default)]
pub(crate) struct NewsHub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Announcement>>,
    /// The last message named of each queue that was posted to lately, and when.
    told: HashMap<QueueKey, (MessageId, Instant)>,
    has_ended: bool,
}

/// News, and the server's time of the look that found it.
#[derive(Clone)]
pub(crate) struct Announcement {
    pub(crate) posted: Posted,
    pub(crate) since: Option<DateTime>,
}

impl NewsHub {
    /// Names a post.
    pub(crate) fn announce(&self, key: &QueueKey, last: MessageId) {
        self.tell(Posted { key: key.clone(), last }, None);
    }

    pub(crate) fn tell(&self, posted: Posted, since: Option<DateTime>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { sender: Some(sender), told, .. } = &mut *state else { return };
        let is_known = told.get(&posted.key).is_some_and(|(last, _)| {
            last.incarnation == posted.last.incarnation && last.position >= posted.last.position
        });
        if is_known {
            return;
        }
        told.insert(posted.key.clone(), (posted.last, Instant::now()));
        // Without a listener it is lost, as it should be.
        drop(sender.send(Announcement { posted, since }));
    }

    /// Forgets what no look can find again.
    pub(crate) fn forget_old(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.told.retain(|_, (_, when)| when.elapsed() < 3 * SLACK);
    }

    /// A receiver, and whether nobody else listens so that the task must be started.
    pub(crate) fn listen(&self) -> Option<(Receiver<Announcement>, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return None;
        }
        if let Some(sender) = &state.sender {
            return Some((sender.subscribe(), false));
        }
        let (sender, receiver) = broadcast::channel(CAPACITY);
        state.sender = Some(sender);
        state.told.clear();
        Some((receiver, true))
    }

    /// Whether the task may end: nobody listens any more.
    pub(crate) fn is_deserted(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_deserted = state.sender.as_ref().is_none_or(|sender| sender.receiver_count() == 0);
        if is_deserted {
            state.sender = None;
        }
        is_deserted
    }

    /// Ends all streams.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        state.sender = None;
    }
}
