//! Tasks that a store starts for itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use zaqar_core::TaskMonitor;

/// Tasks that the end of a store waits for, at most: as many as operations at once, and more.
const TASKS: usize = 1 << 16;

/// Tasks of a store. The death of one is reported to its monitor.
#[derive(Debug)]
pub(crate) struct Background {
    tasks: Arc<Semaphore>,
    monitor: TaskMonitor,
}

impl Background {
    pub(crate) fn new(monitor: TaskMonitor) -> Self {
        Self { tasks: Arc::new(Semaphore::new(TASKS)), monitor }
    }

    /// Starts a task. If it panics, the monitor hears of it by this name.
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

    /// To be held by a task for which the end of the store waits. Without one it runs, too; nobody
    /// waits for it then.
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
