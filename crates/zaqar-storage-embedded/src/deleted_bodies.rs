//! Bodies of deleted messages, which are deleted in batches.
//!
//! A page holds several bodies. If they were deleted one by one, the page would be written each
//! time. Deleted together, in order, most pages are freed as a whole and not written at all. So a
//! deletion removes the row with the message's state, which removes the message, and leaves the
//! body and the row in `expiry` to a later transaction. If the process dies in between, they are
//! deleted when the message would have expired.

/// A transaction deletes waiting bodies when there are this many.
const MANY: usize = 1024;
/// Bodies that stay, because messages next to the latest ones may still be in use.
const LAST: usize = 512;

/// A position, and when its message would expire.
pub(crate) type Body = (i64, i64);

/// The waiting bodies of deleted messages.
#[derive(Debug, Default)]
pub(crate) struct DeletedBodies {
    /// Deleted by committed transactions.
    waiting: Vec<Body>,
    /// Deleted by this transaction.
    staged: Vec<Body>,
    /// How many of `waiting` this transaction deletes; removed when it is committed.
    dropped: usize,
}

impl DeletedBodies {
    pub(crate) fn stage(&mut self, position: i64, expires: i64) {
        self.staged.push((position, expires));
    }

    /// Whether bodies of committed transactions wait.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting.len() > self.dropped
    }

    /// How many bodies to delete now: at least about as many as the last transaction has added.
    pub(crate) const fn too_many(&self) -> usize {
        if self.waiting.len() < MANY { 0 } else { self.waiting.len() - LAST }
    }

    /// The next bodies, at most `budget`, in order; this transaction deletes them.
    pub(crate) fn take_next(&mut self, budget: usize) -> Vec<Body> {
        let first = self.dropped;
        if first == 0 {
            self.waiting.sort_unstable();
        }
        self.dropped = self.waiting.len().min(first.saturating_add(budget));
        self.waiting[first..self.dropped].to_vec()
    }

    pub(crate) fn committed(&mut self) {
        self.waiting.drain(..self.dropped);
        self.dropped = 0;
        self.waiting.append(&mut self.staged);
    }

    pub(crate) fn rolled_back(&mut self) {
        self.dropped = 0;
        self.staged.clear();
    }

    /// Forgets all of them: they are deleted when they expire.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The current state, for [`Self::back_to`].
    pub(crate) const fn mark(&self) -> (usize, usize) {
        (self.staged.len(), self.dropped)
    }

    /// Undoes what was done since a mark.
    pub(crate) fn back_to(&mut self, (staged, dropped): (usize, usize)) {
        self.staged.truncate(staged);
        self.dropped = dropped;
    }
}
