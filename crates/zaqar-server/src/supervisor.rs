//! Long-lived tasks of the process: named, supervised, and joined on a stop.

use std::convert::Infallible;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;
use zaqar_core::{TaskGuard, TaskMonitor};

/// A group of tasks that end together. The death of one is reported to the monitor.
pub(crate) struct Supervisor {
    monitor: TaskMonitor,
    tasks: JoinSet<()>,
}

impl Supervisor {
    pub(crate) fn new(monitor: &TaskMonitor) -> Self {
        Self { monitor: monitor.clone(), tasks: JoinSet::new() }
    }

    /// Starts a task that must not end before `stop`.
    pub(crate) fn spawn(
        &mut self,
        name: String,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = Watched { guard: Some(self.monitor.guard(name)), stop: stop.clone() };
        self.tasks.spawn(async move {
            // Bound first, so that it is dropped if the task panics.
            let guard = guard;
            task.await;
            drop(guard);
        });
    }

    /// Waits until every task has ended. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        // The task's guard has reported how it ended.
        while self.tasks.join_next().await.is_some() {}
    }

    /// Waits until every task has ended.
    pub(crate) async fn join(mut self) {
        self.ended().await;
    }
}

/// The guard of a task, which may end once it is told to stop, also by being cut off.
struct Watched {
    guard: Option<TaskGuard>,
    stop: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.stop.is_cancelled()
            && !std::thread::panicking()
            && let Some(guard) = self.guard.take()
        {
            guard.finish();
        }
    }
}

/// Logs every task that dies, and stops the server at the first.
pub(crate) async fn stop_on_failure(monitor: &TaskMonitor, stop: &CancellationToken) -> Infallible {
    for index in 0.. {
        let failure = monitor.failure(index).await;
        error!(task = %failure.task, panicked = failure.panicked, "{failure}; the server stops");
        stop.cancel();
    }
    std::future::pending().await
}
