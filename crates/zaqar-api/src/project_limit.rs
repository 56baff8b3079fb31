//! Limits the concurrent expensive operations of each project, so that no project can occupy the
//! whole server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zaqar_core::{OperationInProgress, OperationLimit, ProjectId};

/// Maximum number of waiting operations of one project. Further ones are rejected.
const MAX_WAITING: usize = 128;

/// Maximum number of waiting operations of all projects. Further ones are rejected.
const MAX_WAITING_TOTAL: usize = 32 * MAX_WAITING;

/// Limits how many operations of each project are in progress; others wait in order of arrival.
/// Projects do not wait for each other.
pub(crate) struct ProjectLimit {
    limit: usize,
    /// Only projects with operations in progress or waiting.
    projects: Mutex<HashMap<ProjectId, Project>>,
    /// Limits the waiting operations.
    waiting: OperationLimit,
}

struct Project {
    slots: Arc<Semaphore>,
    /// Number of operations in progress or waiting.
    operations: usize,
}

/// One operation of a project, waiting or in progress; it ends when this is dropped.
struct Operation<'a> {
    limit: &'a ProjectLimit,
    project: &'a ProjectId,
}

/// Whether an operation may run.
pub(crate) enum Acquisition<'a> {
    /// It may run now.
    Granted(Slot<'a>),
    /// It must wait for others of its project.
    Queued(Waiting<'a>),
}

/// The slot of a running operation, which is freed when this is dropped.
pub(crate) struct Slot<'a> {
    // Declared first, so that the permit is returned before the project is removed.
    _permit: Option<OwnedSemaphorePermit>,
    _operation: Operation<'a>,
}

/// An operation that waits for a slot of its project. Dropping this cancels the wait.
pub(crate) struct Waiting<'a> {
    operation: Operation<'a>,
    slots: Arc<Semaphore>,
    _waiting: OperationInProgress,
}

/// Too many operations are waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyWaiting;

impl ProjectLimit {
    /// A limit, at least 1.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let waiting = OperationLimit::new(MAX_WAITING_TOTAL);
        Self { limit, projects: Mutex::default(), waiting }
    }

    /// Starts an operation of a project, or queues it.
    ///
    /// # Errors
    /// [`TooManyWaiting`].
    pub(crate) fn admit<'a>(
        &'a self,
        project: &'a ProjectId,
    ) -> Result<Acquisition<'a>, TooManyWaiting> {
        let (operation, slots) = self.register(project)?;
        // Cannot overtake waiting operations: the semaphore gives a freed slot to them.
        if let Ok(permit) = Arc::clone(&slots).try_acquire_owned() {
            return Ok(Acquisition::Granted(Slot { _permit: Some(permit), _operation: operation }));
        }
        let waiting = self.waiting.begin().map_err(|_| TooManyWaiting)?;
        Ok(Acquisition::Queued(Waiting { operation, slots, _waiting: waiting }))
    }

    fn register<'a>(
        &'a self,
        project: &'a ProjectId,
    ) -> Result<(Operation<'a>, Arc<Semaphore>), TooManyWaiting> {
        let mut projects = self.lock();
        let entry = projects.entry(project.clone()).or_insert_with(|| Project {
            slots: Arc::new(Semaphore::new(self.limit)),
            operations: 0,
        });
        if entry.operations >= self.limit.saturating_add(MAX_WAITING) {
            return Err(TooManyWaiting);
        }
        entry.operations += 1;
        Ok((Operation { limit: self, project }, Arc::clone(&entry.slots)))
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, Project>> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Waiting<'a> {
    /// Waits for a slot, in the order of the first polls.
    pub(crate) async fn wait(self) -> Slot<'a> {
        let Self { operation, slots, _waiting } = self;
        // The semaphore is never closed.
        let permit = slots.acquire_owned().await.ok();
        Slot { _permit: permit, _operation: operation }
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let mut projects = self.limit.lock();
        if let Some(project) = projects.get_mut(self.project) {
            project.operations -= 1;
            if project.operations == 0 {
                projects.remove(self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn project(name: &str) -> ProjectId {
        ProjectId::new(name).unwrap()
    }

    fn slot<'a>(limit: &'a ProjectLimit, project: &'a ProjectId) -> Slot<'a> {
        match limit.admit(project) {
            Ok(Acquisition::Granted(slot)) => slot,
            Ok(Acquisition::Queued(_)) => panic!("it waits"),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn wait<'a>(limit: &'a ProjectLimit, project: &'a ProjectId) -> Slot<'a> {
        match limit.admit(project) {
            Ok(Acquisition::Granted(_)) => panic!("it does not wait"),
            Ok(Acquisition::Queued(waiting)) => waiting.wait().await,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[tokio::test]
    async fn a_project_waits_for_itself_alone_and_in_order() {
        let (limit, greedy, quiet) = (ProjectLimit::new(2), project("greedy"), project("quiet"));
        let first = slot(&limit, &greedy);
        let _second = slot(&limit, &greedy);
        let mut third = pin!(wait(&limit, &greedy));
        let mut fourth = pin!(wait(&limit, &greedy));
        poll_fn(|cx| {
            assert!(third.as_mut().poll(cx).is_pending() && fourth.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(slot(&limit, &quiet));
        drop(first);
        assert!(matches!(limit.admit(&greedy), Ok(Acquisition::Queued(_))), "it overtakes");
        poll_fn(|cx| {
            assert!(fourth.as_mut().poll(cx).is_pending(), "out of order");
            third.as_mut().poll(cx).map(drop)
        })
        .await;
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let (limit, greedy) = (ProjectLimit::new(1), project("greedy"));
        let slot = slot(&limit, &greedy);
        {
            let mut waiting = pin!(wait(&limit, &greedy));
            poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            assert_eq!((limit.lock()[&greedy].operations, limit.waiting.in_progress()), (2, 1));
        }
        assert_eq!((limit.lock()[&greedy].operations, limit.waiting.in_progress()), (1, 0));
        drop(slot);
        assert!(limit.lock().is_empty());
    }

    #[test]
    fn a_bounded_number_waits() {
        let (limit, greedy, quiet) = (ProjectLimit::new(1), project("greedy"), project("quiet"));
        let mut entered: Vec<_> =
            (0..=MAX_WAITING).map(|_| limit.admit(&greedy).map_err(drop).unwrap()).collect();
        assert_eq!(limit.admit(&greedy).err(), Some(TooManyWaiting));
        drop(slot(&limit, &quiet));
        entered.pop();
        assert!(limit.admit(&greedy).is_ok());
    }

    #[test]
    fn a_bounded_number_of_all_projects_waits() {
        let limit = ProjectLimit::new(1);
        let projects: Vec<_> = (0..40).map(|number| project(&format!("p{number}"))).collect();
        let mut entered = Vec::new();
        for project in &projects {
            entered.extend((0..=MAX_WAITING).map_while(|_| limit.admit(project).ok()));
        }
        // One of each project does not wait.
        assert_eq!(entered.len(), MAX_WAITING_TOTAL + projects.len());
        let quiet = project("quiet");
        drop(slot(&limit, &quiet));
    }
}
