//! Detects the death of long-lived tasks and threads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The maximum number of recorded failures; the first one already ends the process.
const MAX_FAILURES: usize = 16;

/// Records every long-lived task or thread that dies.
///
/// The code that starts a task moves a [`TaskGuard`] into it. A guard that is dropped without
/// [`TaskGuard::finish`], by a panic or by an early return, is a failure. The server waits for the
/// first failure, logs it, reports it in health, and exits with an error.
///
/// Clones share their state. No runtime is needed.
#[derive(Debug, Clone, Default)]
pub struct TaskMonitor {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<u64, (Cow<'static, str>, Instant)>,
    next: u64,
    failures: Vec<TaskFailure>,
    waiting: Vec<Waker>,
}

/// A task that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// Its name.
    pub task: Cow<'static, str>,
    /// Whether it panicked; otherwise it returned without having been stopped.
    pub panicked: bool,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.panicked { "panicked" } else { "ended unexpectedly" };
        write!(f, "the task \"{}\" {how}", self.task)
    }
}

impl std::error::Error for TaskFailure {}

/// Owned by a task for its whole lifetime.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once reports a dead task"]
pub struct TaskGuard {
    monitor: TaskMonitor,
    number: u64,
    is_finished: bool,
}

impl TaskGuard {
    /// Marks the end of the task as intended.
    pub fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let Some((task, _)) = self.monitor.lock().running.remove(&self.number) else { return };
        if !self.is_finished {
            self.monitor.report(TaskFailure { task, panicked: std::thread::panicking() });
        }
    }
}

impl TaskMonitor {
    /// A guard for a task of this name, to be moved into it.
    pub fn guard(&self, task: impl Into<Cow<'static, str>>) -> TaskGuard {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, (task.into(), Instant::now()));
        TaskGuard { monitor: self.clone(), number, is_finished: false }
    }

    /// The running tasks in the order of their start, each with its running time. For reports: it
    /// copies every name.
    pub fn running(&self) -> Vec<(Cow<'static, str>, Duration)> {
        let state = self.lock();
        state.running.values().map(|(task, since)| (task.clone(), since.elapsed())).collect()
    }

    /// Reports a task's death.
    pub fn report(&self, failure: TaskFailure) {
        let waiting = {
            let mut state = self.lock();
            if state.failures.len() < MAX_FAILURES {
                state.failures.push(failure);
            }
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The first 16 tasks that died, in order.
    pub fn failures(&self) -> Vec<TaskFailure> {
        self.lock().failures.clone()
    }

    /// Waits for the failure with this index in [`TaskMonitor::failures`]; returns immediately if
    /// it is recorded already.
    pub async fn failure(&self, index: usize) -> TaskFailure {
        poll_fn(|context| {
            let mut state = self.lock();
            if let Some(failure) = state.failures.get(index) {
                return Poll::Ready(failure.clone());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn is_pending(future: &mut (impl Future<Output = TaskFailure> + Unpin)) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_pending()
    }

    #[test]
    fn a_finished_task_is_not_a_failure() {
        let monitor = TaskMonitor::default();
        let mut failure = pin!(monitor.failure(0));
        monitor.guard("reader").finish();
        assert!(is_pending(&mut failure));
        assert_eq!(monitor.failures(), []);
    }

    #[test]
    fn a_task_is_running_until_its_guard_is_dropped() {
        let monitor = TaskMonitor::default();
        let (reader, writer) = (monitor.guard("reader"), monitor.guard("writer"));
        let names = || monitor.running().into_iter().map(|(task, _)| task).collect::<Vec<_>>();
        assert_eq!(names(), ["reader", "writer"]);
        reader.finish();
        assert_eq!(names(), ["writer"]);
        drop(writer);
        assert!(names().is_empty());
    }

    #[test]
    fn a_panic_and_an_early_return_are_failures_with_the_name_of_the_task() {
        let monitor = TaskMonitor::default();
        let mut failure = pin!(monitor.failure(0));
        assert!(is_pending(&mut failure));
        let guard = monitor.guard("writer");
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("a planted panic");
        });
        assert!(thread.join().is_err());
        drop(monitor.guard("reader"));
        assert!(!is_pending(&mut failure));
        let said: Vec<_> = monitor.failures().iter().map(ToString::to_string).collect();
        let expected = ["the task \"writer\" panicked", "the task \"reader\" ended unexpectedly"];
        assert_eq!(said, expected);
    }
}
