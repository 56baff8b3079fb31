//! One memory budget for the whole process, in bytes, with a bound for each connection and each
//! project.
//!
//! Code that buffers bytes for a client (bodies, responses, frames, pushes) acquires a [`Permit`]
//! first and drops it with the bytes. Above a bound the permit is rejected immediately; the caller
//! answers 503 or closes with 1013. A permit costs two or three atomic additions; only
//! [`Holder::for_project`] takes a lock, for one lookup in a map.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::ProjectId;

/// The bounds of a [`MemoryBudget`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// The limit of all holders together.
    pub process: usize,
    /// The limit of one connection.
    pub connection: usize,
    /// The limit of all connections of one project together.
    pub project: usize,
}

impl MemoryBounds {
    /// No bounds: every permit is granted.
    pub const UNLIMITED: Self =
        Self { process: usize::MAX, connection: usize::MAX, project: usize::MAX };
}

/// The bound that a rejected permit would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryScope {
    /// [`MemoryBounds::process`].
    Process,
    /// [`MemoryBounds::connection`].
    Connection,
    /// [`MemoryBounds::project`].
    Project,
}

impl fmt::Display for MemoryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "server",
            Self::Connection => "connection",
            Self::Project => "project",
        })
    }
}

/// A permit was rejected because it would exceed a bound. Nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory budget of the {scope} is {limit} bytes, of which {in_use} are in use; \
     {requested} more were requested"
)]
pub struct OverBudget {
    /// Which bound.
    pub scope: MemoryScope,
    /// Its value in bytes.
    pub limit: usize,
    /// Bytes charged to it at that time.
    pub in_use: usize,
    /// Additional bytes that were requested.
    pub requested: usize,
}

/// The process's budget. Clones are cheap and share everything.
#[derive(Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

/// Shards of the map of projects, each with a lock: enough that two cores rarely contend for one.
const SHARDS: usize = 16;

type Projects = HashMap<ProjectId, Weak<ProjectAccount>>;

struct Shared {
    bounds: MemoryBounds,
    in_use: AtomicUsize,
    /// The part of it that is charged to background holders.
    background: AtomicUsize,
    refused: AtomicU64,
    /// Only projects with a live account.
    projects: [Mutex<Projects>; SHARDS],
    hasher: RandomState,
}

struct ProjectAccount {
    id: ProjectId,
    in_use: AtomicUsize,
    /// The part of it that is charged to background holders.
    background: AtomicUsize,
    shared: Arc<Shared>,
}

impl MemoryBudget {
    /// A budget with these bounds.
    pub fn new(bounds: MemoryBounds) -> Self {
        let shared = Shared {
            bounds,
            in_use: AtomicUsize::new(0),
            background: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            projects: Default::default(),
            hasher: RandomState::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A holder for a new connection, limited to [`MemoryBounds::connection`].
    pub fn connection(&self) -> Holder {
        Holder {
            shared: Arc::clone(&self.shared),
            connection: Some(Arc::new(AtomicUsize::new(0))),
            project: None,
            is_background: false,
        }
    }

    /// A holder without a connection, limited only by the process's bound; see
    /// [`Holder::for_project`].
    pub fn holder(&self) -> Holder {
        Holder {
            shared: Arc::clone(&self.shared),
            connection: None,
            project: None,
            is_background: false,
        }
    }

    /// A holder for data that waits in the background, such as delayed pushes. All background
    /// holders together are limited to half of the process's bound, and those of a project to half
    /// of the project's bound, so that requests always get the other half.
    pub fn background(&self) -> Holder {
        Holder { is_background: true, ..self.holder() }
    }

    /// The bounds.
    pub fn bounds(&self) -> MemoryBounds {
        self.shared.bounds
    }

    /// Bytes currently charged.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Permits rejected since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Projects with a live account.
    pub fn projects(&self) -> usize {
        self.shared.projects.iter().map(|shard| lock(shard).len()).sum()
    }
}

impl Default for MemoryBudget {
    /// A budget without bounds; it still counts.
    fn default() -> Self {
        Self::new(MemoryBounds::UNLIMITED)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("bounds", &self.shared.bounds)
            .field("in_use", &self.in_use())
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}

/// What permits are charged to: the process and optionally a connection and a project. Clones are
/// cheap and share the counters.
#[derive(Clone)]
pub struct Holder {
    shared: Arc<Shared>,
    connection: Option<Arc<AtomicUsize>>,
    project: Option<Arc<ProjectAccount>>,
    is_background: bool,
}

impl Holder {
    /// The same holder, charged to a project as well. Takes a lock for one lookup in a map.
    #[must_use]
    pub fn for_project(&self, id: &ProjectId) -> Self {
        let project = match &self.project {
            Some(project) if project.id == *id => Arc::clone(project),
            Some(_) | None => self.shared.project(id),
        };
        Self { project: Some(project), ..self.clone() }
    }

    /// Charges bytes. 0 bytes are always granted: such a permit can grow later.
    ///
    /// # Errors
    /// [`OverBudget`] if a bound would be exceeded; nothing is charged then.
    pub fn try_acquire(&self, bytes: usize) -> Result<Permit, OverBudget> {
        let mut permit = Permit { holder: self.clone(), bytes: 0 };
        permit.grow(bytes)?;
        Ok(permit)
    }

    /// Bytes currently charged to this connection; 0 for a holder without one.
    pub fn connection_in_use(&self) -> usize {
        self.connection.as_ref().map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Bytes currently charged to this project; 0 for a holder without one.
    pub fn project_in_use(&self) -> usize {
        self.project.as_ref().map_or(0, |project| project.in_use.load(Ordering::Relaxed))
    }

    /// The counters with their bounds, the one that is exceeded most often first.
    fn counters(&self) -> impl DoubleEndedIterator<Item = (MemoryScope, usize, &AtomicUsize)> {
        let bounds = &self.shared.bounds;
        let connection = self.connection.as_deref();
        let project = self.project.as_deref().map(|project| &project.in_use);
        let account = self.project.as_deref().filter(|_| self.is_background);
        let shared = self.is_background.then_some(&self.shared);
        [
            connection.map(|counter| (MemoryScope::Connection, bounds.connection, counter)),
            account.map(|one| (MemoryScope::Project, bounds.project / 2, &one.background)),
            shared.map(|all| (MemoryScope::Process, bounds.process / 2, &all.background)),
            project.map(|counter| (MemoryScope::Project, bounds.project, counter)),
            Some((MemoryScope::Process, bounds.process, &self.shared.in_use)),
        ]
        .into_iter()
        .flatten()
    }

    fn charge(&self, bytes: usize) -> Result<(), OverBudget> {
        for (done, (scope, limit, counter)) in self.counters().enumerate() {
            if let Err(in_use) = add_up_to(counter, bytes, limit) {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                for (_, _, charged) in self.counters().take(done) {
                    charged.fetch_sub(bytes, Ordering::Relaxed);
                }
                return Err(OverBudget { scope, limit, in_use, requested: bytes });
            }
        }
        Ok(())
    }

    fn release(&self, bytes: usize) {
        for (_, _, counter) in self.counters() {
            counter.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("connection_in_use", &self.connection_in_use())
            .field("project", &self.project.as_ref().map(|project| project.id.as_str()))
            .finish_non_exhaustive()
    }
}

/// Bytes that are charged to a [`Holder`] until this is dropped.
#[derive(Debug)]
pub struct Permit {
    holder: Holder,
    bytes: usize,
}

impl Permit {
    /// Bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The holder that is charged.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Splits off a part of the permit, at most all of it. The total charge does not change.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { holder: self.holder.clone(), bytes }
    }

    /// Moves the charge to another project; the charges of the connection and the process do not
    /// change.
    ///
    /// # Errors
    /// [`OverBudget`] if the project would exceed its bound; the permit does not change.
    pub fn charge_project(&mut self, id: &ProjectId) -> Result<(), OverBudget> {
        if self.holder.project.as_ref().is_some_and(|project| project.id == *id) {
            return Ok(());
        }
        let holder = self.holder.for_project(id);
        let limit = self.holder.shared.bounds.project;
        if let Some(project) = &holder.project
            && let Err(in_use) = add_up_to(&project.in_use, self.bytes, limit)
        {
            self.holder.shared.refused.fetch_add(1, Ordering::Relaxed);
            let (scope, requested) = (MemoryScope::Project, self.bytes);
            return Err(OverBudget { scope, limit, in_use, requested });
        }
        if let Some(earlier) = &self.holder.project {
            earlier.in_use.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        if self.holder.is_background {
            if let Some(earlier) = &self.holder.project {
                earlier.background.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            if let Some(project) = &holder.project {
                project.background.fetch_add(self.bytes, Ordering::Relaxed);
            }
        }
        self.holder = holder;
        Ok(())
    }

    /// Charges more.
    ///
    /// # Errors
    /// [`OverBudget`]; the permit does not change.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes > 0 {
            self.holder.charge(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Charges less, at least 0.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.holder.release(bytes);
            self.bytes -= bytes;
        }
    }

    /// Charges exactly `bytes` from now on.
    ///
    /// # Errors
    /// [`OverBudget`] if an increase would exceed a bound; the permit does not change.
    pub fn resize(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.shrink(self.bytes - bytes);
        Ok(())
    }

    /// Charges exactly `bytes` from now on, even above the bounds: for data that exists already and
    /// must not be dropped, such as popped messages. Other permits are rejected until it is
    /// released.
    pub fn resize_past_bounds(&mut self, bytes: usize) {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            for (_, _, counter) in self.holder.counters() {
                counter.fetch_add(more, Ordering::Relaxed);
            }
            self.bytes = bytes;
        } else {
            self.shrink(self.bytes - bytes);
        }
    }

    /// Whether more is charged to its holder than a bound allows.
    pub fn is_past_bounds(&self) -> bool {
        let mut counters = self.holder.counters();
        counters.any(|(_, limit, counter)| counter.load(Ordering::Relaxed) > limit)
    }

    /// Ties the permit to bytes: it is dropped with the last slice of them. One allocation.
    #[must_use]
    pub fn attach(self, bytes: Bytes) -> Bytes {
        struct Charged(Bytes, #[expect(dead_code, reason = "dropped with the bytes")] Permit);

        impl AsRef<[u8]> for Charged {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        Bytes::from_owner(Charged(bytes, self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Adds unless the sum would exceed the limit; then returns the bytes in use.
fn add_up_to(counter: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), usize> {
    let added = |in_use: usize| in_use.checked_add(bytes).filter(|sum| *sum <= limit);
    // Relaxed: the counters synchronize no other data.
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).map(|_| ())
}

impl Shared {
    fn shard(&self, id: &ProjectId) -> MutexGuard<'_, Projects> {
        lock(&self.projects[self.hasher.hash_one(id) as usize % SHARDS])
    }

    fn project(self: &Arc<Self>, id: &ProjectId) -> Arc<ProjectAccount> {
        let mut shard = self.shard(id);
        if let Some(account) = shard.get(id).and_then(Weak::upgrade) {
            return account;
        }
        let (id, shared) = (id.clone(), Arc::clone(self));
        let (in_use, background) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let account = Arc::new(ProjectAccount { id, in_use, background, shared });
        shard.insert(account.id.clone(), Arc::downgrade(&account));
        account
    }
}

impl Drop for ProjectAccount {
    fn drop(&mut self) {
        let mut shard = self.shared.shard(&self.id);
        // Another thread may have created a new account of this project in between.
        if shard.get(&self.id).is_some_and(|account| account.strong_count() == 0) {
            shard.remove(&self.id);
        }
    }
}

/// No code panics while it holds one of these locks.
fn lock(shard: &Mutex<Projects>) -> MutexGuard<'_, Projects> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: MemoryBounds = MemoryBounds { process: 1000, connection: 300, project: 500 };

    fn project(n: usize) -> ProjectId {
        ProjectId::new(&format!("p{n}")).unwrap()
    }

    #[test]
    fn background_holders_leave_half_to_requests() {
        let budget = MemoryBudget::new(MemoryBounds { connection: 1000, ..BOUNDS });
        let waiting = budget.background().for_project(&project(1));
        let mut pushes = waiting.try_acquire(200).unwrap();
        let over = pushes.grow(51).unwrap_err();
        assert_eq!((over.scope, over.limit, over.in_use), (MemoryScope::Project, 250, 200));
        let requests = budget.connection().for_project(&project(1));
        let request = requests.try_acquire(300).unwrap();
        // Charges of requests count as well.
        assert_eq!(pushes.grow(1).unwrap_err().limit, 500);
        assert_eq!(pushes.bytes(), 200);
        let other = budget.background().for_project(&project(2)).try_acquire(250).unwrap();
        let third = budget.background().for_project(&project(3));
        let over = third.try_acquire(51).unwrap_err();
        assert_eq!((over.scope, over.limit, over.in_use), (MemoryScope::Process, 500, 450));
        drop((pushes, request, other));
        assert_eq!((budget.in_use(), waiting.project_in_use()), (0, 0));
        let _all_again = waiting.try_acquire(250).unwrap();
    }

    #[test]
    fn a_rejection_names_the_bound_its_value_and_the_bytes_in_use() {
        let budget = MemoryBudget::new(BOUNDS);
        let one = budget.connection().for_project(&project(1));
        let _held = one.try_acquire(300).unwrap();
        let refused = one.try_acquire(1).unwrap_err();
        let scope = MemoryScope::Connection;
        assert_eq!(refused, OverBudget { scope, limit: 300, in_use: 300, requested: 1 });
        assert_eq!(
            refused.to_string(),
            "the memory budget of the connection is 300 bytes, of which 300 are in use; 1 more \
             were requested"
        );

        let other = budget.connection().for_project(&project(1));
        let refused = other.try_acquire(201).unwrap_err();
        assert_eq!((refused.scope, refused.in_use), (MemoryScope::Project, 300));
        let _held_too = other.try_acquire(200).unwrap();

        let refused = budget.holder().try_acquire(501).unwrap_err();
        assert_eq!((refused.scope, refused.in_use), (MemoryScope::Process, 500));
        assert_eq!((budget.in_use(), budget.refused()), (500, 3));
    }

    #[test]
    fn a_permit_lives_as_long_as_any_slice_of_its_bytes() {
        let budget = MemoryBudget::new(BOUNDS);
        let bytes = budget.connection().try_acquire(5).unwrap().attach(Bytes::from("12345"));
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!((slice.as_ref(), budget.in_use()), (&b"2"[..], 5));
        drop(slice);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn data_that_must_be_kept_is_charged_above_the_bounds() {
        let budget = MemoryBudget::new(BOUNDS);
        let holder = budget.connection();
        let mut permit = holder.try_acquire(100).unwrap();
        permit.resize_past_bounds(2000);
        assert_eq!((budget.in_use(), holder.connection_in_use()), (2000, 2000));
        assert_eq!(budget.connection().try_acquire(1).unwrap_err().in_use, 2000);
        permit.resize(400).unwrap();
        assert!(permit.is_past_bounds(), "less, but more than the connection's 300");
        permit.resize_past_bounds(50);
        assert!(!permit.is_past_bounds());
        assert_eq!((budget.in_use(), permit.bytes()), (50, 50));
    }

    #[test]
    fn a_split_permit_is_independent() {
        let budget = MemoryBudget::new(BOUNDS);
        let mut permit = budget.holder().for_project(&project(1)).try_acquire(100).unwrap();
        let (part, rest) = (permit.split(30), permit.split(1000));
        assert_eq!((part.bytes(), rest.bytes(), permit.bytes(), budget.in_use()), (30, 70, 0, 100));
        drop((permit, rest));
        assert_eq!((budget.in_use(), part.holder().project_in_use()), (30, 30));
        drop(part);
        assert_eq!((budget.in_use(), budget.projects()), (0, 0));
    }

    #[test]
    fn a_permit_moves_to_another_project_within_its_bound() {
        let budget = MemoryBudget::new(BOUNDS);
        let mut permit = budget.connection().try_acquire(200).unwrap();
        permit.charge_project(&project(1)).unwrap();
        assert_eq!(permit.holder().project_in_use(), 200);
        let other = budget.holder().for_project(&project(2));
        let full = other.try_acquire(400).unwrap();
        let refused = permit.charge_project(&project(2)).unwrap_err();
        assert_eq!(
            (refused.scope, refused.in_use, refused.requested),
            (MemoryScope::Project, 400, 200)
        );
        assert_eq!((permit.holder().project_in_use(), budget.in_use()), (200, 600));
        drop(full);
        permit.charge_project(&project(2)).unwrap();
        assert_eq!((other.project_in_use(), budget.in_use(), budget.refused()), (200, 200, 1));
        drop((permit, other));
        assert_eq!((budget.in_use(), budget.projects()), (0, 0));
    }

    #[test]
    fn accounts_of_projects_end_with_their_last_holder() {
        let budget = MemoryBudget::new(BOUNDS);
        let connection = budget.connection();
        let holder = connection.for_project(&project(1));
        let permit = holder.try_acquire(10).unwrap();
        let again = connection.for_project(&project(1));
        assert_eq!(again.project_in_use(), 10);
        drop((holder, again));
        assert_eq!(budget.projects(), 1);
        drop(permit);
        assert_eq!(budget.projects(), 0);
    }

    #[test]
    fn threads_never_exceed_a_bound_and_leave_nothing() {
        let budget = MemoryBudget::new(BOUNDS);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let budget = &budget;
                scope.spawn(move || {
                    for action in 0..2_000 {
                        let holder = budget.connection().for_project(&project((n + action) % 3));
                        let permit = holder.try_acquire(action % 200);
                        assert!(budget.in_use() <= BOUNDS.process);
                        assert!(holder.project_in_use() <= BOUNDS.project);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((budget.in_use(), budget.projects()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Action {
        Acquire { holder: usize, bytes: usize },
        Resize { permit: usize, bytes: usize },
        Drop { permit: usize },
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let bytes = 0usize..250;
        let action = prop_oneof![
            (0usize..6, bytes.clone())
                .prop_map(|(holder, bytes)| Action::Acquire { holder, bytes }),
            (0usize..8, bytes).prop_map(|(permit, bytes)| Action::Resize { permit, bytes }),
            (0usize..8).prop_map(|permit| Action::Drop { permit }),
        ];
        prop::collection::vec(action, 0..80)
    }

    proptest! {
        /// A permit is granted exactly when every bound allows it; the counters are the sums of the
        /// permits.
        #[test]
        fn permits_are_granted_exactly_when_they_fit(actions in actions()) {
            let budget = MemoryBudget::new(BOUNDS);
            // Six connections in three projects.
            let holders: Vec<Holder> =
                (0..6).map(|n| budget.connection().for_project(&project(n / 2))).collect();
            let mut permits: Vec<(usize, Permit)> = Vec::new();
            for action in actions {
                let held = |of: &dyn Fn(usize) -> bool, permits: &[(usize, Permit)]| -> usize {
                    permits.iter().filter(|(n, _)| of(*n)).map(|(_, p)| p.bytes()).sum()
                };
                let fits = |holder: usize, more: usize, permits: &[(usize, Permit)]| {
                    held(&|n| n == holder, permits) + more <= BOUNDS.connection
                        && held(&|n| n / 2 == holder / 2, permits) + more <= BOUNDS.project
                        && held(&|_| true, permits) + more <= BOUNDS.process
                };
                match action {
                    Action::Acquire { holder, bytes } => {
                        let expected = bytes == 0 || fits(holder, bytes, &permits);
                        let permit = holders[holder].try_acquire(bytes);
                        prop_assert_eq!(permit.is_ok(), expected);
                        permits.extend(permit.ok().map(|permit| (holder, permit)));
                    }
                    Action::Resize { permit, bytes } if permit < permits.len() => {
                        let (holder, had) = (permits[permit].0, permits[permit].1.bytes());
                        let more = bytes.saturating_sub(had);
                        let expected = more == 0 || fits(holder, more, &permits);
                        prop_assert_eq!(permits[permit].1.resize(bytes).is_ok(), expected);
                        let has = permits[permit].1.bytes();
                        prop_assert_eq!(has, if expected { bytes } else { had });
                    }
                    Action::Drop { permit } if permit < permits.len() => {
                        permits.swap_remove(permit);
                    }
                    Action::Resize { .. } | Action::Drop { .. } => {}
                }
                prop_assert_eq!(budget.in_use(), held(&|_| true, &permits));
                for (n, holder) in holders.iter().enumerate() {
                    prop_assert_eq!(holder.connection_in_use(), held(&|of| of == n, &permits));
                    let project = held(&|of| of / 2 == n / 2, &permits);
                    prop_assert_eq!(holder.project_in_use(), project);
                }
            }
            drop((permits, holders));
            prop_assert_eq!((budget.in_use(), budget.projects()), (0, 0));
        }
    }
}
