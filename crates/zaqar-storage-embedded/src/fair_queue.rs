//! A queue that serves projects in turn, so that a project with much work delays the others little.
//!
//! Deficit round robin: in each turn a project may spend [`QUANTUM`] bytes and what it has left. An
//! item that is too large for that waits until enough turns have passed, while cheaper items of
//! other projects go first. The queue is bounded, and no project can fill all of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use zaqar_core::ProjectId;

/// Bytes that a project may spend in one turn.
const QUANTUM: usize = 64 << 10;
/// A project may have this many times as much waiting as is left free for the others.
const SHARE: usize = 3;
/// The minimum cost of an item, in bytes.
const MIN_COST: usize = 512;

/// The owner of an item: a project, or the server itself.
pub(crate) type Tenant = Option<ProjectId>;

/// Bounds on what may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// The most that one call of [`FairQueue::take`] takes. One item is taken whatever its cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// What an item costs, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// What it keeps while it waits.
    pub(crate) bytes: usize,
    /// What its project pays when it is taken.
    pub(crate) turn: usize,
    /// It is work in parts, of which the next one is taken: [`FairQueue::put_back`] returns it with
    /// the rest. Until then nothing else of its project is taken. It has a slice to itself, so that
    /// nobody waits for it who was taken before it.
    pub(crate) returns: bool,
}

impl Cost {
    /// The cost of an item that keeps and costs so many bytes.
    pub(crate) const fn bytes(bytes: usize) -> Self {
        Self { bytes, turn: bytes, returns: false }
    }
}

/// Why an item is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too much is waiting already.
    Full,
    /// The queue is closed.
    Closed,
}

/// Waiting items, by project.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    bounds: Bounds,
    state: Mutex<State<T>>,
    available: Condvar,
}

#[derive(Debug)]
struct State<T> {
    lanes: HashMap<Tenant, Lane<T>>,
    /// The projects that have a lane; the next one is first.
    order: VecDeque<Tenant>,
    items: usize,
    bytes: usize,
    is_closed: bool,
}

/// The waiting items of one project, in order.
#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<(Cost, T)>,
    bytes: usize,
    /// Bytes that it may still spend.
    credit: usize,
}

impl<T> FairQueue<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let state = State {
            lanes: HashMap::new(),
            order: VecDeque::new(),
            items: 0,
            bytes: 0,
            is_closed: false,
        };
        Self { bounds, state: Mutex::new(state), available: Condvar::new() }
    }

    /// Adds an item to the lane of its project.
    pub(crate) fn push(&self, tenant: &Tenant, cost: Cost, item: T) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Refusal::Closed);
        }
        if !state.fits(self.bounds, tenant, cost.bytes) {
            return Err(Refusal::Full);
        }
        state.lane(tenant, cost).waiting.push_back((cost, item));
        drop(state);
        self.available.notify_one();
        Ok(())
    }

    /// Puts an item back that was taken, in front of its project's, for the rest of its work; also
    /// when the queue is full or closed. To be called before the next [`Self::take`].
    pub(crate) fn put_back(&self, tenant: &Tenant, cost: Cost, item: T) {
        self.state().lane(tenant, cost).waiting.push_front((cost, item));
    }

    /// Waits for items and takes a slice of them in turn. Empty once the queue is closed and
    /// nothing waits.
    pub(crate) fn take(&self, slice: Slice) -> Vec<T> {
        let mut state = self.state();
        while state.items == 0 && !state.is_closed {
            state = self.available.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.take(slice)
    }

    /// As [`Self::take`], but returns an empty slice if nothing waits.
    pub(crate) fn take_now(&self, slice: Slice) -> Vec<T> {
        self.state().take(slice)
    }

    /// Whether anything waits besides items of this project.
    pub(crate) fn others_wait(&self, tenant: &Tenant) -> bool {
        let state = self.state();
        state.lanes.len() > usize::from(state.lanes.contains_key(tenant))
    }

    /// Rejects further items; waiting ones can still be taken.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.available.notify_all();
    }

    /// Closes the queue and drops waiting items.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let lanes = std::mem::take(&mut state.lanes);
        state.order.clear();
        (state.items, state.bytes) = (0, 0);
        // Dropping an item wakes its caller, which may use the queue again.
        drop(state);
        drop(lanes);
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// An item always fits if nothing waits, so that none is too large forever.
    fn fits(&self, bounds: Bounds, tenant: &Tenant, bytes: usize) -> bool {
        let (items, held) =
            self.lanes.get(tenant).map_or((0, 0), |lane| (lane.waiting.len(), lane.bytes));
        let left = |bound: usize, taken: usize| bound.saturating_sub(taken).saturating_mul(SHARE);
        let has_place = self.items < bounds.items && items < left(bounds.items, self.items);
        let has_bytes = bytes == 0
            || (self.bytes.saturating_add(bytes) <= bounds.bytes
                && held < left(bounds.bytes, self.bytes));
        has_place && (has_bytes || self.bytes == 0)
    }

    /// The lane of a project, for one more item.
    fn lane(&mut self, tenant: &Tenant, cost: Cost) -> &mut Lane<T> {
        self.items += 1;
        self.bytes += cost.bytes;
        let lane = self.lanes.entry(tenant.clone()).or_insert_with(|| {
            self.order.push_back(tenant.clone());
            Lane { waiting: VecDeque::new(), bytes: 0, credit: 0 }
        });
        lane.bytes += cost.bytes;
        lane
    }

    fn take(&mut self, slice: Slice) -> Vec<T> {
        let items = Vec::with_capacity(self.items.min(slice.items));
        let mut taken = Taken { items, left: slice };
        while self.items > 0 && !taken.is_full() {
            let before = taken.items.len();
            for _ in 0..self.order.len() {
                self.take_turn(&mut taken);
            }
            if taken.items.len() == before {
                if !taken.items.is_empty() {
                    // Only items are left that cost more than their project's credit; they do not
                    // share a slice.
                    break;
                }
                self.pass_turns();
            }
        }
        taken.items
    }

    /// One turn of the next project. If the slice ends first, the turn continues in the next slice.
    fn take_turn(&mut self, taken: &mut Taken<T>) {
        if taken.is_full() {
            return;
        }
        let Some(tenant) = self.order.pop_front() else { return };
        let Some(lane) = self.lanes.get_mut(&tenant) else { return };
        lane.credit = lane.credit.saturating_add(QUANTUM);
        while let Some((cost, _)) = lane.waiting.front()
            && price(*cost) <= lane.credit
            && !taken.is_full()
        {
            if cost.returns && !taken.items.is_empty() {
                // The next slice begins with it, and with this turn.
                lane.credit = lane.credit.saturating_sub(QUANTUM);
                taken.end();
                self.order.push_front(tenant);
                return;
            }
            let Some((cost, item)) = lane.waiting.pop_front() else { break };
            lane.credit -= price(cost);
            lane.bytes -= cost.bytes;
            self.items -= 1;
            self.bytes -= cost.bytes;
            taken.add(price(cost), item);
            if cost.returns {
                taken.end();
                break;
            }
        }
        if lane.waiting.is_empty() {
            // Credit is not saved.
            self.lanes.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
    }

    /// Skips as many turns as it takes until a project can spend.
    fn pass_turns(&mut self) {
        let turns = |lane: &Lane<T>| {
            let price = lane.waiting.front().map_or(0, |(cost, _)| price(*cost));
            price.saturating_sub(lane.credit).div_ceil(QUANTUM).saturating_sub(1)
        };
        let most = self.lanes.values().map(turns).min().unwrap_or(0);
        for lane in self.lanes.values_mut() {
            lane.credit = lane.credit.saturating_add(most.saturating_mul(QUANTUM));
        }
    }
}

/// What one call has taken.
struct Taken<T> {
    items: Vec<T>,
    left: Slice,
}

impl<T> Taken<T> {
    const fn is_full(&self) -> bool {
        self.left.items == 0 || self.left.bytes == 0
    }

    /// Takes no more.
    const fn end(&mut self) {
        self.left.items = 0;
    }

    fn add(&mut self, price: usize, item: T) {
        self.left.items -= 1;
        self.left.bytes = self.left.bytes.saturating_sub(price);
        self.items.push(item);
    }
}

/// What a project pays for an item.
const fn price(cost: Cost) -> usize {
    if cost.turn < MIN_COST { MIN_COST } else { cost.turn }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Slice = Slice { items: 1000, bytes: usize::MAX };

    fn tenant(name: &str) -> Tenant {
        Some(ProjectId::new(name).unwrap())
    }

    fn queue(items: usize, bytes: usize) -> FairQueue<&'static str> {
        FairQueue::new(Bounds { items, bytes })
    }

    #[test]
    fn projects_are_served_in_turn_and_each_in_order() {
        let queue = queue(100, 1 << 30);
        let (greedy, quiet) = (tenant("greedy"), tenant("quiet"));
        let large = QUANTUM;
        for item in ["g1", "g2", "g3", "g4"] {
            queue.push(&greedy, Cost::bytes(large), item).unwrap();
        }
        queue.push(&quiet, Cost::bytes(100), "q1").unwrap();
        queue.push(&quiet, Cost::bytes(100), "q2").unwrap();
        queue.push(&None, Cost::bytes(0), "sweep").unwrap();
        assert_eq!(queue.take(ALL), ["g1", "q1", "q2", "sweep", "g2", "g3", "g4"]);
    }

    #[test]
    fn a_large_item_waits_for_its_turns_and_small_ones_go_first() {
        let queue = queue(100, 1 << 30);
        let (greedy, quiet) = (tenant("greedy"), tenant("quiet"));
        queue.push(&greedy, Cost::bytes(10 * QUANTUM), "large").unwrap();
        queue.push(&greedy, Cost::bytes(10 * QUANTUM), "larger").unwrap();
        queue.push(&quiet, Cost::bytes(100), "q1").unwrap();
        assert_eq!(queue.take(ALL), ["q1"], "its transaction is not the large one's");
        // Alone it does not wait for others.
        assert_eq!(queue.take(ALL), ["large"]);
        queue.push(&quiet, Cost::bytes(100), "q2").unwrap();
        assert_eq!(queue.take(ALL), ["q2"]);
        queue.push(&quiet, Cost::bytes(100), "q3").unwrap();
        assert_eq!(queue.take(ALL), ["q3"]);
        assert_eq!(queue.take(ALL), ["larger"]);
    }

    /// However many small items arrive, the large one gets its turn.
    #[test]
    fn no_key_starves() {
        let queue = queue(100, 1 << 30);
        queue.push(&tenant("large"), Cost::bytes(5 * QUANTUM), "large").unwrap();
        let mut rounds = 0;
        loop {
            queue.push(&tenant("small"), Cost::bytes(100), "small").unwrap();
            rounds += 1;
            if queue.take(ALL).contains(&"large") {
                break;
            }
        }
        assert!(rounds <= 6, "{rounds}");
    }

    /// Another project's items go between the parts, and its own wait until the last one.
    #[test]
    fn work_in_parts_gives_way_between_them() {
        let queue = queue(100, 1 << 30);
        let (greedy, quiet) = (tenant("greedy"), tenant("quiet"));
        let part = |bytes: usize, returns| Cost { bytes, turn: 4 * QUANTUM, returns };
        queue.push(&greedy, part(12 * QUANTUM, true), "part 1").unwrap();
        queue.push(&greedy, Cost::bytes(100), "next").unwrap();
        assert_eq!(queue.take(ALL), ["part 1"]);
        queue.push(&quiet, Cost::bytes(100), "q1").unwrap();
        queue.put_back(&greedy, part(8 * QUANTUM, true), "part 2");
        assert_eq!(queue.take(ALL), ["q1"]);
        assert_eq!(queue.take(ALL), ["part 2"]);
        queue.close();
        queue.put_back(&greedy, part(4 * QUANTUM, false), "part 3");
        assert_eq!(queue.take(ALL), ["part 3", "next"]);
        assert_eq!(queue.take(ALL), [""; 0]);
        assert_eq!(queue.state().bytes, 0);
    }

    /// Whoever is taken together waits together.
    #[test]
    fn work_in_parts_has_a_slice_to_itself_in_turn() {
        let queue = queue(100, 1 << 30);
        let (greedy, quiet) = (tenant("greedy"), tenant("quiet"));
        let part = Cost { bytes: 0, turn: QUANTUM, returns: true };
        queue.push(&greedy, part, "part 1").unwrap();
        assert!(!queue.others_wait(&greedy));
        queue.push(&quiet, Cost::bytes(100), "q1").unwrap();
        assert!(queue.others_wait(&greedy) && queue.others_wait(&quiet));
        let mut taken = Vec::new();
        for (part_n, q) in [("part 2", "q2"), ("part 3", "q3"), ("part 4", "q4")] {
            for _ in 0..2 {
                let slice = queue.take(ALL);
                assert_eq!(slice.len(), 1, "{slice:?}");
                let (again, cost, item) = match slice[0].starts_with('q') {
                    true => (&quiet, Cost::bytes(100), q),
                    false => (&greedy, part, part_n),
                };
                queue.put_back(again, cost, item);
                taken.extend(slice);
            }
        }
        assert_eq!(taken, ["part 1", "q1", "part 2", "q2", "part 3", "q3"]);
    }

    #[test]
    fn a_slice_is_bounded_in_items_and_bytes() {
        let queue = queue(100, 1 << 30);
        for _ in 0..10 {
            queue.push(&tenant("a"), Cost::bytes(1000), "a").unwrap();
            queue.push(&tenant("b"), Cost::bytes(1000), "b").unwrap();
        }
        assert_eq!(queue.take(Slice { items: 3, bytes: usize::MAX }).len(), 3);
        assert_eq!(queue.take(Slice { items: 100, bytes: 2500 }).len(), 3);
        assert_eq!(queue.take(ALL).len(), 14);
    }

    #[test]
    fn one_project_leaves_space_for_others() {
        let queue = queue(100, 1000);
        let mut taken = 0;
        while queue.push(&tenant("greedy"), Cost::bytes(1), "g").is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 75);
        for name in ["b", "c"] {
            queue.push(&tenant(name), Cost::bytes(1), "other").unwrap();
        }
        assert_eq!(queue.push(&tenant("greedy"), Cost::bytes(1), "g"), Err(Refusal::Full));
        assert_eq!(queue.take(ALL).len(), 77);
        queue.push(&tenant("large"), Cost::bytes(5000), "too large for the bound").unwrap();
        assert_eq!(queue.push(&tenant("large"), Cost::bytes(1), "more"), Err(Refusal::Full));
        assert_eq!(queue.push(&tenant("other"), Cost::bytes(1), "more"), Err(Refusal::Full));
        queue.push(&tenant("other"), Cost::bytes(0), "costs nothing").unwrap();
    }

    #[test]
    fn waiting_items_are_taken_after_the_close() {
        let queue = queue(10, 10);
        queue.push(&None, Cost::bytes(1), "last").unwrap();
        queue.close();
        assert_eq!(queue.push(&None, Cost::bytes(1), "late"), Err(Refusal::Closed));
        assert_eq!(queue.take(ALL), ["last"]);
        assert_eq!(queue.take(ALL), [""; 0]);
        queue.abandon();
    }
}
