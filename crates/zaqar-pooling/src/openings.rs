//! Heads that are being opened by this server.
//!
//! Whoever opens a head confirms the queue's row, which one at a time can do. So many first
//! requests to one queue open it one after the other, and those that wait share what was opened
//! after they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use zaqar_core::storage::Error;
use zaqar_core::{Generation, QueueKey};

/// The queues whose heads are being opened: no more than there are requests in progress.
#[derive(Debug, Default)]
pub(crate) struct Openings(Mutex<HashMap<QueueKey, Turn>>);

type Turn = Arc<tokio::sync::Mutex<Option<Attempt>>>;

/// The last attempt to open a head that has ended.
#[derive(Debug)]
enum Attempt {
    Opened { began: Instant, generation: Generation },
    Failed { ended: Instant },
}

impl Openings {
    /// Opens a head when no other request does, unless one has begun and done so since the call. If
    /// one has failed since, it does not wait for the others: each would wait for what is away.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) async fn open(
        &self,
        key: &QueueKey,
        open: impl Future<Output = Result<Generation, Error>>,
    ) -> Result<Generation, Error> {
        let arrived = Instant::now();
        let waiting = self.wait_for(key);
        let mut last = waiting.turn.lock().await;
        match *last {
            Some(Attempt::Opened { began, generation }) if began > arrived => {
                return Ok(generation);
            }
            Some(Attempt::Failed { ended }) if ended > arrived => {
                drop(last);
                return open.await;
            }
            Some(Attempt::Opened { .. } | Attempt::Failed { .. }) | None => {}
        }
        let began = Instant::now();
        let opened = open.await;
        *last = Some(match opened {
            Ok(generation) => Attempt::Opened { began, generation },
            Err(_) => Attempt::Failed { ended: Instant::now() },
        });
        opened
    }

    fn wait_for(&self, key: &QueueKey) -> Waiting<'_> {
        let turn = Arc::clone(self.turns().entry(key.clone()).or_default());
        Waiting { openings: self, key: key.clone(), turn }
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<QueueKey, Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that opens a head or waits to; the last one removes the queue.
struct Waiting<'a> {
    openings: &'a Openings,
    key: QueueKey,
    turn: Turn,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut turns = self.openings.turns();
        // The map's and this one.
        if Arc::strong_count(&self.turn) == 2 {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use zaqar_core::{Incarnation, Kind, ProjectId, QueueName, Version};

    use super::*;

    fn key(name: &str) -> QueueKey {
        let name = QueueName::new(name).unwrap();
        QueueKey { project: ProjectId::new("p").unwrap(), kind: Kind::Queue, name }
    }

    /// Opens heads, each in 100 ms, and numbers them.
    #[derive(Debug, Default, Clone)]
    struct Opener {
        openings: Arc<Openings>,
        opened: Arc<AtomicU64>,
        is_away: bool,
    }

    impl Opener {
        fn request(&self, name: &'static str) -> JoinHandle<Option<u64>> {
            let Self { openings, opened, is_away } = self.clone();
            tokio::spawn(async move {
                let open = async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let incarnation = Incarnation::new(opened.fetch_add(1, Ordering::Relaxed) + 1);
                    let generation = Generation { incarnation, version: Version::new(1) };
                    if is_away { Err(Error::Closed) } else { Ok(generation) }
                };
                let opened = openings.open(&key(name), open).await;
                opened.ok().map(|generation| generation.incarnation.get())
            })
        }

        /// One request, and 50 ms later a hundred more; returns what they got, within 200 ms.
        async fn many(&self) -> (Option<u64>, Vec<Option<u64>>) {
            let start = Instant::now();
            let first = self.request("q");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let others: Vec<_> = (0..100).map(|_| self.request("q")).collect();
            let of_another_queue = self.request("other");
            let first = first.await.unwrap();
            let others = futures_util::future::join_all(others).await;
            of_another_queue.await.unwrap();
            assert_eq!(start.elapsed(), Duration::from_millis(200));
            assert!(self.openings.turns().is_empty());
            (first, others.into_iter().map(Result::unwrap).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_share_what_is_opened_after_they_came() {
        let opener = Opener::default();
        let (first, others) = opener.many().await;
        assert_eq!(first, Some(1));
        assert!(others.iter().all(|other| *other > Some(1)), "the first had begun before");
        assert_eq!(opener.opened.load(Ordering::Relaxed), 3);

        // A request that is given up leaves nothing, and the next one opens.
        let given_up = opener.request("q");
        tokio::time::sleep(Duration::from_millis(50)).await;
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        assert!(opener.openings.turns().is_empty());
        assert_eq!(opener.request("q").await.unwrap(), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_a_failure_once_not_one_after_the_other() {
        let opener = Opener { is_away: true, ..Opener::default() };
        let (first, others) = opener.many().await;
        assert!(others.into_iter().chain([first]).all(|opened| opened.is_none()));
    }
}
