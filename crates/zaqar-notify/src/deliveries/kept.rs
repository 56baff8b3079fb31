//! What a subscription has besides its rows: its secret, its log, and failed rows.

use zaqar_core::storage::{Deletable, Error, ListQuery, Message, NewMessage};
use zaqar_core::{MessageId, Payload, QueueKey, Timestamp};

use super::{Deliveries, NO_EXPIRY, ROW_LEASE};
use crate::row::{Row, SubscriptionKey, Ticket};

/// Messages in a queue for a single value, at most: a crash can leave a replaced one.
const SINGLES: usize = 10;
/// Messages per page of a scan.
const SCAN: usize = 20;
/// Messages of a scan, at most (approximately).
const SCANNED: usize = 1000;
/// Bytes of a scan's messages, at most (approximately).
const SCANNED_BYTES: usize = 8 * 1024 * 1024;

/// A failed row.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: MessageId,
    pub(crate) row: Row,
}

impl Deliveries {
    /// The last message of a queue for a single value, and the claim under which it can be
    /// replaced.
    pub(crate) async fn read_single(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Result<Option<Payload>, Error> {
        let query = ListQuery {
            after: None,
            limit: SINGLES,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.store.list(key, &query, now).await?;
        Ok(page.messages.into_iter().next_back().map(|message| message.payload))
    }

    /// Appends messages to a queue of a subscription, unless the subscription is gone.
    pub(crate) async fn append(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        payloads: Vec<Payload>,
        ttl: u64,
        now: Timestamp,
    ) -> Result<Vec<MessageId>, Error> {
        let Some(deliveries) = subscription.deliveries() else { return Ok(Vec::new()) };
        let message = |payload| NewMessage { payload, ttl, delay: 0 };
        let messages: Vec<_> = payloads.into_iter().map(message).collect();
        if self.store.generation(&deliveries).await?.is_none() {
            return Ok(Vec::new());
        }
        let ids = self.post(key, messages, None, now).await?;
        // The deliveries' queue is deleted before the others, so its absence shows that the
        // subscription is gone.
        if self.store.generation(&deliveries).await?.is_none() {
            self.close(key).await?;
        }
        Ok(ids)
    }

    /// Stores the value of a single-value queue.
    pub(crate) async fn add_single(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        payload: Payload,
        now: Timestamp,
    ) -> Result<(), Error> {
        let keeps = Ticket { subscription: subscription.clone(), keeps: true };
        let message = NewMessage { payload, ttl: NO_EXPIRY, delay: 0 };
        self.post(key, vec![message], Some(&keeps), now).await.map(|_| ())
    }

    /// Stores the value of a single-value queue that has no valid one. If several callers try, the
    /// first succeeds and the others get `false`.
    pub(crate) async fn add_only(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        payload: Payload,
        counts: impl Fn(&Payload) -> bool + Send + Sync,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let keeps = Ticket { subscription: subscription.clone(), keeps: true };
        let message = NewMessage { payload, ttl: NO_EXPIRY, delay: 0 };
        let ids = self.post(key, vec![message], Some(&keeps), now).await?;
        let query = ListQuery {
            after: None,
            limit: SINGLES,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.store.list(key, &query, now).await?;
        let first = page.messages.iter().find(|message| counts(&message.payload));
        if first.is_none_or(|first| ids.contains(&first.id)) {
            return Ok(true);
        }
        self.store.delete_many(key, &ids, &Deletable::Any, now).await?;
        Ok(false)
    }

    /// Replaces the value of a single-value queue by what `change` makes of it; `None` if there is
    /// none, or another caller is replacing it.
    pub(crate) async fn replace_single<T>(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        change: impl FnOnce(Payload) -> Option<(Payload, T)> + Send,
        now: Timestamp,
    ) -> Result<Option<T>, Error> {
        let (claim, found) = self.claim(key, ROW_LEASE, SINGLES, now).await?;
        let ids: Vec<_> = found.iter().map(|message| message.id).collect();
        let last = found.into_iter().next_back();
        let changed = last.and_then(|message| change(message.payload));
        let Some((payload, answer)) = changed else {
            self.store.claim_release(key, claim, now).await?;
            return Ok(None);
        };
        // Readers take the last message, so there is always one to read.
        self.add_single(subscription, key, payload, now).await?;
        self.store.delete_many(key, &ids, &Deletable::HeldBy(vec![claim]), now).await?;
        Ok(Some(answer))
    }

    /// Keeps a failed row, so that it can be redelivered.
    pub(crate) async fn keep(
        &self,
        subscription: &SubscriptionKey,
        row: &Row,
        now: Timestamp,
    ) -> Result<Option<MessageId>, Error> {
        let Some(key) = subscription.failed().filter(|_| row.expires() > now) else {
            return Ok(None);
        };
        let ttl = row.expires().secs_since(now).saturating_add(1);
        let ids = self.append(subscription, &key, vec![row.encode()], ttl, now).await?;
        Ok(ids.first().copied())
    }

    /// Reads a kept row; `None` if it is gone.
    pub(crate) async fn kept(
        &self,
        subscription: &SubscriptionKey,
        id: MessageId,
        now: Timestamp,
    ) -> Result<Option<Row>, Error> {
        let Some(key) = subscription.failed() else { return Ok(None) };
        let found = self.store.get(&key, &[id], now).await?;
        Ok(found.first().and_then(|message| Row::decode(&message.payload)))
    }

    /// A page of kept rows after the given one, and where the next page begins.
    pub(crate) async fn kept_after(
        &self,
        subscription: &SubscriptionKey,
        after: Option<MessageId>,
        now: Timestamp,
    ) -> Result<(Vec<Kept>, Option<MessageId>), Error> {
        let Some(key) = subscription.failed() else { return Ok((Vec::new(), None)) };
        let query = ListQuery {
            after,
            limit: SCAN,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.store.list(&key, &query, now).await?;
        let kept = |message: Message| {
            let row = Row::decode(&message.payload).filter(|row| row.expires() > now)?;
            Some(Kept { id: message.id, row })
        };
        Ok((page.messages.into_iter().filter_map(kept).collect(), page.next))
    }

    /// The last kept row. Cost: reads all of them, which the log bounds.
    pub(crate) async fn last_kept(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<Option<MessageId>, Error> {
        let (mut last, mut after) = (None, None);
        loop {
            let (rows, next) = self.kept_after(subscription, after, now).await?;
            last = rows.last().map(|kept| kept.id).or(last);
            match next {
                None => return Ok(last),
                next => after = next,
            }
        }
    }

    /// Deletes kept rows.
    pub(crate) async fn drop_kept(
        &self,
        subscription: &SubscriptionKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.failed() else { return Ok(()) };
        self.store.delete_many(&key, ids, &Deletable::Any, now).await
    }

    /// The first messages of a queue: at most [`SCANNED`], fewer if they are large.
    pub(crate) async fn scan(&self, key: &QueueKey, now: Timestamp) -> Result<Vec<Message>, Error> {
        let mut query = ListQuery {
            after: None,
            limit: SCAN,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < SCANNED && bytes < SCANNED_BYTES {
            let page = self.store.list(key, &query, now).await?;
            bytes += page.messages.iter().map(|one| one.payload.bytes.len()).sum::<usize>();
            found.extend(page.messages);
            match page.next {
                None => break,
                next => query.after = next,
            }
        }
        Ok(found)
    }

    /// Deletes the oldest messages of a queue until `kept` are left.
    pub(crate) async fn trim(
        &self,
        key: &QueueKey,
        kept: usize,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(stats) = self.store.stats(key, now).await? else { return Ok(()) };
        let count = usize::try_from(stats.free).unwrap_or(usize::MAX);
        let mut surplus = count.saturating_sub(kept);
        while surplus > 0 {
            let query = ListQuery {
                after: None,
                limit: surplus.min(SCAN),
                hide: None,
                include_claimed: false,
                include_delayed: false,
            };
            let page = self.store.list(key, &query, now).await?;
            if page.messages.is_empty() {
                break;
            }
            surplus -= page.messages.len().min(surplus);
            let ids: Vec<_> = page.messages.iter().map(|message| message.id).collect();
            self.store.delete_many(key, &ids, &Deletable::Any, now).await?;
        }
        Ok(())
    }
}
