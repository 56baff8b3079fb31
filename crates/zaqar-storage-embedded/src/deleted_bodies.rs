//! Bodies of deleted messages, which go some at a time.
//!
//! A page holds several bodies. Deleted one by one they would have the page written each time;
//! deleted together, in order, mostly the page goes as a whole and is not written at all. So a
//! deletion removes the row that says the message's state, and with it the message, and leaves its
//! body and its row in `expiry` to a later transaction. A process that dies in between forgets
//! them; then they go when they expire.

/// Bodies that wait before a transaction drops them, but for the last.
const MANY: usize = 1024;
/// The last ones, whose neighbours may still be in use.
const LAST: usize = 512;

/// A position, and when the message there would expire.
pub(crate) type Body = (i64, i64);

/// Bodies whose messages are deleted.
#[derive(Debug, Default)]
pub(crate) struct DeletedBodies {
    /// Deleted by finished transactions.
    waiting: Vec<Body>,
    /// Deleted by this transaction.
    staged: Vec<Body>,
    /// Dropped by this transaction: to be forgotten when it is finished.
    dropped: usize,
}

impl DeletedBodies {
    pub(crate) fn stage(&mut self, position: i64, expires: i64) {
        self.staged.push((position, expires));
    }

    /// Whether finished transactions left some.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting.len() > self.dropped
    }

    /// How many of them are to be dropped now: most, if they are many. That is about as many as the
    /// transaction before deleted, or more.
    pub(crate) const fn too_many(&self) -> usize {
        if self.waiting.len() < MANY { 0 } else { self.waiting.len() - LAST }
    }

    /// The next ones, at most `budget`, in order; they are dropped by this transaction.
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

    /// Forgets all of them: they go when they expire.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// For [`Self::back_to`]: what was done so far.
    pub(crate) const fn mark(&self) -> (usize, usize) {
        (self.staged.len(), self.dropped)
    }

    /// Forgets what was done since a mark.
    pub(crate) fn back_to(&mut self, (staged, dropped): (usize, usize)) {
        self.staged.truncate(staged);
        self.dropped = dropped;
    }
}
