#![doc = include_str!("../README.md")]

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{self, Sender};

/// Bounds of groups and of what waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls in one group, at least 1.
    pub items: usize,
    /// Bytes in one group, as callers give them. A call that is larger leaves alone.
    pub bytes: usize,
    /// Calls that wait for one key. One more is refused.
    pub waiting: usize,
}

/// Why a call was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`Limits::waiting`] calls wait for this key already; it was not sent.
    #[error("too many calls wait for this key")]
    Full,
    /// The task that sent its group ended without an answer: whether it acted is not known.
    #[error("the group was lost")]
    Lost,
}

/// Sends calls for one key in groups, one group at a time.
pub struct Batcher<K, T, R> {
    shared: Arc<Shared<K, T, R>>,
}

struct Shared<K, T, R> {
    limits: Limits,
    /// The keys for which a group is on its way, and what waits for each.
    lines: Mutex<HashMap<K, VecDeque<Waiting<T, R>>>>,
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
    /// Without any call.
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, lines: Mutex::default() }) }
    }

    /// Sends `item` with others of its key, and answers what `send` answered for it.
    ///
    /// `send` gets the items of one group in the order of their calls, and returns as many answers
    /// in the same order. It runs in a task of its own: a caller that is dropped takes its item out
    /// of the line if it has not left, and harms nobody else if it has.
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

/// Sends groups of a key until nothing waits.
async fn send_all<K, T, R, F, Fut>(shared: Arc<Shared<K, T, R>>, key: K, send: F)
where
    K: Clone + Eq + Hash,
    F: Fn(K, Vec<T>) -> Fut,
    Fut: Future<Output = Vec<R>>,
{
    // Where this ends early, by a panic or with its runtime, what waits is answered by being
    // dropped.
    let mut line = Line { shared, key, is_over: false };
    while let Some((items, replies)) = line.next_group() {
        let answers = send(line.key.clone(), items).await;
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Its caller may be gone.
            drop(reply.send(answer));
        }
    }
}

impl<K: Clone + Eq + Hash, T, R> Shared<K, T, R> {
    /// Adds to the line of a key; whether no group of it is on its way.
    fn enqueue(&self, key: &K, waiting: Waiting<T, R>) -> Result<bool, Error> {
        let mut lines = self.lock();
        if let Some(line) = lines.get_mut(key) {
            line.retain(|waiting| !waiting.reply.is_closed());
            if line.len() >= self.limits.waiting {
                return Err(Error::Full);
            }
            line.push_back(waiting);
            return Ok(false);
        }
        lines.insert(key.clone(), VecDeque::from([waiting]));
        Ok(true)
    }
}

impl<K, T, R> Shared<K, T, R> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, VecDeque<Waiting<T, R>>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line of one key, while its groups are sent. It is removed at the end, however that comes.
struct Line<K: Eq + Hash, T, R> {
    shared: Arc<Shared<K, T, R>>,
    key: K,
    /// It was removed; the key may have another one since.
    is_over: bool,
}

impl<K: Eq + Hash, T, R> Line<K, T, R> {
    /// Takes the next group; `None`, and no line any more, where nothing waits.
    fn next_group(&mut self) -> Option<(Vec<T>, Vec<Sender<R>>)> {
        let limits = self.shared.limits;
        let mut lines = self.shared.lock();
        let line = lines.get_mut(&self.key)?;
        let (mut items, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        while let Some(first) = line.front() {
            let is_gone = first.reply.is_closed();
            let is_too_much = items.len() >= limits.items.max(1)
                || bytes.saturating_add(first.bytes) > limits.bytes;
            if !is_gone && is_too_much && !items.is_empty() {
                break;
            }
            let Some(next) = line.pop_front() else { break };
            if !is_gone {
                bytes = bytes.saturating_add(next.bytes);
                items.push(next.item);
                replies.push(next.reply);
            }
        }
        if items.is_empty() {
            lines.remove(&self.key);
            self.is_over = true;
            return None;
        }
        Some((items, replies))
    }
}

impl<K: Eq + Hash, T, R> Drop for Line<K, T, R> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
