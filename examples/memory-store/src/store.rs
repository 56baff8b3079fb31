//! The store: queues in ordered maps behind one lock. Each call is one step under that lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use zaqar_core::storage::{
    Broadcaster, Error, Guarded, Movable, News, NewsStream, QueueRow, Result, Swept, Upkeep,
};
use zaqar_core::{Generation, Kind, LeaseId, QueueKey, Timestamp};

use crate::queue::Queue;

/// A store that forgets everything when the process ends.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    pub(crate) news: Broadcaster,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<QueueKey, QueueRow>,
    pub(crate) queues: BTreeMap<QueueKey, Queue>,
    /// When each lease expires.
    pub(crate) leases: BTreeMap<LeaseId, Timestamp>,
    is_closed: bool,
}

impl MemoryStore {
    pub(crate) fn state(&self) -> Result<MutexGuard<'_, State>> {
        // A panic under the lock is a bug of this crate; what it left is still valid.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(Error::Closed) } else { Ok(state) }
    }

    /// Does a step on a queue at its time, or answers what one without a head does.
    pub(crate) fn on<T: Default>(
        &self,
        key: &QueueKey,
        now: Timestamp,
        step: impl FnOnce(&mut Queue, Timestamp) -> T,
    ) -> Result<T> {
        let mut state = self.state()?;
        Ok(state.queues.get_mut(key).map_or_else(T::default, |queue| {
            let now = queue.time(now);
            step(queue, now)
        }))
    }
}

impl State {
    /// The queue, if its generation is as the caller assumes.
    pub(crate) fn guard(
        &mut self,
        key: &QueueKey,
        is_assumed: impl FnOnce(Generation) -> bool,
    ) -> Guarded<&mut Queue> {
        Guarded::check(self.queues.get_mut(key), |queue| queue.generation, is_assumed)
    }
}

/// Its queues cannot be moved to another store.
impl Movable for MemoryStore {}

#[async_trait]
impl News for MemoryStore {
    async fn news(&self) -> Result<NewsStream> {
        self.news.listen()
    }
}

#[async_trait]
impl Upkeep for MemoryStore {
    async fn ping(&self) -> Result<()> {
        self.state().map(drop)
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept> {
        let mut state = self.state()?;
        let State { queues, leases, .. } = &mut *state;
        let is_leased = |id: LeaseId| leases.get(&id).is_some_and(|until| *until > now);
        let (mut left, mut expired) = (budget, 0);
        for (key, queue) in queues {
            let messages = queue.sweep(now, &mut left, is_leased);
            expired += if key.kind == Kind::Internal { 0 } else { messages };
        }
        if left > 0 {
            // No subscription depends on these any more.
            leases.retain(|_, until| *until > now);
        }
        Ok(Swept { done: budget - left, more: left == 0, expired })
    }

    async fn shut_down(&self) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.news.close();
        Ok(())
    }
}
