//! Limits of deliveries in flight: in all, per project and per destination, so that no destination
//! and no project starves others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zaqar_core::{ProjectId, Timestamp};

use crate::destination::{Admission, Bounds, Circuit, Destination, Ended};
use crate::target::Origin;

/// Limits of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deliveries in flight, at most.
    pub in_flight: u32,
    /// Deliveries in flight of one project, at most.
    pub per_project: u32,
    /// Limits of each destination.
    pub destination: Bounds,
    /// Destinations whose state is kept, at most. A further one is rejected ([`Admission::Full`])
    /// while none of them is idle.
    pub destinations: usize,
}

impl Default for Limits {
    /// 256 in flight, 64 of one project, 100 000 destinations.
    fn default() -> Self {
        Self {
            in_flight: 256,
            per_project: 64,
            destination: Bounds::default(),
            destinations: 100_000,
        }
    }
}

/// The deliveries in flight of one server. Clones share their state.
#[derive(Debug, Clone)]
pub struct Fairness {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    projects: HashMap<ProjectId, u32>,
    destinations: HashMap<Key, Destination>,
}

/// Destinations by the state of their circuits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circuits {
    /// Deliveries are sent, and some are in flight or failed.
    pub ok: usize,
    /// Only probes are sent.
    pub open: usize,
    /// Nothing is sent.
    pub suspended: usize,
}

/// Each project has its own state of a destination: one project's secrets or load say nothing about
/// another's.
type Key = (ProjectId, Origin);

/// A delivery in flight. If it is dropped without [`InFlight::end`], it counts as not sent.
#[derive(Debug)]
pub struct InFlight {
    fairness: Fairness,
    key: Option<Key>,
}

impl Fairness {
    /// With nothing in flight.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Arc::default() }
    }

    /// Starts a delivery of a project to a destination, if that is allowed now.
    ///
    /// # Errors
    /// The [`Admission`] that prevents it; never [`Admission::Started`].
    pub fn start(
        &self,
        project: &ProjectId,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<InFlight, Admission> {
        let mut state = self.state();
        let of_project = state.projects.get(project).copied().unwrap_or(0);
        if state.in_flight >= self.limits.in_flight || of_project >= self.limits.per_project {
            return Err(Admission::Full);
        }
        let key = (project.clone(), origin.clone());
        if !state.destinations.contains_key(&key) {
            if state.destinations.len() >= self.limits.destinations {
                state.destinations.retain(|_, one| !one.is_idle());
            }
            if state.destinations.len() >= self.limits.destinations {
                return Err(Admission::Full);
            }
        }
        let fresh = || Destination::new(self.limits.destination);
        let admission = state.destinations.entry(key.clone()).or_insert_with(fresh).start(now);
        if admission != Admission::Started {
            return Err(admission);
        }
        state.in_flight += 1;
        *state.projects.entry(project.clone()).or_insert(0) += 1;
        Ok(InFlight { fairness: self.clone(), key: Some(key) })
    }

    /// Deliveries in flight.
    pub fn in_flight(&self) -> u32 {
        self.state().in_flight
    }

    /// Destinations that are not idle, by the state of their circuits. Cost: their number, which
    /// [`Limits::destinations`] bounds.
    pub fn circuits(&self) -> Circuits {
        let mut circuits = Circuits::default();
        for destination in self.state().destinations.values() {
            let count = match destination.circuit() {
                Circuit::Ok => &mut circuits.ok,
                Circuit::Open { .. } => &mut circuits.open,
                Circuit::Suspended => &mut circuits.suspended,
            };
            *count += 1;
        }
        circuits
    }

    /// The state of a destination; `None` if it is idle.
    pub fn destination(&self, project: &ProjectId, origin: &Origin) -> Option<Destination> {
        self.state().destinations.get(&(project.clone(), origin.clone())).cloned()
    }

    /// Resumes a destination: see [`Destination::resume`].
    pub fn resume(&self, project: &ProjectId, origin: &Origin, now: Timestamp) {
        let key = (project.clone(), origin.clone());
        if let Some(destination) = self.state().destinations.get_mut(&key) {
            destination.resume(now);
        }
    }

    fn end(&self, key: &Key, ended: Ended, asked: Option<Timestamp>, now: Timestamp) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        if let Some(count) = state.projects.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                state.projects.remove(&key.0);
            }
        }
        if let Some(destination) = state.destinations.get_mut(key) {
            destination.end(ended, asked, now);
            if destination.is_idle() {
                state.destinations.remove(key);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the counts inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Ends the delivery: see [`Destination::end`].
    pub fn end(mut self, ended: Ended, asked: Option<Timestamp>, now: Timestamp) {
        if let Some(key) = self.key.take() {
            self.fairness.end(&key, ended, asked, now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.fairness.end(&key, Ended::NotSent, None, Timestamp::from_millis(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    const NOW: Timestamp = Timestamp::from_millis(1000);

    fn project(id: &str) -> ProjectId {
        ProjectId::new(id).unwrap()
    }

    fn origin(host: &str) -> Origin {
        Target::parse(&format!("http://{host}/")).unwrap().origin().clone()
    }

    #[test]
    fn nobody_takes_what_others_need() {
        let destination = Bounds { max_in_flight: 2, ..Bounds::default() };
        let limits = Limits { in_flight: 5, per_project: 3, destination, destinations: 100 };
        let fairness = Fairness::new(limits);
        let mut flying = Vec::new();
        for (who, host, is_started) in [
            ("a", "x", true),
            ("a", "x", true),
            ("a", "x", false),
            ("b", "x", true),
            ("a", "y", true),
            ("a", "z", false),
            ("b", "y", true),
            ("c", "y", false),
        ] {
            let started = fairness.start(&project(who), &origin(host), NOW);
            assert_eq!(started.is_ok(), is_started, "{who} {host}");
            flying.extend(started);
        }
        assert_eq!(fairness.in_flight(), 5);
        drop(flying.pop());
        assert!(fairness.start(&project("c"), &origin("y"), NOW).is_ok());
        drop(flying);
        assert_eq!(fairness.in_flight(), 0);
        let state = fairness.state();
        assert!(state.projects.is_empty() && state.destinations.is_empty(), "{state:?}");
    }

    #[test]
    fn a_circuit_is_the_projects_own() {
        let destination = Bounds { failures_to_open: 1, ..Bounds::default() };
        let fairness = Fairness::new(Limits { destination, ..Limits::default() });
        let (a, b) = (project("a"), project("b"));
        let x = origin("x");
        fairness.start(&a, &x, NOW).unwrap().end(Ended::Failing, None, NOW);
        assert_eq!(fairness.circuits(), Circuits { open: 1, ..Circuits::default() });
        let later = Timestamp::from_millis(6000);
        assert_eq!(fairness.start(&a, &x, NOW).err(), Some(Admission::NotBefore(later)));
        fairness.start(&b, &x, NOW).unwrap().end(Ended::Working, None, NOW);
        fairness.resume(&a, &x, NOW);
        fairness.start(&a, &x, NOW).unwrap().end(Ended::Working, None, NOW);
        assert!(fairness.start(&a, &x, NOW).is_ok());
    }

    #[test]
    fn the_number_of_destinations_is_bounded() {
        let destination = Bounds { failures_to_open: 1, ..Bounds::default() };
        let limits = Limits { destinations: 2, destination, ..Limits::default() };
        let fairness = Fairness::new(limits);
        let a = project("a");
        for host in ["x", "y"] {
            fairness.start(&a, &origin(host), NOW).unwrap().end(Ended::Failing, None, NOW);
        }
        assert_eq!(fairness.start(&a, &origin("z"), NOW).err(), Some(Admission::Full));
        fairness.resume(&a, &origin("x"), NOW);
        fairness.start(&a, &origin("x"), NOW).unwrap().end(Ended::Working, None, NOW);
        assert!(fairness.start(&a, &origin("z"), NOW).is_ok());
    }
}
