//! The state of a server's subscribed connections: queues, subscriptions, and messages that wait
//! until they are due. Nothing here waits or accesses a store.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use zaqar_core::{Incarnation, MessageId, Position, QueueKey, SubscriptionId, Timestamp};

use super::{ConnectionSender, Push, Pushed, PushesEnded};

/// The queues that connections of this server subscribe to.
#[derive(Default)]
pub(super) struct State {
    pub(super) queues: HashMap<QueueKey, FollowedQueue>,
    /// Number of subscriptions that are being created.
    pub(super) pending: usize,
    /// Queues by the time when their first delayed message is due.
    pub(super) schedule: BTreeSet<(Timestamp, QueueKey)>,
    /// Subscriptions of closed connections that could not be removed from the store yet.
    pub(super) unremoved: VecDeque<(QueueKey, SubscriptionId)>,
    /// No subscription ends before this time; `None` while none will.
    first_end: Option<Timestamp>,
}

/// A queue with subscribed connections.
pub(super) struct FollowedQueue {
    pub(super) incarnation: Incarnation,
    /// The position up to which the queue was read.
    pub(super) cursor: Position,
    pub(super) subscriptions: HashMap<SubscriptionId, LocalSubscription>,
    /// Messages that wait until they are due.
    pub(super) delayed: BTreeMap<(Timestamp, MessageId), Arc<Push>>,
    pub(super) reader: ReaderState,
    /// When its subscriptions were last checked against the store.
    pub(super) checked: Timestamp,
}

/// A subscription of a connection of this server.
pub(super) struct LocalSubscription {
    pub(super) connection: Arc<ConnectionSender>,
    pub(super) tag: u8,
    /// It gets messages after this position.
    pub(super) begin: Position,
    /// The last position that it got without counting delayed messages.
    pub(super) after: Position,
    pub(super) expires: Timestamp,
    /// When the signature expires that it was made with; [`Timestamp::MAX`] without one.
    pub(super) signed_until: Timestamp,
    /// Its own connection is deleting it.
    pub(super) is_leaving: bool,
}

impl LocalSubscription {
    /// When the first of its times has passed.
    fn ends(&self) -> Timestamp {
        self.expires.min(self.signed_until)
    }
}

/// A message that was read from a queue's outbox.
pub(super) struct ReadMessage {
    pub(super) id: MessageId,
    pub(super) due: Timestamp,
    pub(super) push: Arc<Push>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderState {
    Idle,
    /// A task is reading.
    Running,
    /// A task is reading, and there was news since it began.
    RunAgain,
}

impl FollowedQueue {
    /// Ends the pushes of every subscribed connection.
    pub(super) fn end(&self, why: PushesEnded) {
        for subscription in self.subscriptions.values() {
            subscription.connection.end(why);
        }
    }

    /// Removes subscriptions that have ended. Their connections end, but for one that removed its
    /// own.
    pub(super) fn remove(&mut self, key: &QueueKey, has_ended: impl Fn(SubscriptionId) -> bool) {
        self.subscriptions.retain(|id, subscription| {
            let is_removed = has_ended(*id);
            if is_removed {
                subscription.connection.forget(key, *id);
                if !subscription.is_leaving {
                    subscription.connection.end(PushesEnded::Lost);
                }
            }
            !is_removed
        });
    }

    /// When the first delayed message is due.
    fn first_due(&self) -> Option<Timestamp> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }
}

impl State {
    pub(super) fn remove(&mut self, key: &QueueKey) -> Option<FollowedQueue> {
        let queue = self.queues.remove(key)?;
        if let Some(due) = queue.first_due() {
            self.schedule.remove(&(due, key.clone()));
        }
        Some(queue)
    }

    /// Ends the connections of subscriptions whose signatures have expired, and returns the queues
    /// with subscriptions whose ttl seems to have run out: the store knows whether it was renewed.
    pub(super) fn end_due(&mut self, now: Timestamp) -> Vec<QueueKey> {
        if self.first_end.is_none_or(|first| now < first) {
            return Vec::new();
        }
        let (mut expired, mut next) = (Vec::new(), Timestamp::MAX);
        for (key, queue) in &mut self.queues {
            // The connection removes them from the store as it closes.
            queue.subscriptions.retain(|_, subscription| {
                let is_signed = now < subscription.signed_until;
                if !is_signed {
                    subscription.connection.end(PushesEnded::Expired);
                }
                is_signed
            });
            let ends = queue.subscriptions.values().map(LocalSubscription::ends).min();
            if ends.is_some_and(|ends| ends <= now) {
                expired.push(key.clone());
            }
            next = next.min(ends.unwrap_or(Timestamp::MAX));
        }
        let is_empty = |queue: &FollowedQueue| queue.subscriptions.is_empty();
        let empty = self.queues.iter().filter(|(_, queue)| is_empty(queue));
        for key in empty.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.remove(&key);
        }
        // What the store did not answer for is asked again in a second.
        self.first_end = Some(if next <= now { now.plus_secs(1) } else { next });
        expired
    }

    /// Notes when a subscription ends.
    pub(super) fn note_end(&mut self, at: Timestamp) {
        self.first_end = Some(self.first_end.map_or(at, |first| first.min(at)));
    }

    /// Stores a message until it is due; repeated calls store it once.
    pub(super) fn delay(&mut self, key: &QueueKey, message: ReadMessage) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let before = queue.first_due();
        queue.delayed.entry((message.due, message.id)).or_insert(message.push);
        if before.is_none_or(|first| message.due < first) {
            if let Some(first) = before {
                self.schedule.remove(&(first, key.clone()));
            }
            self.schedule.insert((message.due, key.clone()));
        }
    }

    /// Removes and returns the first delayed message that is due.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<(QueueKey, ReadMessage)> {
        while self.schedule.first()?.0 <= now {
            let (_, key) = self.schedule.pop_first()?;
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let first = queue.delayed.first_entry().filter(|first| first.key().0 <= now);
            let taken = first.map(|first| first.remove_entry());
            if let Some(next) = queue.first_due() {
                self.schedule.insert((next, key.clone()));
            }
            if let Some(((due, id), push)) = taken {
                return Some((key, ReadMessage { id, due, push }));
            }
        }
        None
    }

    /// Sends a message to the subscriptions of its queue for which `wants` holds.
    pub(super) fn send(
        &mut self,
        key: &QueueKey,
        message: &ReadMessage,
        now: Timestamp,
        wants: impl Fn(&LocalSubscription) -> bool,
    ) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        if queue.incarnation != message.id.incarnation {
            return;
        }
        queue.subscriptions.retain(|id, subscription| {
            if subscription.connection.has_ended() {
                subscription.connection.forget(key, *id);
                return false;
            }
            if subscription.ends() <= now || !wants(subscription) {
                return true;
            }
            subscription.after = subscription.after.max(message.id.position);
            let pushed = Pushed { push: message.push.clone(), tag: subscription.tag };
            subscription.connection.push(pushed)
        });
        if queue.subscriptions.is_empty() {
            self.remove(key);
        }
    }
}
