//! The path to Redis is shared in turn: requests of one project cannot delay another's by more than
//! what is in flight.
//!
//! Redis carries out one script at a time, in the order they arrive. So only a bounded number is in
//! flight, of which a project has at most a share; the others wait here, and projects that wait are
//! served in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Serves projects in turn.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// Requests in flight at most, and of one project.
    capacity: usize,
    share: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    projects: HashMap<String, Project>,
    /// Projects with requests that wait, the next one first.
    order: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Project {
    in_flight: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A request that may be in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    scheduler: Arc<Scheduler>,
    project: String,
}

impl Scheduler {
    pub(crate) fn new(capacity: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { capacity: capacity.max(1), share: share.max(1), state: Mutex::default() })
    }

    /// Waits until it is this project's turn. Cost: constant; who gives up leaves a place that the
    /// next turn passes over.
    pub(crate) async fn enter(self: &Arc<Self>, project: &str) -> Turn {
        loop {
            let waiting = {
                let mut state = self.lock();
                let State { in_flight, projects, order } = &mut *state;
                let entry = projects.entry(project.to_owned()).or_default();
                let is_first = entry.waiting.is_empty() && entry.in_flight < self.share;
                if is_first && *in_flight < self.capacity {
                    state.start(project);
                    return self.turn(project);
                }
                if entry.waiting.is_empty() {
                    order.push_back(project.to_owned());
                }
                let (sender, receiver) = oneshot::channel();
                entry.waiting.push_back(sender);
                receiver
            };
            // A sender goes only with its turn.
            if let Ok(turn) = waiting.await {
                return turn;
            }
        }
    }

    fn turn(self: &Arc<Self>, project: &str) -> Turn {
        Turn { scheduler: Arc::clone(self), project: project.to_owned() }
    }

    /// Ends a turn and begins those that have become possible.
    fn leave(self: &Arc<Self>, project: &str) {
        let mut refused = Vec::new();
        let mut state = self.lock();
        state.end(project);
        let mut passed_over = 0;
        while state.in_flight < self.capacity && passed_over < state.order.len() {
            let Some(next) = state.order.pop_front() else { break };
            let Some(entry) = state.projects.get_mut(&next) else { continue };
            if entry.in_flight >= self.share {
                passed_over += 1;
                state.order.push_back(next);
                continue;
            }
            passed_over = 0;
            if let Some(sender) = entry.waiting.pop_front() {
                let is_more = !entry.waiting.is_empty();
                if !sender.is_closed() {
                    state.start(&next);
                    // Should its receiver be gone now, the turn comes back and must end outside of
                    // the lock.
                    refused.extend(sender.send(self.turn(&next)).err());
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
        // Nothing panics while one is held, and any state is right.
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

    /// Forgets a project that has nothing here.
    fn forget(&mut self, project: &str) {
        if self.projects.get(project).is_some_and(|it| it.in_flight == 0 && it.waiting.is_empty()) {
            self.projects.remove(project);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.scheduler.leave(&self.project);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Turn> + Send>>;

    /// Enters in this order; who waits has its name among the futures.
    fn enter(scheduler: &Arc<Scheduler>, project: &'static str) -> Result<Turn, Waiting> {
        let scheduler = Arc::clone(scheduler);
        let mut entering: Waiting = Box::pin(async move { scheduler.enter(project).await });
        match entering.as_mut().now_or_never() {
            Some(turn) => Ok(turn),
            None => Err(entering),
        }
    }

    fn is_served(waiting: &mut Waiting) -> Option<Turn> {
        waiting.as_mut().now_or_never()
    }

    #[test]
    fn a_quiet_project_is_next_whatever_a_greedy_one_has_waiting() {
        let scheduler = Scheduler::new(4, 2);
        let first: Vec<_> = (0..2).map(|_| enter(&scheduler, "greedy").ok().unwrap()).collect();
        let mut greedy: Vec<_> =
            (0..100).map(|_| enter(&scheduler, "greedy").err().unwrap()).collect();
        let quiet =
            enter(&scheduler, "quiet").ok().expect("there is room beside one project's share");
        let other = enter(&scheduler, "other").ok().unwrap();
        let mut late = enter(&scheduler, "quiet").err().unwrap();
        drop(first);
        assert!(is_served(&mut greedy[0]).is_some(), "the greedy one waited longest");
        let late = is_served(&mut late).expect("and then the quiet one, before 99 others");
        drop((quiet, other, late));
        assert!(is_served(&mut greedy[1]).is_some());
    }

    #[test]
    fn projects_that_wait_are_served_in_turn() {
        let scheduler = Scheduler::new(1, 1);
        let held = enter(&scheduler, "z").ok().unwrap();
        let mut waiting: Vec<_> = ["a", "a", "a", "b", "b", "c"]
            .map(|project| (project, enter(&scheduler, project).err().unwrap()))
            .into();
        drop(held);
        let mut served = Vec::new();
        while !waiting.is_empty() {
            let found = waiting
                .iter_mut()
                .position(|(project, it)| is_served(it).map(|_| served.push(*project)).is_some());
            drop(waiting.remove(found.expect("somebody is served")));
        }
        assert_eq!(served, ["a", "b", "c", "a", "b", "a"]);
        assert!(scheduler.lock().projects.is_empty(), "nothing is remembered of who is gone");
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let scheduler = Scheduler::new(1, 1);
        let held = enter(&scheduler, "a").ok().unwrap();
        let given_up = enter(&scheduler, "b").err().unwrap();
        let mut last = enter(&scheduler, "c").err().unwrap();
        drop(given_up);
        drop(held);
        drop(is_served(&mut last).expect("it is the next"));
        // One that was served and has not noticed gives its turn back when it is dropped.
        let held = enter(&scheduler, "a").ok().unwrap();
        let unaware = enter(&scheduler, "b").err().unwrap();
        drop(held);
        drop(unaware);
        assert!(enter(&scheduler, "c").is_ok());
    }
}
