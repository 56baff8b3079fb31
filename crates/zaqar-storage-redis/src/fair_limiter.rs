//! Limits the requests in flight to Redis, with fairness between projects: a project's request is
//! delayed by others at most as long as the requests in flight take.
//!
//! Redis executes one script at a time, in order of arrival. Therefore the number of requests in
//! flight is bounded, in total and per project. The others wait here, and waiting projects are
//! served round-robin.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Admits requests of projects in turn.
#[derive(Debug)]
pub(crate) struct FairLimiter {
    /// Requests in flight at most, in total and per project.
    capacity: usize,
    share: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    projects: HashMap<String, Project>,
    /// Projects with waiting requests; the first is served next.
    order: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Project {
    in_flight: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// Allows one request to be in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<FairLimiter>,
    project: String,
}

impl FairLimiter {
    pub(crate) fn new(capacity: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { capacity: capacity.max(1), share: share.max(1), state: Mutex::default() })
    }

    /// Waits for a permit. Cost: constant. A waiter that is dropped leaves an entry that is skipped
    /// later.
    pub(crate) async fn acquire(self: &Arc<Self>, project: &str) -> Permit {
        loop {
            let waiting = {
                let mut state = self.lock();
                let State { in_flight, projects, order } = &mut *state;
                let entry = projects.entry(project.to_owned()).or_default();
                let is_first = entry.waiting.is_empty() && entry.in_flight < self.share;
                if is_first && *in_flight < self.capacity {
                    state.start(project);
                    return self.permit(project);
                }
                if entry.waiting.is_empty() {
                    order.push_back(project.to_owned());
                }
                let (sender, receiver) = oneshot::channel();
                entry.waiting.push_back(sender);
                receiver
            };
            // A sender is dropped only after it has sent a permit.
            if let Ok(permit) = waiting.await {
                return permit;
            }
        }
    }

    fn permit(self: &Arc<Self>, project: &str) -> Permit {
        Permit { limiter: Arc::clone(self), project: project.to_owned() }
    }

    /// Returns a permit and grants those that have become possible.
    fn release(self: &Arc<Self>, project: &str) {
        let mut refused = Vec::new();
        let mut state = self.lock();
        state.end(project);
        let mut skipped = 0;
        while state.in_flight < self.capacity && skipped < state.order.len() {
            let Some(next) = state.order.pop_front() else { break };
            let Some(entry) = state.projects.get_mut(&next) else { continue };
            if entry.in_flight >= self.share {
                skipped += 1;
                state.order.push_back(next);
                continue;
            }
            skipped = 0;
            if let Some(sender) = entry.waiting.pop_front() {
                let is_more = !entry.waiting.is_empty();
                if !sender.is_closed() {
                    state.start(&next);
                    // If the receiver was dropped in the meantime, the permit is returned, and must
                    // be dropped outside of the lock.
                    refused.extend(sender.send(self.permit(&next)).err());
                }
                if is_more {
                    state.order.push_back(next);
                } else {
                    state.forget(&next);
                }
            }
        }
        drop(state);
        drop(refused);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and every state is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn start(&mut self, project: &str) {
        self.in_flight += 1;
        if let Some(entry) = self.projects.get_mut(project) {
            entry.in_flight += 1;
        }
    }

    fn end(&mut self, project: &str) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(entry) = self.projects.get_mut(project) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        self.forget(project);
    }

    /// Removes a project that has no requests.
    fn forget(&mut self, project: &str) {
        if self.projects.get(project).is_some_and(|it| it.in_flight == 0 && it.waiting.is_empty()) {
            self.projects.remove(project);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release(&self.project);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Acquiring = Pin<Box<dyn Future<Output = Permit> + Send>>;

    /// Starts to acquire a permit; returns the future if it has to wait.
    fn acquire(limiter: &Arc<FairLimiter>, project: &'static str) -> Result<Permit, Acquiring> {
        let limiter = Arc::clone(limiter);
        let mut acquiring: Acquiring = Box::pin(async move { limiter.acquire(project).await });
        match acquiring.as_mut().now_or_never() {
            Some(permit) => Ok(permit),
            None => Err(acquiring),
        }
    }

    fn granted(waiting: &mut Acquiring) -> Option<Permit> {
        waiting.as_mut().now_or_never()
    }

    #[test]
    fn a_quiet_project_is_served_before_the_backlog_of_a_greedy_one() {
        let limiter = FairLimiter::new(4, 2);
        let first: Vec<_> = (0..2).map(|_| acquire(&limiter, "greedy").ok().unwrap()).collect();
        let mut greedy: Vec<_> =
            (0..100).map(|_| acquire(&limiter, "greedy").err().unwrap()).collect();
        let quiet =
            acquire(&limiter, "quiet").ok().expect("capacity is left beside one project's share");
        let other = acquire(&limiter, "other").ok().unwrap();
        let mut late = acquire(&limiter, "quiet").err().unwrap();
        drop(first);
        assert!(granted(&mut greedy[0]).is_some(), "the greedy project waited longest");
        let late =
            granted(&mut late).expect("then the quiet project, before 99 requests of the other");
        drop((quiet, other, late));
        assert!(granted(&mut greedy[1]).is_some());
    }

    #[test]
    fn projects_that_wait_are_served_in_turn() {
        let limiter = FairLimiter::new(1, 1);
        let held = acquire(&limiter, "z").ok().unwrap();
        let mut waiting: Vec<_> = ["a", "a", "a", "b", "b", "c"]
            .map(|project| (project, acquire(&limiter, project).err().unwrap()))
            .into();
        drop(held);
        let mut served = Vec::new();
        while !waiting.is_empty() {
            let found = waiting
                .iter_mut()
                .position(|(project, it)| granted(it).map(|_| served.push(*project)).is_some());
            drop(waiting.remove(found.expect("one is granted")));
        }
        assert_eq!(served, ["a", "b", "c", "a", "b", "a"]);
        assert!(limiter.lock().projects.is_empty(), "idle projects are removed");
    }

    #[test]
    fn a_dropped_waiter_blocks_nobody() {
        let limiter = FairLimiter::new(1, 1);
        let held = acquire(&limiter, "a").ok().unwrap();
        let given_up = acquire(&limiter, "b").err().unwrap();
        let mut last = acquire(&limiter, "c").err().unwrap();
        drop(given_up);
        drop(held);
        drop(granted(&mut last).expect("it is next"));
        // A waiter that was granted a permit without noticing returns it when it is dropped.
        let held = acquire(&limiter, "a").ok().unwrap();
        let unaware = acquire(&limiter, "b").err().unwrap();
        drop(held);
        drop(unaware);
        assert!(acquire(&limiter, "c").is_ok());
    }
}
