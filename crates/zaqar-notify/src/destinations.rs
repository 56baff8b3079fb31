//! The states of destinations, as many as may be kept: those that were not used for long are
//! forgotten, and if there are too many, those that would be forgotten first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use zaqar_core::{ProjectId, Timestamp};

use crate::destination::{Admission, Bounds, Destination, Ended};
use crate::target::Origin;

/// Each project has its own state of a destination: one project's secrets or load say nothing about
/// another's.
pub(crate) type Key = (ProjectId, Origin);

/// When a destination is forgotten; the number tells apart those that are at the same time.
type Turn = (Timestamp, u64);

#[derive(Debug)]
pub(crate) struct Destinations {
    bounds: Bounds,
    /// Those with nothing in flight, at most: in all, and of one project.
    most: usize,
    most_of_project: usize,
    states: HashMap<Arc<Key>, State>,
    /// Those with nothing in flight.
    unused: BTreeMap<Turn, Arc<Key>>,
    unused_of: HashMap<ProjectId, BTreeSet<Turn>>,
    turns: u64,
}

#[derive(Debug)]
struct State {
    destination: Destination,
    /// Its turn in `unused`.
    turn: Option<Turn>,
}

impl Destinations {
    /// None; keeps the states of at most so many, and of so many of one project, besides those in
    /// flight.
    pub(crate) fn new(bounds: Bounds, most: usize, most_of_project: usize) -> Self {
        Self {
            bounds,
            most,
            most_of_project,
            states: HashMap::new(),
            unused: BTreeMap::new(),
            unused_of: HashMap::new(),
            turns: 0,
        }
    }

    /// See [`Destination::start`].
    pub(crate) fn start(&mut self, key: &Key, now: Timestamp) -> Admission {
        self.forget(now);
        if let Some(state) = self.states.get_mut(key) {
            let admission = state.destination.start(now);
            if admission == Admission::Started
                && let Some(turn) = state.turn.take()
            {
                self.unlist(turn);
            }
            return admission;
        }
        let mut destination = Destination::new(self.bounds);
        let admission = destination.start(now);
        self.states.insert(Arc::new(key.clone()), State { destination, turn: None });
        admission
    }

    /// See [`Destination::end`].
    pub(crate) fn end(
        &mut self,
        key: &Key,
        ended: Ended,
        asked: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let Some((key, mut state)) = self.states.remove_entry(key) else { return false };
        let is_dead = state.destination.end(ended, asked, now);
        if state.destination.is_idle() {
            return is_dead;
        }
        if state.destination.in_flight() == 0 {
            self.turns += 1;
            let turn = (state.destination.forgotten(), self.turns);
            state.turn = Some(turn);
            self.unused.insert(turn, Arc::clone(&key));
            self.unused_of.entry(key.0.clone()).or_default().insert(turn);
        }
        let project = key.0.clone();
        self.states.insert(key, state);
        self.bound(&project);
        is_dead
    }

    /// See [`Destination::resume`].
    pub(crate) fn resume(&mut self, key: &Key, now: Timestamp) {
        if let Some(state) = self.states.get_mut(key) {
            state.destination.resume(now);
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Destination> {
        self.states.get(key).map(|state| &state.destination)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Destination> {
        self.states.values().map(|state| &state.destination)
    }

    /// Forgets those whose time has come.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        while let Some((turn, _)) = self.unused.first_key_value()
            && turn.0 <= now
        {
            self.remove(*turn);
        }
    }

    /// Drops what is too much after one was added.
    fn bound(&mut self, project: &ProjectId) {
        let of_project = self.unused_of.get(project);
        let first = of_project.filter(|turns| turns.len() > self.most_of_project);
        if let Some(turn) = first.and_then(|turns| turns.first().copied()) {
            self.remove(turn);
        }
        if self.unused.len() > self.most
            && let Some((turn, _)) = self.unused.first_key_value()
        {
            self.remove(*turn);
        }
    }

    fn remove(&mut self, turn: Turn) {
        if let Some(key) = self.unlist(turn) {
            self.states.remove(&key);
        }
    }

    fn unlist(&mut self, turn: Turn) -> Option<Arc<Key>> {
        let key = self.unused.remove(&turn)?;
        if let Some(turns) = self.unused_of.get_mut(&key.0) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.unused_of.remove(&key.0);
            }
        }
        Some(key)
    }
}
