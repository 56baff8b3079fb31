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

type Turn = Arc<tokio::sync::Mutex<Option<Opened>>>;

/// The last head that was opened.
#[derive(Debug)]
struct Opened {
    began: Instant,
    generation: Generation,
}

impl Openings {
    /// Opens a head when no other request does, unless one has begun and done so since the call.
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
        if let Some(opened) = last.as_ref().filter(|opened| opened.began > arrived) {
            return Ok(opened.generation);
        }
        let began = Instant::now();
        let generation = open.await?;
        *last = Some(Opened { began, generation });
        Ok(generation)
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

    use zaqar_core::{Incarnation, Kind, ProjectId, QueueName, Version};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_share_what_is_opened_after_they_came() {
        let (openings, opened) = (Arc::new(Openings::default()), Arc::new(AtomicU64::new(0)));
        let key = |name| {
            let name = QueueName::new(name).unwrap();
            QueueKey { project: ProjectId::new("p").unwrap(), kind: Kind::Queue, name }
        };
        let request = |name| {
            let (openings, opened, key) = (openings.clone(), opened.clone(), key(name));
            tokio::spawn(async move {
                let open = async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let count = opened.fetch_add(1, Ordering::Relaxed) + 1;
                    let incarnation = Incarnation::new(count);
                    Ok(Generation { incarnation, version: Version::new(1) })
                };
                openings.open(&key, open).await.unwrap().incarnation.get()
            })
        };
        let start = Instant::now();
        let first = request("q");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let others: Vec<_> = (0..100).map(|_| request("q")).collect();
        let of_another_queue = request("other");
        assert_eq!(first.await.unwrap(), 1);
        for other in others {
            assert!(other.await.unwrap() > 1, "the first had begun before");
        }
        of_another_queue.await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 3);
        assert_eq!(start.elapsed(), Duration::from_millis(200));
        assert!(openings.turns().is_empty());

        // A request that is given up leaves nothing, and the next one opens.
        let given_up = request("q");
        tokio::time::sleep(Duration::from_millis(50)).await;
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        assert!(openings.turns().is_empty());
        assert_eq!(request("q").await.unwrap(), 4);
    }
}
