//! One memory budget for the whole process, in bytes, with a bound for each connection and each
//! project.
//!
//! Code that buffers bytes for a client (bodies, responses, frames, pushes) acquires a [`Permit`]
//! first and drops it with the bytes. Above a bound the permit is rejected immediately; the caller
//! answers 503 or closes with 1013. A permit costs two or three atomic additions; only
//! [`Holder::for_project`] takes a lock, for one lookup in a map.

mod permit;
mod projects;
mod rejection;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::ProjectId;

pub use permit::Permit;
use projects::{ProjectAccount, Projects, SHARDS, lock};
pub use rejection::RejectionPermit;

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

struct Shared {
    bounds: MemoryBounds,
    in_use: AtomicUsize,
    /// The part of it that is charged to background holders.
    background: AtomicUsize,
    refused: AtomicU64,
    /// Bytes of answers that tell clients that they are over the budget. They are beyond it.
    rejections: AtomicUsize,
    /// Only projects with a live account.
    projects: [Mutex<Projects>; SHARDS],
    hasher: RandomState,
}

impl MemoryBudget {
    /// A budget with these bounds.
    pub fn new(bounds: MemoryBounds) -> Self {
        let shared = Shared {
            bounds,
            in_use: AtomicUsize::new(0),
            background: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            rejections: AtomicUsize::new(0),
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

    /// Visits the counters with their bounds, the one that is exceeded most often first, until an
    /// error.
    #[inline]
    fn try_each<'a, E>(
        &'a self,
        mut visit: impl FnMut((MemoryScope, usize, &'a AtomicUsize)) -> Result<(), E>,
    ) -> Result<(), E> {
        let bounds = &self.shared.bounds;
        if let Some(counter) = &self.connection {
            visit((MemoryScope::Connection, bounds.connection, counter))?;
        }
        if self.is_background {
            if let Some(account) = &self.project {
                visit((MemoryScope::Project, bounds.project / 2, &account.background))?;
            }
            visit((MemoryScope::Process, bounds.process / 2, &self.shared.background))?;
        }
        if let Some(account) = &self.project {
            visit((MemoryScope::Project, bounds.project, &account.in_use))?;
        }
        visit((MemoryScope::Process, bounds.process, &self.shared.in_use))
    }

    #[inline]
    fn each<'a>(&'a self, mut visit: impl FnMut((MemoryScope, usize, &'a AtomicUsize))) {
        let Ok(()) = self.try_each(|counter| {
            visit(counter);
            Ok::<(), Infallible>(())
        });
    }

    fn charge(&self, bytes: usize) -> Result<(), OverBudget> {
        let mut done = 0;
        self.try_each(|(scope, limit, counter)| {
            let added = add_up_to(counter, bytes, limit);
            added.map_err(|in_use| OverBudget { scope, limit, in_use, requested: bytes })?;
            done += 1;
            Ok(())
        })
        .inspect_err(|_| self.undo(bytes, done))
    }

    /// Takes the charge of a refused permit back from the first `done` counters.
    fn undo(&self, bytes: usize, mut done: usize) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        self.each(|(_, _, charged)| {
            if done > 0 {
                charged.fetch_sub(bytes, Ordering::Relaxed);
                done -= 1;
            }
        });
    }

    fn release(&self, bytes: usize) {
        self.each(|(_, _, counter)| {
            counter.fetch_sub(bytes, Ordering::Relaxed);
        });
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

/// Adds unless the sum would exceed the limit; then returns the bytes in use.
fn add_up_to(counter: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), usize> {
    let added = |in_use: usize| in_use.checked_add(bytes).filter(|sum| *sum <= limit);
    // Relaxed: the counters synchronize no other data.
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).map(|_| ())
}
