//! Deduplicates the application of intents within this process: concurrent callers wait for the one
//! that applies an intent, and later callers skip it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::Binary;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use zaqar_core::storage::Error;

/// About how many intents are remembered.
const REMEMBERED: usize = 4096;
/// After an attempt that failed or was cancelled after this time, the next one waits as long: its
/// commands probably timed out, and the server may still be executing them. A quick failure, or a
/// caller that leaves, delays nobody.
const SLOW: Duration = Duration::from_secs(5);

/// The intents that were or are being applied, by id.
#[derive(Debug, Default)]
pub(crate) struct AppliedIntents {
    intents: Mutex<HashMap<Vec<u8>, Arc<Application>>>,
}

/// The application of one intent.
#[derive(Debug, Default)]
struct Application {
    done: OnceCell<u64>,
    /// The next attempt may start then. So an intent whose application times out does not keep the
    /// database busy all the time, however many callers need it.
    not_before: Mutex<Option<Instant>>,
}

/// A running attempt. If it is dropped late without success, it delays the next one.
struct Attempt<'a> {
    application: &'a Application,
    start: Instant,
    has_succeeded: bool,
}

impl AppliedIntents {
    /// Runs `work` once for this intent. Returns its result, also to later callers. After an
    /// attempt that failed late, calls fail for [`SLOW`] without running `work`.
    pub(crate) async fn once(
        &self,
        op: &Binary,
        work: impl Future<Output = Result<u64, Error>>,
    ) -> Result<u64, Error> {
        let application = {
            let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
            if intents.len() >= REMEMBERED {
                // Drop those that are not in use.
                intents.retain(|_, intent| Arc::strong_count(intent) > 1);
            }
            Arc::clone(intents.entry(op.bytes.clone()).or_default())
        };
        // If the running caller fails or is cancelled, the next one starts over.
        let attempt = || async {
            let mut attempt = application.start()?;
            let done = work.await?;
            attempt.has_succeeded = true;
            Ok(done)
        };
        application.done.get_or_try_init(attempt).await.copied()
    }

    /// Delays the next attempt, as after a failed one.
    #[cfg(test)]
    pub(crate) fn delay(&self, op: &Binary, by: Duration) {
        let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        let application = intents.entry(op.bytes.clone()).or_default();
        *application.not_before.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + by);
    }

    /// Whether this process has applied an intent, is doing so, or tried to.
    pub(crate) fn has(&self, op: &Binary) -> bool {
        let intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        intents.contains_key(&op.bytes)
    }
}

impl Application {
    fn start(&self) -> Result<Attempt<'_>, Error> {
        let start = Instant::now();
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(not_before) = not_before.filter(|not_before| *not_before > start) {
            let seconds = not_before.duration_since(start).as_secs_f64();
            return Err(Error::unavailable(format!(
                "an operation on the queue could not be completed and is retried in {seconds:.1} s"
            )));
        }
        Ok(Attempt { application: self, start, has_succeeded: false })
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_succeeded && self.start.elapsed() >= SLOW {
            let not_before = Instant::now() + SLOW;
            let last = &self.application.not_before;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(not_before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::{advance, sleep, timeout};

    use super::*;
    use crate::schema::random_id;

    #[tokio::test(start_paused = true)]
    async fn an_intent_is_applied_once_and_again_only_after_a_failure() {
        let (applied, op, done) = (AppliedIntents::default(), random_id(), Cell::new(0));
        let work = async |answer: Result<u64, Error>| {
            done.set(done.get() + 1);
            answer
        };
        assert!(!applied.has(&op));
        assert!(applied.once(&op, work(Err(Error::Closed))).await.is_err());
        assert_eq!(applied.once(&op, work(Ok(7))).await.unwrap(), 7);
        assert_eq!(applied.once(&op, work(Ok(8))).await.unwrap(), 7);
        assert_eq!(done.get(), 2);
        assert!(applied.has(&op));
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_attempt_that_fails_late_delays_the_next_one() {
        let (applied, started) = (AppliedIntents::default(), Cell::new(0));
        let work = async |duration, answer: Result<u64, Error>| {
            started.set(started.get() + 1);
            sleep(duration).await;
            answer
        };
        let moment = Duration::from_millis(10);
        for (duration, is_late) in [(SLOW - moment, false), (SLOW, true)] {
            let (failing, cancelled) = (random_id(), random_id());
            assert!(applied.once(&failing, work(duration, Err(Error::Closed))).await.is_err());
            let again = applied.once(&failing, work(moment, Ok(1))).await;
            assert_eq!(again.is_err(), is_late, "{again:?}");
            let endless = applied.once(&cancelled, work(10 * SLOW, Ok(1)));
            assert!(timeout(duration, endless).await.is_err());
            let again = applied.once(&cancelled, work(moment, Ok(1))).await;
            assert_eq!(again.is_err(), is_late, "{again:?}");
        }
        assert_eq!(started.get(), 6);
        let late = random_id();
        assert!(applied.once(&late, work(SLOW, Err(Error::Closed))).await.is_err());
        let refused = applied.once(&late, work(moment, Ok(1))).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
        advance(SLOW).await;
        assert_eq!(applied.once(&late, work(moment, Ok(3))).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let applied = AppliedIntents::default();
        for _ in 0..2 * REMEMBERED {
            applied.once(&random_id(), async { Ok(1) }).await.unwrap();
        }
        assert!(applied.intents.lock().unwrap().len() <= REMEMBERED);
    }
}
