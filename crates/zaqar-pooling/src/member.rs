//! The open store of one pool. It is opened in the background, with retries, so that a pool that is
//! down delays only its own queues.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zaqar_core::pools::{Pool, PoolStatus, masked};
use zaqar_core::storage::{Error, MessageStore};
use zaqar_core::{StateLog, TaskMonitor};

use crate::outage::Outage;
use crate::place::Place;
use crate::{Connector, Purpose};

/// The timeout for opening a store.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before opening is retried.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// How long an operation waits for a store that is being opened.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Clone)]
enum State {
    Opening,
    Open(Arc<dyn MessageStore>),
    Failed(String),
}

/// A pool with its store.
pub(crate) struct Member {
    pub(crate) place: Place,
    /// The pool that it was opened for; `None` for the configured store.
    pool: Option<Pool>,
    state: watch::Receiver<State>,
    closing: CancellationToken,
    log: StateLog,
    /// The last error, if there was no success since.
    problem: Mutex<Option<String>>,
    outage: Outage,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Member {
    /// The configured store, which is open.
    pub(crate) fn configured(store: Arc<dyn MessageStore>) -> Self {
        let state = watch::channel(State::Open(store)).1;
        let (closing, log) = (CancellationToken::new(), StateLog::new());
        let (problem, outage) = (Mutex::default(), Outage::new());
        Self { place: Place::Configured, pool: None, state, closing, log, problem, outage }
    }

    /// Starts to open the store of a pool.
    pub(crate) fn open(pool: Pool, connector: Arc<dyn Connector>, tasks: &TaskMonitor) -> Self {
        let (state, seen) = watch::channel(State::Opening);
        let closing = CancellationToken::new();
        let opening = keep_open(pool.clone(), connector, state, closing.clone());
        let guard = tasks.guard(format!("pool {}", pool.name));
        tokio::spawn(async move {
            // Bound first, so that it is dropped on a panic.
            let guard = guard;
            opening.await;
            guard.finish();
        });
        let place = Place::Pool(pool.name.clone());
        let (log, problem, outage) = (StateLog::new(), Mutex::default(), Outage::new());
        Self { place, pool: Some(pool), state: seen, closing, log, problem, outage }
    }

    /// The name for logs.
    pub(crate) fn name(&self) -> &str {
        self.place.name()
    }

    /// Whether it is the store that `pool` describes.
    pub(crate) fn is_of(&self, pool: &Pool) -> bool {
        let own = |own: &Pool| own.uri == pool.uri && own.options == pool.options;
        self.pool.as_ref().is_some_and(own)
    }

    /// Its store, if it is open.
    pub(crate) fn if_open(&self) -> Option<Arc<dyn MessageStore>> {
        match &*self.state.borrow() {
            State::Open(store) => Some(Arc::clone(store)),
            State::Opening | State::Failed(_) => None,
        }
    }

    /// Its store.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if opening fails or takes more than 5 s. [`Error::Closed`] if it was
    /// closed before it was open.
    pub(crate) async fn store(&self) -> Result<Arc<dyn MessageStore>, Error> {
        if let Some(store) = self.if_open() {
            return Ok(store);
        }
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let mut state = self.state.clone();
        let is_known = |state: &State| !matches!(state, State::Opening);
        let known = tokio::time::timeout(WAIT, state.wait_for(is_known)).await;
        let unavailable =
            |why: &str| Err(Error::unavailable(format!("pool {}: {why}", self.name())));
        match known.as_ref().map(|known| known.as_deref()) {
            Ok(Ok(State::Open(store))) => Ok(Arc::clone(store)),
            Ok(Ok(State::Failed(reason))) => unavailable(reason),
            Ok(Ok(State::Opening)) | Err(_) => unavailable("it is being opened"),
            Ok(Err(_)) => Err(Error::Closed),
        }
    }

    /// Whether it answers requests.
    pub(crate) const fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Whether it is a pool, not the configured store.
    pub(crate) const fn is_pool(&self) -> bool {
        self.pool.is_some()
    }

    /// Waits until it is open; `None` once it is closed for good.
    pub(crate) async fn opened(&self) -> Option<Arc<dyn MessageStore>> {
        let mut state = self.state.clone();
        loop {
            if let State::Open(store) = &*state.borrow_and_update() {
                return Some(Arc::clone(store));
            }
            tokio::select! {
                () = self.closing.cancelled() => return None,
                changed = state.changed() => changed.ok()?,
            }
        }
    }

    /// Its pool and state; `None` for the configured store.
    pub(crate) fn status(&self) -> Option<PoolStatus> {
        let name = self.pool.as_ref()?.name.clone();
        let noted = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (store, problem) = match &*self.state.borrow() {
            State::Open(store) => (Some(Arc::clone(store)), noted),
            State::Opening => (None, Some("it is being opened".to_owned())),
            State::Failed(reason) => (None, Some(reason.clone())),
        };
        Some(PoolStatus { name, store, problem })
    }

    /// Whether the last operation on the pool as a whole has failed.
    pub(crate) fn has_problem(&self) -> bool {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Records and logs the result of an operation on the pool as a whole.
    pub(crate) fn note<T>(&self, outcome: &Result<T, Error>) {
        let problem = outcome.as_ref().err().map(with_source);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        match outcome {
            Ok(_) => {
                if let Some(failures) = self.log.success() {
                    info!(pool = self.name(), failures, "the pool is available again");
                }
            }
            Err(error) => {
                if let Some(failures) = self.log.failure() {
                    let error = error as &dyn std::error::Error;
                    warn!(pool = self.name(), error, failures, "the pool is unavailable");
                }
            }
        }
    }

    /// Closes it for good, and ends the waits for it.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.closing.cancel();
        match self.if_open() {
            Some(store) => store.shut_down().await,
            None => Ok(()),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// An error with what the driver saw.
pub(crate) fn with_source(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Opens a store, with retries until it is open or must be closed.
async fn keep_open(
    pool: Pool,
    connector: Arc<dyn Connector>,
    state: watch::Sender<State>,
    closing: CancellationToken,
) {
    let log = StateLog::new();
    loop {
        let opening = tokio::time::timeout(OPEN_TIMEOUT, connector.open(&pool, Purpose::Serve));
        let opened = tokio::select! {
            () = closing.cancelled() => return,
            opened = opening => opened,
        };
        let reason = match opened {
            Ok(Ok(store)) => {
                info!(pool = pool.name.as_str(), uri = masked(pool.uri.expose()), "pool open");
                state.send_replace(State::Open(store));
                // Keeps the channel open, so that waiters wait until it is closed.
                return closing.cancelled().await;
            }
            Ok(Err(refusal)) => refusal.reason,
            Err(_) => format!("no answer in {} s", OPEN_TIMEOUT.as_secs()),
        };
        if let Some(failures) = log.failure() {
            warn!(pool = pool.name.as_str(), reason, failures, "the pool cannot be opened");
        }
        state.send_replace(State::Failed(reason));
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(REOPEN_AFTER) => {}
        }
    }
}
