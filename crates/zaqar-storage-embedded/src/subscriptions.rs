//! Subscriptions.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{
    Changed, Error, Guarded, NewSubscription, RecipientQuery, Subscribed, Subscription,
    SubscriptionChange, Subscriptions,
};
use zaqar_core::{Generation, LeaseId, QueueKey, SubscriptionId, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::queues::SLICE_BYTES;
use crate::statements::Statements;
use crate::writer_state::{Head, SubscribedUntil, WriterState, find_head, millis, time};

/// The columns that [`read`] reads.
macro_rules! columns {
    () => {
        "SELECT id, subscriber, ttl, since, confirmed, options, lease FROM subscriptions"
    };
}
pub(crate) use columns as subscription_columns;

#[async_trait]
impl Subscriptions for Embedded {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        self.effective_time(now);
        let (key, new) = (key.clone(), subscription.clone());
        self.requester(&key.project)
            .write_bytes(new.options.len(), move |state| {
                let is_assumed = |head: Generation| head == assumed;
                state.guarded(&key, is_assumed, |state, head| state.subscribe(&head, &new))
            })
            .await
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| match find_head(conn, key)? {
            Some(head) => find(conn, head.subscriptions_number, id, now),
            None => Ok(None),
        })
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        let now = self.effective_time(now);
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let left = limit - all.len();
            let slice = self.read(|conn| match find_head(conn, key)? {
                Some(head) => list(conn, head.subscriptions_number, after, left, now),
                None => Ok(Slice { rows: Vec::new(), next: None }),
            })?;
            all.extend(slice.rows);
            let Some(next) = slice.next.filter(|_| all.len() < limit) else { return Ok(all) };
            after = Some(next);
            tokio::task::yield_now().await;
        }
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| match find_head(conn, key)? {
            Some(head) => list_leased(conn, head.subscriptions_number, lease, after, limit, now),
            None => Ok(Vec::new()),
        })
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| match find_head(conn, key)? {
            Some(head) => list_recipients(conn, head.subscriptions_number, query, now),
            None => Ok(Vec::new()),
        })
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        self.effective_time(now);
        let (key, change) = (key.clone(), change.clone());
        self.requester(&key.project)
            .write(move |state| match state.head(&key)? {
                Some(head) => state.change_subscription(&head, id, &change),
                None => Ok(Changed::Absent),
            })
            .await
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| match state.head(&key)? {
                Some(head) => {
                    state.drop_subscription(head.subscriptions_number, id)?;
                    state.subscriptions_change(&head);
                    state.end_unwanted_entries(&head)
                }
                None => Ok(()),
            })
            .await
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| match state.head(&key)? {
                Some(head) => {
                    state.remove_subscriptions_of(&head)?;
                    match state.head(&key)? {
                        Some(head) => state.end_unwanted_entries(&head),
                        None => Ok(()),
                    }
                }
                None => Ok(()),
            })
            .await
    }
}

impl WriterState<'_> {
    /// Until when a head has live subscriptions.
    pub(crate) fn subscribed_until(&mut self, head: &Head) -> Sql<SubscribedUntil> {
        if let Some(subscribed_until) = head.subscribed_until {
            return Ok(subscribed_until);
        }
        let last = |has_address: bool| -> Sql<i64> {
            let last = self
                .conn
                .statement(
                    "SELECT expires FROM subscriptions WHERE audience = ?1 AND (lease IS NULL) = ?2 \
                     ORDER BY expires DESC LIMIT 1",
                )?
                .query_row(params![head.subscriptions_number, has_address], |row| row.get(0))
                .optional()?;
            Ok(last.unwrap_or(0))
        };
        let subscribed_until = SubscribedUntil { address: last(true)?, lease: last(false)? };
        self.change_in_memory(head.number, |head| head.subscribed_until = Some(subscribed_until));
        Ok(subscribed_until)
    }

    fn subscribe(&mut self, head: &Head, new: &NewSubscription) -> Sql<Subscribed> {
        if let Some(existing) = self.with_subscriber(head.subscriptions_number, &new.subscriber)? {
            if existing.is_live(self.now) {
                return Ok(Subscribed::Exists(existing));
            }
            self.drop_subscription(head.subscriptions_number, existing.id)?;
        }
        self.insert_subscription(head, &Subscription::new(new.clone(), self.now))?;
        if let Some(lease) = new.lease {
            self.attach_to_lease(lease)?;
        }
        Ok(Subscribed::Created { after: self.last_position() })
    }

    fn change_subscription(
        &mut self,
        head: &Head,
        id: SubscriptionId,
        change: &SubscriptionChange,
    ) -> Sql<Changed> {
        let Some(mut one) = find(&self.conn, head.subscriptions_number, id, self.now)? else {
            return Ok(Changed::Absent);
        };
        if let Some(subscriber) = &change.subscriber {
            let existing = self.with_subscriber(head.subscriptions_number, subscriber)?;
            if let Some(existing) = existing.filter(|existing| existing.id != id) {
                if existing.is_live(self.now) {
                    return Ok(Changed::Duplicate);
                }
                self.drop_subscription(head.subscriptions_number, existing.id)?;
            }
        }
        one.apply(change.clone(), self.now);
        self.drop_subscription(head.subscriptions_number, id)?;
        self.insert_subscription(head, &one)?;
        Ok(Changed::Done)
    }

    pub(crate) fn insert_subscription(&mut self, head: &Head, one: &Subscription) -> Sql<()> {
        let expires = millis(one.expires());
        self.conn
            .statement("INSERT INTO subscriptions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                head.subscriptions_number,
                one.id.get().to_be_bytes(),
                one.subscriber,
                one.ttl.cast_signed(),
                millis(one.since),
                expires,
                one.confirmed,
                one.options,
                one.lease.map(|lease| lease.get().to_be_bytes()),
            ])?;
        self.due.subscription_ends(expires);
        self.subscriptions_change(head);
        Ok(())
    }

    fn subscriptions_change(&mut self, head: &Head) {
        self.change_in_memory(head.number, |head| head.subscribed_until = None);
    }

    /// The subscription of a subscriber to a head, live or not.
    fn with_subscriber(
        &self,
        subscriptions_number: i64,
        subscriber: &str,
    ) -> Sql<Option<Subscription>> {
        self.conn
            .statement(concat!(columns!(), " WHERE audience = ?1 AND subscriber = ?2"))?
            .query_row(params![subscriptions_number, subscriber], read)
            .optional()
    }

    pub(crate) fn drop_subscription(
        &self,
        subscriptions_number: i64,
        id: SubscriptionId,
    ) -> Sql<()> {
        self.conn
            .statement("DELETE FROM subscriptions WHERE audience = ?1 AND id = ?2")?
            .execute(params![subscriptions_number, id.get().to_be_bytes()])?;
        Ok(())
    }
}

fn find(
    conn: &Statements<'_>,
    subscriptions_number: i64,
    id: SubscriptionId,
    now: Timestamp,
) -> Sql<Option<Subscription>> {
    let found = conn
        .statement(concat!(columns!(), " WHERE audience = ?1 AND id = ?2"))?
        .query_row(params![subscriptions_number, id.get().to_be_bytes()], read)
        .optional()?;
    Ok(found.filter(|one| one.is_live(now)))
}

/// A part of a page.
struct Slice {
    rows: Vec<Subscription>,
    /// If it ends because of its size, the last id in it.
    next: Option<SubscriptionId>,
}

fn list(
    conn: &Statements<'_>,
    subscriptions_number: i64,
    after: Option<SubscriptionId>,
    limit: usize,
    now: Timestamp,
) -> Sql<Slice> {
    // An empty id is before all ids.
    let after = after.map_or(Vec::new(), |id| id.get().to_be_bytes().to_vec());
    let mut statement = conn.statement(concat!(
        columns!(),
        " WHERE audience = ?1 AND id > ?2 AND expires > ?3 ORDER BY id"
    ))?;
    let mut rows = statement.query(params![subscriptions_number, after, millis(now)])?;
    let (mut slice, mut bytes) = (Slice { rows: Vec::new(), next: None }, 0);
    while slice.rows.len() < limit {
        let Some(row) = rows.next()? else { break };
        let Some(one) = conn.readable(read(row))? else { continue };
        let (id, size) = (one.id, one.subscriber.len() + one.options.len());
        slice.rows.push(one);
        bytes += size;
        if bytes >= SLICE_BYTES {
            slice.next = Some(id);
            break;
        }
    }
    Ok(slice)
}

/// The subscriptions on one lease, from a covering index.
fn list_leased(
    conn: &Statements<'_>,
    subscriptions_number: i64,
    lease: LeaseId,
    after: Option<SubscriptionId>,
    limit: usize,
    now: Timestamp,
) -> Sql<Vec<(SubscriptionId, Timestamp)>> {
    // An empty id is before all ids.
    let after = after.map_or(Vec::new(), |id| id.get().to_be_bytes().to_vec());
    let lease = lease.get().to_be_bytes();
    conn.statement(
        "SELECT id, expires FROM subscriptions WHERE lease = ?1 AND audience = ?2 AND id > ?3 \
         AND expires > ?4 ORDER BY id LIMIT ?5",
    )?
    .query_map(
        params![
            lease,
            subscriptions_number,
            after,
            millis(now),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ],
        |row| Ok((SubscriptionId::new(u128::from_be_bytes(row.get(0)?)), time(row.get(1)?))),
    )?
    .collect()
}

/// Only columns that are at the beginning of a row, so options on further pages are not read; a
/// lease that is null takes no bytes.
fn list_recipients(
    conn: &Statements<'_>,
    subscriptions_number: i64,
    query: &RecipientQuery,
    now: Timestamp,
) -> Sql<Vec<SubscriptionId>> {
    // An empty id is before all ids.
    let after = query.after.map_or(Vec::new(), |id| id.get().to_be_bytes().to_vec());
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    conn.statement(
        "SELECT id FROM subscriptions WHERE audience = ?1 AND id > ?2 AND expires > ?3 \
         AND confirmed >= ?4 AND lease IS NULL ORDER BY id LIMIT ?5",
    )?
    .query_map(
        params![subscriptions_number, after, millis(now), query.confirmed_only, limit],
        |row| Ok(SubscriptionId::new(u128::from_be_bytes(row.get(0)?))),
    )?
    .collect()
}

pub(crate) fn read(row: &Row<'_>) -> Sql<Subscription> {
    Ok(Subscription {
        id: SubscriptionId::new(u128::from_be_bytes(row.get(0)?)),
        subscriber: row.get(1)?,
        ttl: row.get::<_, i64>(2)?.cast_unsigned(),
        since: time(row.get(3)?),
        confirmed: row.get(4)?,
        options: row.get(5)?,
        lease: row.get::<_, Option<[u8; 16]>>(6)?.map(|id| LeaseId::new(u128::from_be_bytes(id))),
    })
}

#[cfg(test)]
mod tests {
    use zaqar_core::storage::Heads;

    use super::*;
    use crate::testing::{generation, key, store, time};

    #[tokio::test]
    async fn a_page_of_large_rows_is_read_in_slices() {
        let (store, _directory) = store();
        let (key, now) = (key("q"), time(0));
        Heads::open(&store, &key, generation(), now).await.unwrap();
        let options = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
        for id in 1..=20 {
            let new = NewSubscription {
                id: SubscriptionId::new(id),
                subscriber: format!("http://h/{id}"),
                ttl: 60,
                options: options.clone(),
                confirmed: true,
                lease: None,
            };
            store.subscribe(&key, generation(), &new, now).await.unwrap();
        }
        let of_slice = SLICE_BYTES.div_ceil(options.len());
        let slice = store.read(|conn| {
            let head = find_head(conn, &key)?.expect("a head");
            list(conn, head.subscriptions_number, None, 100, now)
        });
        assert_eq!(slice.unwrap().rows.len(), of_slice);
        for (limit, expected) in [(100, 20), (20, 20), (7, 7), (of_slice, of_slice)] {
            let page = store.subscriptions(&key, None, limit, now).await.unwrap();
            let ids: Vec<_> = page.iter().map(|one| one.id.get()).collect();
            assert_eq!(ids, (1..=expected as u128).collect::<Vec<_>>());
        }
    }
}
