#![doc = include_str!("../README.md")]

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{self, Sender};

/// Bounds on groups and on waiting calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls in one group, at least 1.
    pub items: usize,
    /// Bytes in one group, as declared by callers. A larger call is sent alone.
    pub bytes: usize,
    /// Calls that wait for one key. Further ones are rejected.
    pub waiting: usize,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`Limits::waiting`] calls wait for this key already. The call was not sent.
    #[error("too many calls wait for this key")]
    Full,
    /// The task that sent the group ended without an answer. The call may have been executed.
    #[error("the group was lost")]
    Lost,
}

/// Sends calls for one key in groups, one group at a time.
pub struct Batcher<K, T, R> {
    shared: Arc<Shared<K, T, R>>,
}

struct Shared<K, T, R> {
    limits: Limits,
    /// The keys that have a group in flight, and the calls that wait for each.
    queues: Mutex<HashMap<K, VecDeque<Waiting<T, R>>>>,
}

struct Waiting<T, R> {
    item: T,
    bytes: usize,
    reply: Sender<R>,
}

impl<K, T, R> Batcher<K, T, R>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Creates a batcher without calls.
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, queues: Mutex::default() }) }
    }

    /// Sends `item` in a group with others of its key, and returns the answer of `send` for it.
    ///
    /// `send` gets the items of one group in the order of their calls, and returns as many answers
    /// in the same order. It runs in a task of its own. If a caller is dropped, its item is not
    /// sent, unless it was sent already; other calls are not affected.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn submit<F, Fut>(&self, key: K, item: T, bytes: usize, send: F) -> Result<R, Error>
    where
        F: Fn(K, Vec<T>) -> Fut + Send + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        if self.shared.enqueue(&key, Waiting { item, bytes, reply })? {
            tokio::spawn(send_all(Arc::clone(&self.shared), key, send));
        }
        answer.await.map_err(|_| Error::Lost)
    }
}

impl<K, T, R> std::fmt::Debug for Batcher<K, T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

/// Sends the groups of a key until no call waits.
async fn send_all<K, T, R, F, Fut>(shared: Arc<Shared<K, T, R>>, key: K, send: F)
where
    K: Clone + Eq + Hash,
    F: Fn(K, Vec<T>) -> Fut,
    Fut: Future<Output = Vec<R>>,
{
    // If this ends early, by a panic or with its runtime, dropping the queue answers waiting calls.
    let mut queue = KeyQueue { shared, key, is_removed: false };
    while let Some((items, replies)) = queue.next_group() {
        let answers = send(queue.key.clone(), items).await;
        for (reply, answer) in replies.into_iter().zip(answers) {
            // The caller may have been dropped.
            drop(reply.send(answer));
        }
    }
}

impl<K: Clone + Eq + Hash, T, R> Shared<K, T, R> {
    /// Adds a call to the queue of a key. Returns whether the key has no group in flight.
    fn enqueue(&self, key: &K, waiting: Waiting<T, R>) -> Result<bool, Error> {
        let mut queues = self.lock();
        if let Some(queue) = queues.get_mut(key) {
            queue.retain(|waiting| !waiting.reply.is_closed());
            if queue.len() >= self.limits.waiting {
                return Err(Error::Full);
            }
            queue.push_back(waiting);
            return Ok(false);
        }
        queues.insert(key.clone(), VecDeque::from([waiting]));
        Ok(true)
    }
}

impl<K, T, R> Shared<K, T, R> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, VecDeque<Waiting<T, R>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of one key while its groups are sent. It is removed when this is dropped.
struct KeyQueue<K: Eq + Hash, T, R> {
    shared: Arc<Shared<K, T, R>>,
    key: K,
    /// It was removed; the key may have a new one by now.
    is_removed: bool,
}

impl<K: Eq + Hash, T, R> KeyQueue<K, T, R> {
    /// Takes the next group. If no call waits, removes the queue and returns `None`.
    fn next_group(&mut self) -> Option<(Vec<T>, Vec<Sender<R>>)> {
        let limits = self.shared.limits;
        let mut queues = self.shared.lock();
        let queue = queues.get_mut(&self.key)?;
        let (mut items, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        while let Some(first) = queue.front() {
            let is_gone = first.reply.is_closed();
            let is_too_much = items.len() >= limits.items.max(1)
                || bytes.saturating_add(first.bytes) > limits.bytes;
            if !is_gone && is_too_much && !items.is_empty() {
                break;
            }
            let Some(next) = queue.pop_front() else { break };
            if !is_gone {
                bytes = bytes.saturating_add(next.bytes);
                items.push(next.item);
                replies.push(next.reply);
            }
        }
        if items.is_empty() {
            queues.remove(&self.key);
            self.is_removed = true;
            return None;
        }
        Some((items, replies))
    }
}

impl<K: Eq + Hash, T, R> Drop for KeyQueue<K, T, R> {
    fn drop(&mut self) {
        if !self.is_removed {
            self.shared.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
