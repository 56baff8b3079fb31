//! A limit on the operations in progress in the whole process, over all connections of all
//! transports.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts operations in progress and rejects those above its limit. Clones are cheap and share the
/// count; beginning an operation costs two atomic additions.
#[derive(Clone)]
pub struct OperationLimit {
    shared: Arc<Counters>,
}

struct Counters {
    limit: usize,
    in_progress: AtomicUsize,
    refused: AtomicU64,
}

/// The limit of operations in progress is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} operations are in progress, which is the limit of this server")]
pub struct TooManyOperations {
    /// The limit.
    pub limit: usize,
}

/// One operation in progress; it ends when this is dropped.
pub struct OperationInProgress {
    shared: Arc<Counters>,
}

impl OperationLimit {
    /// A limit, at least 1.
    pub fn new(limit: usize) -> Self {
        let counters = Counters {
            limit: limit.max(1),
            in_progress: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        };
        Self { shared: Arc::new(counters) }
    }

    /// Begins an operation.
    ///
    /// # Errors
    /// [`TooManyOperations`], immediately: there is no waiting.
    pub fn begin(&self) -> Result<OperationInProgress, TooManyOperations> {
        let Counters { limit, in_progress, refused } = &*self.shared;
        if in_progress.fetch_add(1, Ordering::Relaxed) >= *limit {
            in_progress.fetch_sub(1, Ordering::Relaxed);
            refused.fetch_add(1, Ordering::Relaxed);
            return Err(TooManyOperations { limit: *limit });
        }
        Ok(OperationInProgress { shared: Arc::clone(&self.shared) })
    }

    /// Operations in progress at the moment.
    pub fn in_progress(&self) -> usize {
        self.shared.in_progress.load(Ordering::Relaxed)
    }

    /// Operations rejected since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Default for OperationLimit {
    /// No limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl fmt::Debug for OperationLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationLimit")
            .field("limit", &self.shared.limit)
            .field("in_progress", &self.in_progress())
            .field("refused", &self.refused())
            .finish()
    }
}

impl fmt::Debug for OperationInProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationInProgress").finish_non_exhaustive()
    }
}

impl Drop for OperationInProgress {
    fn drop(&mut self) {
        self.shared.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_above_the_limit_is_rejected_until_one_ends() {
        let limit = OperationLimit::new(2);
        let (first, _second) = (limit.begin().unwrap(), limit.begin().unwrap());
        let refused = limit.begin().unwrap_err();
        let text = "2 operations are in progress, which is the limit of this server";
        assert_eq!((refused.limit, refused.to_string()), (2, text.to_owned()));
        drop(first);
        let _third = limit.begin().unwrap();
        assert_eq!((limit.in_progress(), limit.refused()), (2, 1));
    }
}
