//! Bodies of deleted messages, which go some at a time.
//!
//! A page holds several bodies. Deleted one by one they would have the page written each time; deleted together, in order, mostly
//! the page goes as a whole and is not written at all. So a deletion removes the row that says the message's state, and with it the
//! message, and leaves its body and its row in `expiry` to a later transaction. A process that dies in between forgets them; then they
//! go when they expire.

use crate::error::Sql;
use crate::ledger::Ledger;

/// Bodies that wait before a transaction drops them, but for the last.
const MANY: usize = 1024;
/// The last ones, whose neighbours may still be in use.
const LAST: usize = 512;

/// A position, and when the message there would expire.
type Body = (i64, i64);

/// Bodies whose messages are deleted.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    /// Deleted by finished transactions.
    waiting: Vec<Body>,
    /// Deleted by this transaction.
    staged: Vec<Body>,
    /// Dropped by this transaction: to be forgotten when it is finished.
    dropped: usize,
}

impl Loose {
    pub(crate) fn stage(&mut self, position: i64, expires: i64) {
        self.staged.push((position, expires));
    }

    /// Whether finished transactions left some.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting.len() > self.dropped
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

impl Ledger<'_> {
    /// Drops most of the waiting bodies, if they are many: about as many as the transaction before deleted, or more.
    pub(crate) fn thin_loose(&mut self) -> Sql<()> {
        let waiting = self.loose.waiting.len();
        if waiting >= MANY {
            self.drop_loose(waiting - LAST)?;
        }
        Ok(())
    }

    /// Drops at most `budget` of the waiting bodies; how many it was.
    pub(crate) fn drop_loose(&mut self, budget: usize) -> Sql<usize> {
        let first = self.loose.dropped;
        if first == 0 {
            self.loose.waiting.sort_unstable();
        }
        let last = self.loose.waiting.len().min(first.saturating_add(budget));
        for index in first..last {
            let (position, expires) = self.loose.waiting[index];
            self.drop_body(position, expires)?;
        }
        self.loose.dropped = last;
        Ok(last - first)
    }
}
