//! Locks by queue. Operations of this process that would conflict at the database and have to retry
//! wait for each other here instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as KeyMutex, OwnedMutexGuard};

/// A mutex for each name that is locked or waited for.
#[derive(Debug, Default)]
pub(crate) struct QueueLocks {
    locks: Mutex<HashMap<String, Arc<KeyMutex<()>>>>,
}

/// A held lock, released on drop.
#[derive(Debug)]
pub(crate) struct QueueLock<'a> {
    locks: &'a QueueLocks,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl QueueLocks {
    /// Waits for the lock of a name.
    pub(crate) async fn lock(&self, name: String) -> QueueLock<'_> {
        let mutex = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(name.clone()).or_default())
        };
        // Created before the wait, so that a cancelled wait cleans up as well.
        let mut lock = QueueLock { locks: self, name, guard: None };
        lock.guard = Some(mutex.lock_owned().await);
        lock
    }
}

impl Drop for QueueLock<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut locks = self.locks.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.get(&self.name).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            locks.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_lets_one_through_and_is_forgotten_with_the_last() {
        let locks = QueueLocks::default();
        let first = locks.lock("q".to_owned()).await;
        let other = locks.lock("r".to_owned()).await;
        let mut second = Box::pin(locks.lock("q".to_owned()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert_eq!(locks.locks.lock().unwrap().len(), 1);
        let _first = locks.lock("q".to_owned()).await;
        let mut given_up = Box::pin(locks.lock("q".to_owned()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        drop((other, _first));
        assert_eq!(locks.locks.lock().unwrap().len(), 0);
    }
}
