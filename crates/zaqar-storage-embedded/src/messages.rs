//! Changes of messages. Reads are in [`crate::listing`].

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, Messages, PopPage,
    PopQuery, Stats, Volume,
};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::first_free::{Progress, Search};
use crate::listing;
use crate::posting::cost_of_whole;
use crate::rows::{State, StateRow, find, is_live_claim, message};
use crate::statements::Statements;
use crate::writer_state::{Head, WriterState, find_head};

#[async_trait]
impl Messages for Embedded {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        self.effective_time(now);
        let key = key.clone();
        let Some(bytes) = cost_of_whole(&batch.messages) else {
            return self.post_in_parts(key, assumed, batch).await;
        };
        self.requester(&key.project)
            .write_bytes(bytes, move |state| {
                state.guarded(
                    &key,
                    |head| head == assumed,
                    |state, head| state.post(&key, head, &batch),
                )
            })
            .await
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        let now = self.effective_time(now);
        if !(query.include_claimed && query.include_delayed) {
            self.apply_due(now).await?;
        }
        let (mut page, mut query) = (MessagePage::default(), query.clone());
        loop {
            let read = |conn: &Statements<'_>| match find_head(conn, key)? {
                Some(head) if continues(&page, &head) => {
                    listing::list(conn, &head, &query, now).map(Some)
                }
                Some(_) | None => Ok(None),
            };
            let Some(slice) = self.read_many(&key.project, read).await? else { break };
            query.limit -= slice.page.messages.len();
            query.after = slice.page.next;
            // Behind the last message of a page there may be nothing.
            page.next = slice.page.next.or(page.next);
            page.messages.extend(slice.page.messages);
            if !slice.is_large {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(page)
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| match find_head(conn, key)? {
            Some(head) => listing::get(conn, &head, ids, now),
            None => Ok(Vec::new()),
        })
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project).write(move |state| state.delete(&key, id, claim)).await
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.effective_time(now);
        let (key, ids, which) = (key.clone(), ids.to_vec(), which.clone());
        self.requester(&key.project)
            .write_rows(ids.len(), move |state| state.delete_many(&key, &ids, &which))
            .await
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        let (key, query) = (key.clone(), query.clone());
        self.effective_time(now);
        self.requester(&key.project).repeat(query.limit, move |state| state.pop(&key, &query)).await
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| match state.head(&key)? {
                Some(head) => state.empty_head(&key, head),
                None => Ok(()),
            })
            .await
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        let now = self.effective_time(now);
        self.apply_due(now).await?;
        let has_expired = self.has_expired(now);
        self.read(|conn| match find_head(conn, key)? {
            Some(head) => listing::stats(conn, &head, has_expired, now).map(Some),
            None => Ok(None),
        })
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        self.read(|conn| listing::volume(conn).map(Some))
    }
}

/// Whether what was read of a page so far is of this head.
fn continues(page: &MessagePage, head: &Head) -> bool {
    page.next.is_none_or(|next| next.incarnation == head.generation.incarnation)
}

impl WriterState<'_> {
    fn delete(&mut self, key: &QueueKey, id: MessageId, claim: Option<ClaimId>) -> Sql<Deleted> {
        let Some(head) = self.head(key)? else { return Ok(Deleted::Gone) };
        let Some(row) = self.live(&head, id)? else { return Ok(Deleted::Gone) };
        let answer = Deleted::answer(self.holder(head.number, &row)?, claim);
        if answer == Deleted::Gone {
            self.remove(head.number, &row)?;
        }
        Ok(answer)
    }

    fn delete_many(&mut self, key: &QueueKey, ids: &[MessageId], which: &Deletable) -> Sql<()> {
        let Some(head) = self.head(key)? else { return Ok(()) };
        for id in ids {
            let Some(row) = self.live(&head, *id)? else { continue };
            if which.allows(self.holder(head.number, &row)?) {
                self.remove(head.number, &row)?;
            }
        }
        Ok(())
    }

    fn pop(&mut self, key: &QueueKey, query: &PopQuery) -> Sql<Progress<PopPage>> {
        let Some(head) = self.head(key)? else { return Ok(Progress::Done(PopPage::default())) };
        let PopQuery { limit, after, keys } = query;
        let search = Search { limit: *limit, after: *after, keys: Some(keys), exhausted: None };
        let found = self.first_free(head.number, &search)?;
        self.advance_floor(head.number, found.floor);
        if found.is_unfinished {
            return Ok(Progress::Unfinished);
        }
        let mut messages = Vec::with_capacity(found.rows.len());
        for (row, body) in found.rows {
            self.remove(head.number, &row)?;
            messages.push(message(&head, &row, body, None));
        }
        Ok(Progress::Done(PopPage { messages, skipped: found.skipped }))
    }

    /// A live message of a head.
    fn live(&self, head: &Head, id: MessageId) -> Sql<Option<StateRow>> {
        if id.incarnation != head.generation.incarnation {
            return Ok(None);
        }
        let row = find(&self.conn, head.number, head.stored(id.position))?;
        Ok(row.filter(|row| row.is_live(self.now) && head.shows(row.position)))
    }

    /// The live claim that holds a message.
    fn holder(&self, number: i64, row: &StateRow) -> Sql<Option<ClaimId>> {
        let State::Held(claim) = row.state else { return Ok(None) };
        // Usually no claim is due, and then no look-up is needed.
        if !self.has_due() || is_live_claim(&self.conn, number, claim, self.now)? {
            return Ok(Some(claim));
        }
        Ok(None)
    }
}
