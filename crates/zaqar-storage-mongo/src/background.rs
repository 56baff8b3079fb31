//! Background tasks of a store.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use zaqar_core::TaskMonitor;

/// The maximum number of tasks that shutdown waits for; more than the maximum number of concurrent
/// operations.
const TASKS: usize = 1 << 16;

/// Background tasks of a store. Panics are reported to its monitor.
#[derive(Debug)]
pub(crate) struct Background {
    tasks: Arc<Semaphore>,
    monitor: TaskMonitor,
}

impl Background {
    pub(crate) fn new(monitor: TaskMonitor) -> Self {
        Self { tasks: Arc::new(Semaphore::new(TASKS)), monitor }
    }

    /// Starts a task. If it panics, this name is reported to the monitor.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let guard = self.monitor.guard(format!("{name} of the MongoDB store"));
        tokio::spawn(async move {
            let outcome = task.await;
            guard.finish();
            outcome
        })
    }

    /// Held by a task that shutdown waits for. `None` if there are too many: the task then runs,
    /// but shutdown does not wait for it.
    pub(crate) fn token(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.tasks).try_acquire_owned().ok()
    }

    /// Waits for all tasks that hold a token.
    pub(crate) async fn idle(&self) {
        let all = u32::try_from(TASKS).unwrap_or(u32::MAX);
        drop(self.tasks.acquire_many(all).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_is_reported_with_its_name() {
        let monitor = TaskMonitor::default();
        let background = Background::new(monitor.clone());
        background.spawn("news", async {}).await.unwrap();
        assert_eq!(monitor.failures(), []);
        let died = background.spawn("news", async { panic!("a planted panic") }).await;
        assert!(died.is_err());
        let said: Vec<_> = monitor.failures().iter().map(ToString::to_string).collect();
        assert_eq!(said, ["the task \"news of the MongoDB store\" panicked"]);
    }
}
