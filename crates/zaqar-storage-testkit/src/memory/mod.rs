//! An in-memory store with both roles, simple enough to be obviously correct.
//!
//! It has one lock, ordered maps, and no timer: states that depend on time are computed on each
//! call. Nothing survives a restart of the process. Claims and pages scan every message before the
//! ones they return, so it is for tests and small embedded uses.

mod claims;
mod factory;
mod fault;
mod head;
mod heads;
mod leases;
mod messages;
mod moves;
mod news;
mod outbox;
mod queues;
mod subscriptions;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use zaqar_core::storage::{Error, QueueRow};
use zaqar_core::{
    Generation, Incarnation, Kind, LeaseId, MessageId, ProjectId, QueueKey, Timestamp, Version,
};

pub use factory::Memories;
pub use fault::Fault;
use head::Head;

/// An in-memory store for queue rows and messages. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    fault: Option<Fault>,
    is_shut_down: Arc<AtomicBool>,
    is_away: Arc<AtomicBool>,
    is_silent: Arc<AtomicBool>,
    /// Queues whose calls fail.
    failing: Arc<Mutex<BTreeSet<QueueKey>>>,
    /// Queues whose entries cannot be leased: the call gets no answer.
    hanging: Arc<Mutex<BTreeSet<QueueKey>>>,
    calls_left: Option<Arc<AtomicI64>>,
    is_immovable: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<QueueKey, QueueRow>,
    heads: BTreeMap<QueueKey, Head>,
    /// Heads that [`Fault::CloseKeepsContents`] keeps.
    forgotten: BTreeMap<QueueKey, Head>,
    /// The number of posts so far.
    posts: u64,
    /// The latest post of each queue: its number and its last message.
    latest: BTreeMap<QueueKey, (u64, MessageId)>,
    /// The expiry of each lease that was ever created.
    leases: BTreeMap<LeaseId, Timestamp>,
    /// Listeners that wait for news.
    listeners: Vec<Waker>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with a fault, to prove that a test detects it.
    pub fn with_fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// An empty store that has no [`zaqar_core::storage::Moves`].
    #[must_use]
    pub fn immovable() -> Self {
        Self { is_immovable: true, ..Self::default() }
    }

    /// Another handle of the same store, as a second server would have. It still works when this
    /// one is shut down.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { is_shut_down: Arc::default(), calls_left: None, ..self.clone() }
    }

    /// As [`Self::connect`], for a server that dies after some calls: each call on this handle
    /// takes one off `calls_left`, which handles of several stores may share, and fails once none
    /// is left.
    #[must_use]
    pub fn connect_for(&self, calls_left: Arc<AtomicI64>) -> Self {
        Self { calls_left: Some(calls_left), ..self.connect() }
    }

    /// Makes every call fail with [`Error::Unavailable`], on all handles, until it is reset.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Release);
    }

    /// Makes every call on one queue fail with [`Error::Unavailable`], on all handles, until it is
    /// reset.
    pub fn set_failing(&self, key: &QueueKey, is_failing: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_failing {
            failing.insert(key.clone());
        } else {
            failing.remove(key);
        }
    }

    /// Lets leases of the outbox's entries of one queue never be answered, on all handles.
    pub fn set_hanging(&self, key: &QueueKey) {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
    }

    /// Lets look-ups of due queues and of the volume never be answered, on all handles, until it is
    /// reset: those that have begun stay without an answer.
    pub fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Release);
    }

    /// Deletes everything, as if the store was restarted empty.
    pub fn lose_everything(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = std::mem::take(&mut state.listeners);
        *state = State { listeners, ..State::default() };
    }

    async fn answer(&self) {
        if self.is_silent.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }

    async fn answer_of(&self, key: &QueueKey) {
        if self.hanging.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            std::future::pending::<()>().await;
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, Error> {
        if self.is_shut_down.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if self.is_away.load(Ordering::Acquire) {
            return Err(Error::unavailable("the store is set to unavailable"));
        }
        if let Some(calls_left) = &self.calls_left
            && calls_left.fetch_sub(1, Ordering::AcqRel) <= 0
        {
            return Err(Error::unavailable("the server is dead"));
        }
        // A panic under the lock is a bug of this crate, and every operation leaves the maps
        // consistent.
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state, for a call on one queue.
    fn state_of(&self, key: &QueueKey) -> Result<MutexGuard<'_, State>, Error> {
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            return Err(Error::unavailable("the queue is set to fail"));
        }
        let state = self.state()?;
        let head = state.heads.get(&self.stored_key(key));
        match head.and_then(|head| head.frozen) {
            Some((id, end)) => Err(Error::Moved { id, end }),
            None => Ok(state),
        }
    }

    /// The key under which a queue is stored: its own, unless a fault merges queues.
    fn stored_key(&self, key: &QueueKey) -> QueueKey {
        let mut stored_key = key.clone();
        if self.has(Fault::ProjectLeak)
            && let Ok(project) = ProjectId::new("everybody")
        {
            stored_key.project = project;
        }
        if self.has(Fault::KindLeak) {
            stored_key.kind = Kind::Queue;
        }
        stored_key
    }

    /// The number as it is stored.
    fn stored_number(&self, number: u64) -> u64 {
        if self.has(Fault::NumbersRounded) { number as f64 as u64 } else { number }
    }

    /// The generation as it is stored.
    fn stored_generation(&self, generation: Generation) -> Generation {
        let version = Version::new(self.stored_number(generation.version.get()));
        Generation { version, ..generation }
    }

    /// The answer for a queue without a head.
    fn nothing<T>(&self, answer: T) -> Result<T, Error> {
        if self.has(Fault::MissingHeadFails) {
            return Err(Error::failed("there is no such queue"));
        }
        Ok(answer)
    }

    /// Opens a missing head if a fault is set.
    fn open_if_faulty(&self, state: &mut State, key: &QueueKey, now: Timestamp) {
        if self.has(Fault::OpensMissingHead) {
            let generation =
                Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
            let fresh = || Head::new(generation, now, self.fault);
            state.heads.entry(key.clone()).or_insert_with(fresh);
        }
    }

    /// Lets other tasks run between the two halves of an operation that a fault makes non-atomic.
    async fn yield_between_halves(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
