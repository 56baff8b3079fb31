//! Moves to other stores and from them.
//!
//! The row of a head says which move has frozen it; whoever looks for it by its key gets
//! [`Frozen`] then. What arrives is stored at positions that [`crate::arrival`] reserves.

mod export;
mod import;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use rusqlite::params;
use zaqar_core::storage::{
    Contents, ContentsMark, Error, Exported, FrozenHead, MoveEnd, MoveId, Moves,
};
use zaqar_core::{Kind, QueueKey, Timestamp};

use crate::Embedded;
use crate::arrival::Arrival;
use crate::error::{Frozen, Sql};
use crate::keys::{key_of, kind_number};
use crate::writer_state::{Head, WriterState, find_any_head};

/// Positions that a queue may bring, at most: the later half is for those that follow.
const MAX_POSITION: u64 = 1 << 62;

/// What came of a head that a queue shall arrive in.
enum Received {
    Done,
    /// A head that serves is in the way.
    Exists,
}

#[async_trait]
impl Moves for Embedded {
    async fn freeze(
        &self,
        key: &QueueKey,
        id: MoveId,
        now: Timestamp,
    ) -> Result<Option<FrozenHead>, Error> {
        self.effective_time(now);
        let own = key.clone();
        self.requester(&key.project).write(move |state| state.freeze(&own, id)).await
    }

    async fn receive(
        &self,
        key: &QueueKey,
        id: MoveId,
        head: FrozenHead,
        now: Timestamp,
    ) -> Result<(), Error> {
        if head.last.get() > MAX_POSITION {
            return Err(Error::failed(format!(
                "the last position of the queue, {}, is more than {MAX_POSITION}",
                head.last.get()
            )));
        }
        self.effective_time(head.time.max(now));
        let own = key.clone();
        let receive = move |state: &mut WriterState<'_>| state.receive(&own, id, head);
        match self.requester(&key.project).write_bytes(0, receive).await? {
            Received::Done => Ok(()),
            Received::Exists => Err(Error::failed("the queue is in this store already")),
        }
    }

    async fn export(
        &self,
        key: &QueueKey,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<Exported>, Error> {
        let now = self.effective_time(now);
        let own = Frozen { id, end: MoveEnd::Source };
        self.read_many(&key.project, |conn| match find_any_head(conn, key)? {
            Some(head) if head.frozen == Some(own) => {
                export::part(conn, &head, mark, limit.max(1), now).map(Some)
            }
            Some(_) | None => Ok(None),
        })
        .await
    }

    async fn import(
        &self,
        key: &QueueKey,
        id: MoveId,
        part: &Contents,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.effective_time(now);
        let (own, contents) = (key.clone(), part.clone());
        let own_move = Frozen { id, end: MoveEnd::Target };
        self.requester(&key.project)
            .write_bytes(import::cost(part), move |state| match state.any_head(&own)? {
                Some(head) if head.frozen == Some(own_move) => {
                    Ok(state.import(&own, &head, &contents)?.map(|()| true))
                }
                Some(_) | None => Ok(Ok(false)),
            })
            .await?
            .map_err(Error::failed)
    }

    async fn thaw(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        let own = key.clone();
        let thaw = move |state: &mut WriterState<'_>| match state.frozen_by(&own, id)? {
            Some(head) => state.set_frozen(&head, None),
            None => Ok(()),
        };
        self.requester(&key.project).write(thaw).await
    }

    async fn discard(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        let own = key.clone();
        let discard = move |state: &mut WriterState<'_>| match state.frozen_by(&own, id)? {
            Some(head) => state.close_head(&own, &head),
            None => Ok(()),
        };
        self.requester(&key.project).write(discard).await
    }

    /// The cursor is the number of a head. It changes with a purge, but only grows.
    async fn heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error> {
        let (after, limit) = (cursor.unwrap_or(0).cast_signed(), limit.max(1));
        self.read(|conn| {
            let mut statement = conn.statement(
                "SELECT project, kind, name, number FROM heads WHERE number > ?1 AND kind != ?2 \
                 ORDER BY number",
            )?;
            let mut rows = statement.query([after, kind_number(Kind::Internal)])?;
            let read = |row: &rusqlite::Row<'_>| Ok((key_of(row, 0)?, row.get::<_, i64>(3)?));
            let found = conn.readable_rows(&mut rows, limit, read)?;
            let next = found.last().filter(|_| found.len() == limit).map(|(_, number)| *number);
            let queues = found.into_iter().map(|(key, _)| key).collect();
            Ok((queues, next.map(i64::cast_unsigned)))
        })
    }
}

impl WriterState<'_> {
    fn freeze(&mut self, key: &QueueKey, id: MoveId) -> Sql<Option<FrozenHead>> {
        let own = Frozen { id, end: MoveEnd::Source };
        let Some(head) = self.any_head(key)? else { return Ok(None) };
        match head.frozen {
            None => self.set_frozen(&head, Some(own))?,
            Some(frozen) if frozen == own => {}
            Some(other) => return Err(other.into()),
        }
        let (generation, last) = (head.generation, self.last_position());
        Ok(Some(FrozenHead { generation, last, time: self.now }))
    }

    fn receive(&mut self, key: &QueueKey, id: MoveId, arriving: FrozenHead) -> Sql<Received> {
        let own = Frozen { id, end: MoveEnd::Target };
        match self.any_head(key)?.map(|head| head.frozen) {
            None => {}
            Some(Some(frozen)) if frozen == own => return Ok(Received::Done),
            Some(Some(other)) => return Err(other.into()),
            Some(None) => return Ok(Received::Exists),
        }
        self.open_head(key, arriving.generation)?;
        let Some(head) = self.any_head(key)? else { return Ok(Received::Exists) };
        let last = arriving.last.get().cast_signed();
        self.pass_position(last);
        self.set_frozen(&head, Some(own))?;
        self.set_arrival(&head, Arrival::new(last))?;
        Ok(Received::Done)
    }

    /// The head that a move has frozen, at either end.
    fn frozen_by(&mut self, key: &QueueKey, id: MoveId) -> Sql<Option<Head>> {
        let is_own = |head: &Head| head.frozen.is_some_and(|frozen| frozen.id == id);
        Ok(self.any_head(key)?.filter(is_own))
    }

    fn set_frozen(&mut self, head: &Head, frozen: Option<Frozen>) -> Sql<()> {
        let id = frozen.map(|frozen| frozen.id.get().cast_signed());
        let leaves = frozen.map(|frozen| frozen.end == MoveEnd::Source);
        self.conn
            .statement("UPDATE heads SET frozen = ?2, leaves = ?3 WHERE number = ?1")?
            .execute(params![head.number, id, leaves])?;
        self.change_in_memory(head.number, |head| head.frozen = frozen);
        Ok(())
    }

    fn set_arrival(&mut self, head: &Head, arrival: Arrival) -> Sql<()> {
        self.conn
            .statement("UPDATE heads SET arrival = ?2 WHERE number = ?1")?
            .execute(params![head.number, arrival.write()])?;
        self.change_in_memory(head.number, |head| head.arrival = Some(arrival));
        Ok(())
    }
}
