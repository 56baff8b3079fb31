//! Limits concurrent reads of many rows, with fairness between projects.
//!
//! A read runs on the thread that polls its task. If all threads were busy with pages of one
//! project, the tasks of others would not be polled. Therefore such reads need permits, of which
//! there is one fewer than threads. Reads of single rows need none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use zaqar_core::ProjectId;

use crate::fair_queue::{Bounds, Cost, FairQueue, Refusal, Slice};

/// Reads that wait, at most.
const MAX_WAITING: usize = 4096;
/// The cost of each read: one turn of its project.
const COST: usize = 64 << 10;

/// Grants permits.
#[derive(Debug)]
pub(crate) struct ReadLimiter {
    /// Free permits. The lock serializes all operations.
    free: Mutex<usize>,
    waiting: FairQueue<oneshot::Sender<Permit>>,
}

/// Allows one read; when it is dropped, the next waiting read gets it.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<ReadLimiter>>);

impl ReadLimiter {
    /// One permit fewer than there are processors, and at least one.
    pub(crate) fn new() -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self::with_permits(processors.saturating_sub(1).max(1))
    }

    fn with_permits(permits: usize) -> Arc<Self> {
        let bounds = Bounds { items: MAX_WAITING, bytes: MAX_WAITING * COST };
        Arc::new(Self { free: Mutex::new(permits), waiting: FairQueue::new(bounds) })
    }

    /// Waits for a permit. A read that had to wait begins after a look for events.
    pub(crate) async fn acquire(self: &Arc<Self>, project: &ProjectId) -> Result<Permit, Refusal> {
        let waiter = {
            let mut free = self.free();
            if *free > 0 {
                *free -= 1;
                return Ok(Permit(Some(Arc::clone(self))));
            }
            let (sender, waiter) = oneshot::channel();
            self.waiting.push(&Some(project.clone()), Cost::bytes(COST), sender)?;
            waiter
        };
        let permit = waiter.await.map_err(|_| Refusal::Closed)?;
        // Else the reads of all that wait would run one after the other before the thread looks for
        // requests that have arrived: who gives a permit wakes a task that the runtime runs next.
        tokio::task::yield_now().await;
        Ok(permit)
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(limiter) = self.0.take() else { return };
        loop {
            let next = {
                let mut free = limiter.free();
                let next = limiter.waiting.take_now(Slice { items: 1, bytes: COST }).pop();
                if next.is_none() {
                    *free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&limiter)))) {
                Ok(()) => return,
                // The waiter was dropped: the loop passes the permit on to the next one.
                Err(mut permit) => drop(permit.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn projects_are_admitted_in_turn() {
        let limiter = ReadLimiter::with_permits(1);
        let order = Mutex::new(Vec::new());
        let project = |name: &str| ProjectId::new(name).unwrap();
        let first = limiter.acquire(&project("greedy")).await.unwrap();
        let read = async |name: &str, number: u32| {
            let permit = limiter.acquire(&project(name)).await.unwrap();
            order.lock().unwrap().push(format!("{name} {number}"));
            drop(permit);
        };
        let gone = project("gone");
        let mut cancelled = Box::pin(limiter.acquire(&gone));
        let mut context = Context::from_waker(Waker::noop());
        let (g1, g2, g3) = (read("greedy", 1), read("greedy", 2), read("greedy", 3));
        let (q1, q2) = (read("quiet", 1), read("quiet", 2));
        let (mut g1, mut g2, mut g3) = (pin!(g1), pin!(g2), pin!(g3));
        let (mut q1, mut q2) = (pin!(q1), pin!(q2));
        assert!(g1.as_mut().poll(&mut context).is_pending());
        assert!(cancelled.as_mut().poll(&mut context).is_pending());
        assert!(g2.as_mut().poll(&mut context).is_pending());
        assert!(g3.as_mut().poll(&mut context).is_pending());
        assert!(q1.as_mut().poll(&mut context).is_pending());
        assert!(q2.as_mut().poll(&mut context).is_pending());
        drop(cancelled);
        drop(first);
        tokio::join!(q2, q1, g3, g2, g1);
        assert_eq!(
            *order.lock().unwrap(),
            ["greedy 1", "quiet 1", "greedy 2", "quiet 2", "greedy 3"]
        );
        assert_eq!(*limiter.free(), 1);
    }

    #[tokio::test]
    async fn a_read_that_waited_begins_after_a_look_for_events() {
        let limiter = ReadLimiter::with_permits(1);
        let project = ProjectId::new("p").unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let first = limiter.acquire(&project).await.unwrap();
        let mut waiting = pin!(limiter.acquire(&project));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(waiting.as_mut().poll(&mut context).is_pending(), "others run before it");
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
}
