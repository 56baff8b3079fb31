//! Whether a pool answers, as far as is known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use zaqar_core::QueueKey;
use zaqar_core::storage::Error;

/// What is known of a pool. Every state but the first lasts until a ping succeeds.
#[derive(Debug, Clone)]
enum State {
    Answers,
    /// An operation failed: a ping will tell.
    Suspected,
    /// With what the last ping saw.
    Away(Arc<str>),
    /// The ping fails, but some queues can be reached, as in a cluster without one of its nodes.
    AnswersPartly,
}

/// The state of one pool.
pub(crate) struct Outage {
    state: watch::Sender<State>,
    /// A queue that a request was rejected for since the last probe.
    rejected: Mutex<Option<QueueKey>>,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self { state: watch::channel(State::Answers).0, rejected: Mutex::default() }
    }

    /// Whether a request for a queue may try the pool. Waits for a ping in progress, but not for
    /// the pool.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the pool is away.
    pub(crate) async fn check(&self, name: &str, key: &QueueKey) -> Result<(), Error> {
        if matches!(*self.state.borrow(), State::Answers) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Suspected)).await;
        // The sender is our own.
        let Ok(State::Away(reason)) = known.as_deref() else { return Ok(()) };
        *self.rejected() = Some(key.clone());
        Err(Error::unavailable(format!("pool {name}: {reason}")))
    }

    /// Notes that an operation could not reach the pool. Returns whether it is to be probed: then
    /// [`Self::recovered`] must follow.
    pub(crate) fn suspect(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_new = matches!(state, State::Answers);
            if is_new {
                *state = State::Suspected;
            }
            is_new
        })
    }

    /// Notes what a failed ping saw.
    pub(crate) fn ping_failed(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let is_whole = !matches!(state, State::AnswersPartly);
            if is_whole {
                *state = State::Away(reason.into());
            }
            is_whole
        });
    }

    /// Notes that a queue can be reached although the ping fails.
    pub(crate) fn answers_partly(&self) {
        self.state.send_replace(State::AnswersPartly);
    }

    /// Notes that it answers.
    pub(crate) fn recovered(&self) {
        self.state.send_replace(State::Answers);
    }

    /// A queue of which a request was rejected since this was last called.
    pub(crate) fn take_rejected(&self) -> Option<QueueKey> {
        self.rejected().take()
    }

    fn rejected(&self) -> MutexGuard<'_, Option<QueueKey>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::{Kind, ProjectId, QueueName};

    use super::*;

    fn queue() -> QueueKey {
        let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new("q").unwrap());
        QueueKey { project, kind: Kind::Queue, name }
    }

    #[tokio::test]
    async fn requests_wait_for_the_ping_and_for_no_more() {
        let outage = Outage::new();
        outage.check("a", &queue()).await.unwrap();
        assert!(outage.suspect());
        assert!(!outage.suspect(), "one probe is enough");
        let key = queue();
        let (checked, ()) = tokio::join!(outage.check("a", &key), async {
            outage.ping_failed("no answer".to_owned());
        });
        let error = with_cause(&checked.unwrap_err());
        assert_eq!(error, "the store cannot be reached: pool a: no answer");
        assert_eq!(outage.take_rejected(), Some(queue()));
        assert_eq!(outage.take_rejected(), None);
        outage.recovered();
        outage.check("a", &queue()).await.unwrap();
        assert!(outage.suspect(), "of the next outage");
    }

    #[tokio::test]
    async fn a_pool_that_is_away_in_part_is_asked() {
        let outage = Outage::new();
        assert!(outage.suspect());
        outage.ping_failed("no answer".to_owned());
        outage.answers_partly();
        outage.ping_failed("no answer".to_owned());
        outage.check("a", &queue()).await.unwrap();
        assert!(!outage.suspect(), "it is probed until a ping succeeds");
    }

    fn with_cause(error: &Error) -> String {
        let cause = std::error::Error::source(error).unwrap();
        format!("{error}: {cause}")
    }
}
