//! Limits of deliveries in flight: in all, per project and per destination, so that no destination
//! and no project starves others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zaqar_core::{ProjectId, Timestamp};

use crate::destination::{Admission, Bounds, Circuit, Destination, Ended};
use crate::destinations::{Destinations, Key};
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
    /// Destinations whose state is kept although nothing is in flight, at most. With more, the
    /// state that would be forgotten first is dropped.
    pub destinations: usize,
    /// Of these, of one project.
    pub destinations_per_project: usize,
}

impl Default for Limits {
    /// 256 in flight, 64 of one project, 100 000 destinations, 10 000 of one project.
    fn default() -> Self {
        Self {
            in_flight: 256,
            per_project: 64,
            destination: Bounds::default(),
            destinations: 100_000,
            destinations_per_project: 10_000,
        }
    }
}

/// The deliveries in flight of one server. Clones share their state.
#[derive(Debug, Clone)]
pub struct Fairness {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    projects: HashMap<ProjectId, u32>,
    destinations: Destinations,
    /// Subscriptions in service: in all, and by project.
    served: Served,
    served_of: HashMap<ProjectId, Served>,
}

/// Subscriptions in service, and how many of them wait for what others have in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Served {
    count: u32,
    waiting: u32,
}

/// A subscription in service, which shares the limits with others. While others wait for what is in
/// flight, none has more than its share.
#[derive(Debug)]
pub(crate) struct Sharer {
    fairness: Fairness,
    project: ProjectId,
    is_waiting: bool,
}

/// Destinations by the state of their circuits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circuits {
    /// Deliveries are sent, and some are in flight or failed.
    pub ok: usize,
    /// Only probes are sent.
    pub open: usize,
}

/// A delivery in flight. If it is dropped without [`InFlight::end`], it counts as not sent.
#[derive(Debug)]
pub struct InFlight {
    fairness: Fairness,
    key: Option<Key>,
}

impl Fairness {
    /// With nothing in flight.
    pub fn new(limits: Limits) -> Self {
        let destinations = Destinations::new(
            limits.destination,
            limits.destinations,
            limits.destinations_per_project,
        );
        let state = State {
            in_flight: 0,
            projects: HashMap::new(),
            destinations,
            served: Served::default(),
            served_of: HashMap::new(),
        };
        Self { limits, state: Arc::new(Mutex::new(state)) }
    }

    /// A subscription of a project that is served from now on.
    pub(crate) fn sharer(&self, project: &ProjectId) -> Sharer {
        let mut state = self.state();
        state.served.count += 1;
        state.served_of.entry(project.clone()).or_default().count += 1;
        Sharer { fairness: self.clone(), project: project.clone(), is_waiting: false }
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
        let admission = state.destinations.start(&key, now);
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
    pub fn circuits(&self, now: Timestamp) -> Circuits {
        let (mut circuits, mut state) = (Circuits::default(), self.state());
        state.destinations.forget(now);
        for destination in state.destinations.all() {
            let count = match destination.circuit() {
                Circuit::Ok => &mut circuits.ok,
                Circuit::Open { .. } => &mut circuits.open,
            };
            *count += 1;
        }
        circuits
    }

    /// The state of a destination; `None` if it is idle, or forgotten.
    pub fn destination(
        &self,
        project: &ProjectId,
        origin: &Origin,
        now: Timestamp,
    ) -> Option<Destination> {
        let mut state = self.state();
        state.destinations.forget(now);
        state.destinations.get(&(project.clone(), origin.clone())).cloned()
    }

    /// Resumes a destination: see [`Destination::resume`].
    pub fn resume(&self, project: &ProjectId, origin: &Origin, now: Timestamp) {
        self.state().destinations.resume(&(project.clone(), origin.clone()), now);
    }

    fn end(&self, key: &Key, ended: Ended, asked: Option<Timestamp>, now: Timestamp) -> bool {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        if let Some(count) = state.projects.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                state.projects.remove(&key.0);
            }
        }
        state.destinations.end(key, ended, asked, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the counts inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sharer {
    /// Starts a delivery to a destination, as [`Fairness::start`] does; the subscription has
    /// `sending` in flight. [`Admission::Full`] also if it has its share, and others wait for
    /// theirs.
    pub(crate) fn start(
        &mut self,
        origin: &Origin,
        sending: usize,
        now: Timestamp,
    ) -> Result<InFlight, Admission> {
        let has_its_share = self.has_its_share(sending);
        let started = match has_its_share {
            true => Err(Admission::Full),
            false => self.fairness.start(&self.project, origin, now),
        };
        // Who waits for its own destination waits for nobody else.
        self.set_waiting(started.is_err() && (has_its_share || self.is_full()));
        started
    }

    /// Notes that it has nothing to start: it does not wait any more.
    pub(crate) fn rest(&mut self) {
        self.set_waiting(false);
    }

    fn has_its_share(&self, sending: usize) -> bool {
        let (limits, state) = (self.fairness.limits, self.fairness.state());
        let own = u32::from(self.is_waiting);
        let of_project = state.served_of.get(&self.project).copied().unwrap_or_default();
        let has = |served: Served, limit: u32| {
            let share = (limit / served.count.max(1)).max(1);
            served.waiting > own && sending >= usize::try_from(share).unwrap_or(usize::MAX)
        };
        has(of_project, limits.per_project) || has(state.served, limits.in_flight)
    }

    /// Whether the server or the project has as much in flight as it may.
    fn is_full(&self) -> bool {
        let (limits, state) = (self.fairness.limits, self.fairness.state());
        let of_project = state.projects.get(&self.project).copied().unwrap_or(0);
        state.in_flight >= limits.in_flight || of_project >= limits.per_project
    }

    fn set_waiting(&mut self, is_waiting: bool) {
        if is_waiting == self.is_waiting {
            return;
        }
        self.is_waiting = is_waiting;
        let mut state = self.fairness.state();
        state.served.wait(is_waiting);
        if let Some(served) = state.served_of.get_mut(&self.project) {
            served.wait(is_waiting);
        }
    }
}

impl Served {
    const fn wait(&mut self, is_waiting: bool) {
        if is_waiting {
            self.waiting += 1;
        } else {
            self.waiting = self.waiting.saturating_sub(1);
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.set_waiting(false);
        let mut state = self.fairness.state();
        state.served.count = state.served.count.saturating_sub(1);
        if let Some(served) = state.served_of.get_mut(&self.project) {
            served.count = served.count.saturating_sub(1);
            if served.count == 0 {
                state.served_of.remove(&self.project);
            }
        }
    }
}

impl InFlight {
    /// Ends the delivery: see [`Destination::end`].
    pub fn end(mut self, ended: Ended, asked: Option<Timestamp>, now: Timestamp) -> bool {
        self.key.take().is_some_and(|key| self.fairness.end(&key, ended, asked, now))
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
        let limits = Limits { in_flight: 5, per_project: 3, destination, ..Limits::default() };
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
        assert!(state.projects.is_empty(), "{state:?}");
        assert_eq!(state.destinations.all().count(), 0, "{state:?}");
    }

    /// Who has its share gets no more while others of its project wait for theirs.
    #[test]
    fn nobody_takes_more_than_its_share_while_others_wait() {
        let destination = Bounds { max_in_flight: 100, ..Bounds::default() };
        let limits = Limits { in_flight: 100, per_project: 8, destination, ..Limits::default() };
        let fairness = Fairness::new(limits);
        let mut busy = fairness.sharer(&project("a"));
        let mut flying: Vec<_> =
            (0..8).map(|at| busy.start(&origin("x"), at, NOW).unwrap()).collect();
        let mut other = fairness.sharer(&project("a"));
        assert_eq!(other.start(&origin("y"), 0, NOW).err(), Some(Admission::Full));
        flying.truncate(4);
        // Four of eight are its half.
        assert_eq!(busy.start(&origin("x"), 4, NOW).err(), Some(Admission::Full));
        let others: Vec<_> = (0..4).map(|at| other.start(&origin("y"), at, NOW).unwrap()).collect();
        drop(flying.pop());
        flying.push(busy.start(&origin("x"), 3, NOW).unwrap());
        assert_eq!(busy.start(&origin("x"), 4, NOW).err(), Some(Admission::Full));
        // Nobody waits any more.
        drop((other, others));
        flying.push(busy.start(&origin("x"), 4, NOW).unwrap());
        // Who waits for its own destination alone takes nothing from others.
        let destination = Bounds { max_in_flight: 1, ..Bounds::default() };
        let fairness = Fairness::new(Limits { destination, ..limits });
        let (mut slow, mut quick) =
            (fairness.sharer(&project("a")), fairness.sharer(&project("a")));
        let _flying = slow.start(&origin("slow"), 0, NOW).unwrap();
        assert_eq!(slow.start(&origin("slow"), 1, NOW).err(), Some(Admission::Full));
        let hosts = ["a", "b", "c", "d", "e"].into_iter().enumerate();
        let started = hosts.map(|(at, host)| quick.start(&origin(host), at, NOW).unwrap());
        assert_eq!(started.collect::<Vec<_>>().len(), 5);
        drop((slow, quick));
        let state = fairness.state();
        assert_eq!((state.served, state.served_of.len()), (Served::default(), 0));
    }

    #[test]
    fn a_circuit_is_the_projects_own() {
        let destination = Bounds { failures_to_open: 1, ..Bounds::default() };
        let fairness = Fairness::new(Limits { destination, ..Limits::default() });
        let (a, b) = (project("a"), project("b"));
        let x = origin("x");
        fairness.start(&a, &x, NOW).unwrap().end(Ended::Failing, None, NOW);
        assert_eq!(fairness.circuits(NOW), Circuits { open: 1, ..Circuits::default() });
        let later = Timestamp::from_millis(6000);
        assert_eq!(fairness.start(&a, &x, NOW).err(), Some(Admission::NotBefore(later)));
        fairness.start(&b, &x, NOW).unwrap().end(Ended::Working, None, NOW);
        fairness.resume(&a, &x, NOW);
        fairness.start(&a, &x, NOW).unwrap().end(Ended::Working, None, NOW);
        assert!(fairness.start(&a, &x, NOW).is_ok());
    }

    #[test]
    fn the_number_of_destinations_is_bounded_and_none_is_rejected() {
        let limits = Limits { destinations: 4, destinations_per_project: 2, ..Limits::default() };
        let fairness = Fairness::new(limits);
        let is_kept = |who: &str, host: &str, now| {
            fairness.destination(&project(who), &origin(host), now).is_some()
        };
        let mut now = NOW;
        let flying = fairness.start(&project("a"), &origin("flying"), now).unwrap();
        for (who, host, dropped) in [
            ("a", "x", None),
            ("a", "y", None),
            ("a", "z", Some(("a", "x"))),
            ("b", "x", None),
            ("b", "y", None),
            // One that is used is forgotten later.
            ("a", "y", None),
            ("c", "x", Some(("a", "z"))),
            ("d", "x", Some(("b", "x"))),
        ] {
            now = now.plus_secs(1);
            let was_kept = dropped.map(|(who, host)| is_kept(who, host, now));
            assert_ne!(was_kept, Some(false), "{who} {host}");
            let started = fairness.start(&project(who), &origin(host), now).unwrap();
            started.end(Ended::Failing, None, now);
            assert!(is_kept(who, host, now), "{who} {host}");
            assert!(dropped.is_none_or(|(who, host)| !is_kept(who, host, now)), "{who} {host}");
        }
        assert_eq!(fairness.circuits(now), Circuits { ok: 5, open: 0 });
        // What is in flight stays.
        let later = now.plus_secs(3600);
        assert!(!is_kept("a", "y", later) && is_kept("a", "flying", later));
        flying.end(Ended::Failing, None, later);
        assert!(is_kept("a", "flying", later));
        assert_eq!(fairness.circuits(later.plus_secs(3600)), Circuits::default());
    }
}
