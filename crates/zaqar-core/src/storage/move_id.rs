//! Which move of a queue a head is frozen for.

use std::fmt;

/// Identifies one move. Drawn at random, and never used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoveId(u64);

impl MoveId {
    /// The move of this number; only the lower 53 bits count.
    pub const fn new(number: u64) -> Self {
        Self(number & ((1 << 53) - 1))
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which end of a move a frozen head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveEnd {
    /// The head that the queue leaves.
    Source,
    /// The head that its contents are copied to.
    Target,
}
