//! Where the head of a queue has what arrived from another store: see [`crate::arrival`].

use zaqar_core::Position;

use crate::arrival::{Reserved, of_entries, of_messages, shown, stored};
use crate::error::Sql;
use crate::writer_state::{Head, WriterState};

impl Head {
    /// Where a message is stored.
    pub(crate) fn stored(&self, position: Position) -> i64 {
        stored(self.arrival, of_messages, position)
    }

    /// The position of a stored message, as callers see it.
    pub(crate) fn shown(&self, stored: i64) -> Position {
        shown(self.arrival, of_messages, stored)
    }

    /// Where an outbox entry is stored, or a message of it.
    pub(crate) fn stored_entry(&self, position: Position) -> i64 {
        stored(self.arrival, of_entries, position)
    }

    /// The position of a stored outbox entry, or of a message of it, as callers see it.
    pub(crate) fn shown_entry(&self, stored: i64) -> Position {
        shown(self.arrival, of_entries, stored)
    }
}

impl WriterState<'_> {
    /// Reserves negative positions for those from `first` to `last`; `None` once all are reserved.
    pub(crate) fn reserve_positions(&self, first: i64, last: i64) -> Sql<Option<Reserved>> {
        let at: i64 =
            self.conn.statement("SELECT next FROM arrivals")?.query_row([], |row| row.get(0))?;
        let Some(next) = at.checked_add(last - first + 1).filter(|next| *next <= 0) else {
            return Ok(None);
        };
        self.conn.statement("UPDATE arrivals SET next = ?1")?.execute([next])?;
        Ok(Some(Reserved { first, at }))
    }
}
