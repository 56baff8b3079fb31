//! Answers to clients that exceed the budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Holder, Shared, add_up_to};

/// Beyond the budget, rejections may occupy this part of the process's bound.
const PART: usize = 64;
/// Bytes that they may occupy at least.
const AT_LEAST: usize = 64 * 1024;

/// Bytes of a rejection, until this is dropped.
pub struct RejectionPermit {
    shared: Arc<Shared>,
    bytes: usize,
    is_beyond: bool,
}

impl Holder {
    /// Charges bytes of an answer that tells a client that a bound is exceeded: to the process,
    /// past the bounds of the connection and the project. Where the process's bound is reached, all
    /// of these together may occupy a 64th of it, and at least 64 KiB, beyond it. `None` beyond
    /// that: the client's connection is to be closed without an answer.
    pub fn try_reject(&self, bytes: usize) -> Option<RejectionPermit> {
        let limit = self.shared.bounds.process;
        let is_beyond = add_up_to(&self.shared.in_use, bytes, limit).is_err();
        if is_beyond {
            add_up_to(&self.shared.rejections, bytes, (limit / PART).max(AT_LEAST)).ok()?;
        }
        Some(RejectionPermit { shared: Arc::clone(&self.shared), bytes, is_beyond })
    }
}

impl RejectionPermit {
    fn counter(&self) -> &AtomicUsize {
        if self.is_beyond { &self.shared.rejections } else { &self.shared.in_use }
    }
}

impl Drop for RejectionPermit {
    fn drop(&mut self) {
        self.counter().fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for RejectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RejectionPermit")
            .field("bytes", &self.bytes)
            .field("is_beyond", &self.is_beyond)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryBounds, MemoryBudget};
    use super::*;

    const BOUNDS: MemoryBounds =
        MemoryBounds { process: PART << 20, connection: 1000, project: 1000 };

    #[test]
    fn rejections_are_bounded_for_the_process_beside_the_budget() {
        let budget = MemoryBudget::new(BOUNDS);
        let full = budget.holder().try_acquire(PART << 20).unwrap();
        let (a, b) = (budget.connection(), budget.connection());
        let first = a.try_reject(900_000).unwrap();
        assert!(b.try_reject(200_000).is_none());
        let second = b.try_reject(100_000);
        assert!(second.is_some());
        drop(first);
        assert!(b.try_reject(900_000).is_some());
        drop(full);
        assert_eq!(budget.in_use(), 0);
        let small = MemoryBudget::new(MemoryBounds { process: 1, ..BOUNDS });
        assert!(small.holder().try_reject(AT_LEAST).is_some());
    }

    #[test]
    fn within_the_budget_of_the_process_they_are_charged_to_it() {
        let budget = MemoryBudget::new(BOUNDS);
        let rejections =
            [budget.connection().try_reject(40 << 20), budget.holder().try_reject(20 << 20)];
        assert!(rejections.iter().all(Option::is_some));
        assert_eq!(budget.in_use(), 60 << 20);
        drop(rejections);
        assert_eq!(budget.in_use(), 0);
    }
}
