//! The store: queues in ordered maps behind one lock. Each call is one step under that lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Movable, QueueRow, Swept, Upkeep};
use zaqar_core::{Generation, Kind, LeaseId, QueueKey, Timestamp};

use crate::head::Head;
use crate::news::Listener;

/// A store that forgets everything when the process ends. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<QueueKey, QueueRow>,
    pub(crate) heads: BTreeMap<QueueKey, Head>,
    /// When each lease expires.
    pub(crate) leases: BTreeMap<LeaseId, Timestamp>,
    pub(crate) listeners: Vec<Weak<Mutex<Listener>>>,
    is_closed: bool,
}

/// Its queues cannot be moved to another store.
impl Movable for MemoryStore {}

impl MemoryStore {
    pub(crate) fn state(&self) -> Result<MutexGuard<'_, State>, Error> {
        // A panic under the lock is a bug of this crate; what it left is still valid.
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(Error::Closed) } else { Ok(state) }
    }

    /// Does a step on a queue, or answers what an empty one does.
    pub(crate) fn on<T: Default>(
        &self,
        key: &QueueKey,
        now: Timestamp,
        step: impl FnOnce(&mut Head, Timestamp) -> T,
    ) -> Result<T, Error> {
        let mut state = self.state()?;
        Ok(state.heads.get_mut(key).map_or_else(T::default, |head| {
            let now = head.time(now);
            step(head, now)
        }))
    }
}

impl State {
    /// The head, if it is as the caller assumes.
    pub(crate) fn guard(
        &mut self,
        key: &QueueKey,
        is_right: impl FnOnce(Generation) -> bool,
    ) -> Guarded<&mut Head> {
        match self.heads.get_mut(key) {
            None => Guarded::Absent,
            Some(head) if is_right(head.generation) => Guarded::Done(head),
            Some(head) => Guarded::Stale(head.generation),
        }
    }
}

#[async_trait]
impl Upkeep for MemoryStore {
    async fn ping(&self) -> Result<(), Error> {
        self.state().map(drop)
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let mut state = self.state()?;
        let State { heads, leases, .. } = &mut *state;
        let is_leased = |id: LeaseId| leases.get(&id).is_some_and(|until| *until > now);
        let mut done = 0;
        let mut expired = 0;
        for (key, head) in heads {
            let before = head.messages.len();
            done += head.sweep(now, budget - done, is_leased);
            if key.kind != Kind::Internal {
                expired += before - head.messages.len();
            }
        }
        let more = done == budget;
        if !more {
            // No subscription depends on one any more.
            leases.retain(|_, until| *until > now);
        }
        Ok(Swept { done, more, expired })
    }

    async fn shut_down(&self) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        state.notify(Listener::close);
        Ok(())
    }
}
