//! Hidden messages: those of a post that is written in parts, until its last part is.
//!
//! The row of a head has the range of their positions, so that every reader sees all of them or
//! none in its snapshot, and goes past them without reading them. They are in no count. What a post
//! has left that failed, or whose process died, stays hidden until the sweep removes it.

use std::sync::{Arc, Weak};

use rusqlite::params;

use crate::due::UpkeepTask;
use crate::error::Sql;
use crate::rows::{StateRow, columns};
use crate::writer_state::{Head, Positions, WriterState};

/// Bound on remembered heads with hidden messages that cannot be removed.
const MAX_UNREMOVABLE: usize = 1024;

impl WriterState<'_> {
    /// Allocates positions and hides what will be written there. Returns the first. The sweep
    /// leaves them alone as long as the post is alive.
    pub(crate) fn hide_next(&mut self, head: &Head, count: usize, post: &Arc<()>) -> Sql<i64> {
        let hidden = Positions::new(self.allocate_positions(count), count);
        self.conn
            .statement("UPDATE heads SET hidden_from = ?2, hidden_until = ?3 WHERE number = ?1")?
            .execute([head.number, hidden.start, hidden.end])?;
        self.change_in_memory(head.number, |head| head.hidden = hidden);
        self.posts_in_parts.retain(|_, post| post.strong_count() > 0);
        self.posts_in_parts.insert(head.number, Arc::downgrade(post));
        Ok(hidden.start)
    }

    /// Shows the hidden messages of a head.
    pub(crate) fn show_hidden(&mut self, number: i64) -> Sql<()> {
        let Some(Head { hidden, .. }) = self.head_by_number(number)? else { return Ok(()) };
        let count = |sql: &'static str| -> Sql<i64> {
            self.conn
                .statement(sql)?
                .query_row([number, hidden.start, hidden.end], |row| row.get(0))
        };
        // Some may have expired, and delays may have ended, since they were written.
        let free = count(
            "SELECT count(*) FROM free WHERE number = ?1 AND position >= ?2 AND position < ?3",
        )?;
        let delayed = count(
            "SELECT count(*) FROM delayed WHERE number = ?1 AND position >= ?2 AND position < ?3",
        )?;
        self.forget_hidden(number)?;
        self.change(number, |head| {
            head.free += free;
            head.delayed += delayed;
            head.floor = head.floor.min(hidden.start);
        });
        Ok(())
    }

    fn forget_hidden(&mut self, number: i64) -> Sql<()> {
        self.conn
            .statement(
                "UPDATE heads SET hidden_from = NULL, hidden_until = NULL WHERE number = ?1",
            )?
            .execute([number])?;
        self.change_in_memory(number, |head| head.hidden = Positions::default());
        Ok(())
    }

    /// Whether posts have left hidden messages that nobody will show.
    pub(crate) fn has_abandoned(&self) -> Sql<bool> {
        Ok(self.next_abandoned()?.is_some())
    }

    fn next_abandoned(&self) -> Sql<Option<i64>> {
        let mut statement =
            self.conn.statement("SELECT number FROM heads WHERE hidden_from IS NOT NULL")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number = row.get(0)?;
            let post = self.posts_in_parts.get(&number).and_then(Weak::upgrade);
            if post.is_none() && !self.unremovable.contains(&number) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Removes what failed posts have left, about `budget` rows. Returns how many.
    pub(crate) fn remove_abandoned(&mut self, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let Some(number) = self.next_abandoned()? else { break };
            let Some(head) = self.head_by_number(number)? else { break };
            done += 1 + self.remove_hidden(&head, budget - done)?;
        }
        Ok(done)
    }

    /// After a failure: whether the sweep can leave out the head whose hidden messages it was to
    /// remove.
    pub(crate) fn pass_over_hidden(&mut self) -> bool {
        let Some(number) = self.removing.take() else { return false };
        self.unremovable.len() < MAX_UNREMOVABLE && self.unremovable.insert(number)
    }

    /// As [`Self::remove_hidden`], for a request: it is repeated without the bodies if it fails.
    pub(crate) fn make_room(&mut self, head: &Head, budget: usize) -> Sql<()> {
        // Afterwards its failure is the request's own.
        let is_first = !self.skips_bodies && !self.unremovable.contains(&head.number);
        self.task = is_first.then_some(UpkeepTask::Abandoned);
        self.remove_hidden(head, budget)?;
        self.task = None;
        Ok(())
    }

    /// Removes at most `budget` hidden messages of a head. Returns how many.
    fn remove_hidden(&mut self, head: &Head, budget: usize) -> Sql<usize> {
        const STATES: [&str; 2] = [
            concat!(
                columns!(free),
                " WHERE number = ?1 AND position >= ?2 AND position < ?3 LIMIT ?4"
            ),
            concat!(
                columns!(delayed),
                " WHERE number = ?1 AND position >= ?2 AND position < ?3 LIMIT ?4"
            ),
        ];
        let (from, until) = (head.hidden.start, head.hidden.end);
        let limit = |done: usize| i64::try_from(budget.saturating_sub(done)).unwrap_or(i64::MAX);
        let mut done = 0;
        self.removing = Some(head.number);
        for sql in STATES {
            let rows = self
                .conn
                .statement(sql)?
                .query_map(params![head.number, from, until, limit(done)], StateRow::read)?
                .collect::<Sql<Vec<_>>>()?;
            for row in &rows {
                self.remove_now(head.number, row)?;
            }
            done += rows.len();
        }
        done += self
            .conn
            .statement(
                "DELETE FROM outbox_messages WHERE position IN (SELECT position \
                 FROM outbox_messages WHERE position >= ?1 AND position < ?2 LIMIT ?3)",
            )?
            .execute(params![from, until, limit(done)])?;
        if done < budget {
            self.forget_hidden(head.number)?;
        }
        self.removing = None;
        Ok(done)
    }

    /// Before a head gets another number or is closed: of what is hidden, only messages go with
    /// the number. The sweep removes the others.
    pub(crate) fn drop_hidden_outbox(&mut self, head: &Head) -> Sql<()> {
        let Positions { start, end } = head.hidden;
        let has_any = self
            .conn
            .statement("SELECT 1 FROM outbox_messages WHERE position >= ?1 AND position < ?2")?
            .exists([start, end])?;
        if has_any { self.insert_ended_entries(head, start, end) } else { Ok(()) }
    }
}
