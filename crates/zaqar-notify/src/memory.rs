//! The memory of requests in flight, charged to the process's budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use zaqar_core::{Holder, MemoryBudget, Permit, ProjectId};

use crate::outcome::Failure;

/// How long a request waits for memory at most. It is a part of the attempt.
pub(crate) const WAIT: Duration = Duration::from_secs(3);
/// Between two looks at a budget of which others than deliveries may release something.
const POLL: Duration = Duration::from_millis(500);

/// Permits for requests in flight. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct RequestMemory {
    holder: Holder,
    released: Arc<Notify>,
}

/// The memory of one request.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    permit: Option<Permit>,
    /// How long it was waited for.
    pub(crate) waited: Duration,
    released: Arc<Notify>,
}

impl RequestMemory {
    pub(crate) fn new(budget: &MemoryBudget) -> Self {
        Self { holder: budget.background(), released: Arc::default() }
    }

    /// Charges the bytes of a request, and of the messages that it is made of, to their project.
    /// Waits for as long as `most` if too much is in use.
    pub(crate) async fn acquire(
        &self,
        project: &ProjectId,
        bytes: usize,
        most: Duration,
    ) -> Result<RequestPermit, Failure> {
        let holder = self.holder.for_project(project);
        let began = Instant::now();
        let (deadline, mut waited) = (began + most, Duration::ZERO);
        loop {
            let released = self.released.notified();
            match holder.try_acquire(bytes) {
                Ok(permit) => {
                    let (permit, released) = (Some(permit), Arc::clone(&self.released));
                    return Ok(RequestPermit { permit, waited, released });
                }
                Err(over) if over.requested > over.limit || Instant::now() >= deadline => {
                    return Err(over.into());
                }
                Err(_) => {
                    let next = deadline.min(Instant::now() + POLL);
                    let _is_released = tokio::time::timeout_at(next, released).await;
                    waited = began.elapsed();
                }
            }
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.permit = None;
        self.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{MemoryBounds, MemoryScope};

    async fn acquire(
        memory: &RequestMemory,
        project: &str,
        bytes: usize,
    ) -> Result<RequestPermit, Failure> {
        memory.acquire(&ProjectId::new(project).unwrap(), bytes, WAIT).await
    }

    fn scope(acquired: Result<RequestPermit, Failure>) -> MemoryScope {
        match acquired {
            Err(Failure::OverBudget(over)) => over.scope,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_charged_and_wait_for_others_to_end() {
        // Half of each is for what waits in the background.
        let bounds = MemoryBounds { process: 600, project: 400, ..MemoryBounds::UNLIMITED };
        let budget = MemoryBudget::new(bounds);
        let memory = RequestMemory::new(&budget);
        let first = acquire(&memory, "a", 160).await.unwrap();
        assert_eq!(budget.in_use(), 160);
        let began = Instant::now();
        assert_eq!(scope(acquire(&memory, "a", 50).await), MemoryScope::Project);
        assert_eq!(began.elapsed(), WAIT);
        let other = acquire(&memory, "b", 100).await.unwrap();
        assert_eq!(scope(acquire(&memory, "c", 50).await), MemoryScope::Process);
        let began = Instant::now();
        let (second, ()) = tokio::join!(acquire(&memory, "a", 50), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(first);
        });
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        let second = second.unwrap();
        assert_eq!((second.waited, other.waited), (began.elapsed(), Duration::ZERO));
        drop((second, other));
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_fits_does_not_wait() {
        let bounds = MemoryBounds { project: 400, ..MemoryBounds::UNLIMITED };
        let memory = RequestMemory::new(&MemoryBudget::new(bounds));
        let began = Instant::now();
        assert_eq!(scope(acquire(&memory, "a", 201).await), MemoryScope::Project);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
