//! Expands entries of the outbox into rows: one for each message and subscription.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use zaqar_core::storage::{Error, OutboxEntry, OutboxMessage, RecipientQuery};
use zaqar_core::{QueueKey, SubscriptionId, Timestamp};

use crate::context::Context;
use crate::row::{Body, Content, Row, SubscriptionKey, Ticket};

/// How long an entry is leased for expansion, in seconds.
const LEASE: u64 = 60;
/// How long an entry goes first, in seconds, if its expansion fails: in the rest of its lease the
/// entries behind it have their turn.
const FIRST: u64 = LEASE / 2;
/// Subscriptions per page.
const PAGE: usize = 100;
/// Subscriptions whose rows are added concurrently.
const CONCURRENCY: usize = 16;
/// Entries of one queue that are expanded before other queues have their turn.
const ENTRIES: usize = 64;
/// A body larger than this is stored once for all subscriptions.
const SHARED_FROM: usize = 1024;

/// Expands due entries of a queue, at most [`ENTRIES`]. Returns their number. One that failed
/// before goes first, for a while.
pub(crate) async fn expand_queue(context: &Context, key: &QueueKey) -> Result<usize, Error> {
    for done in 0..ENTRIES {
        let now = context.parts.clock.now();
        let (entry, first_until) = match context.unfinished.take(key, now) {
            Some(failed) => failed,
            None => {
                let leased = context.parts.messages.lease(key, now.plus_secs(LEASE), now).await?;
                let Some(entry) = leased else { return Ok(done) };
                (entry, now.plus_secs(FIRST))
            }
        };
        if let Err(error) = finish(context, key, &entry).await {
            context.unfinished.keep(key, entry, first_until);
            return Err(error);
        }
    }
    Ok(ENTRIES)
}

/// Expands an entry, and settles it.
async fn finish(context: &Context, key: &QueueKey, entry: &OutboxEntry) -> Result<(), Error> {
    expand(context, key, entry).await?;
    let Some(first) = entry.messages.first() else { return Ok(()) };
    context.parts.messages.settle(key, entry.incarnation, first.id.position).await
}

/// Adds the rows of an entry page by page, and each page's tickets after its rows. What is repeated
/// after a crash is delivered twice.
async fn expand(context: &Context, key: &QueueKey, entry: &OutboxEntry) -> Result<(), Error> {
    let mut after = None;
    let mut bodies = Bodies { shared: None };
    loop {
        let now = context.parts.clock.now();
        let confirmed_only = context.options.require_confirmation;
        let query = RecipientQuery { after, limit: PAGE, confirmed_only };
        let page = context.parts.messages.recipients(key, &query, now).await?;
        after = page.last().copied();
        // Ids are in the order of their times: those behind a younger one are younger too.
        let told: Vec<_> =
            page.iter().copied().take_while(|id| is_older(*id, entry.created)).collect();
        let is_last = page.len() < PAGE || told.len() < page.len();
        if !told.is_empty() {
            bodies.prepare(context, key, entry, told.len() > 1 || !is_last).await?;
            expand_to(context, key, entry, &bodies, &told).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Whether a subscription gets what was posted at `posted`.
fn is_older(id: SubscriptionId, posted: Timestamp) -> bool {
    let made = u64::try_from(id.get() >> 80).unwrap_or(u64::MAX);
    made <= posted.as_millis()
}

/// Bodies of an entry that are stored once, by message.
struct Bodies {
    shared: Option<Vec<Option<Body>>>,
}

impl Bodies {
    /// Stores large bodies, unless they are stored already or there is a single subscription.
    async fn prepare(
        &mut self,
        context: &Context,
        key: &QueueKey,
        entry: &OutboxEntry,
        is_shared: bool,
    ) -> Result<(), Error> {
        if self.shared.is_some() || !is_shared {
            return Ok(());
        }
        let now = context.parts.clock.now();
        let mut stored = Vec::with_capacity(entry.messages.len());
        for message in &entry.messages {
            let expires = entry.created.plus_secs(message.ttl);
            let is_small = message.payload.bytes.len() <= SHARED_FROM;
            if is_small || expires <= now {
                stored.push(None);
                continue;
            }
            let payload = message.payload.clone();
            let size = payload.bytes.len();
            let added = context.deliveries.add_body(&key.project, payload, expires, now).await?;
            stored.push(added.map(|id| Body::Shared(id, Some(size))));
        }
        self.shared = Some(stored);
        Ok(())
    }

    fn of(&self, at: usize, message: &OutboxMessage) -> Body {
        let shared = self.shared.as_ref().and_then(|bodies| bodies.get(at)?.clone());
        shared.unwrap_or_else(|| Body::Here(message.payload.clone()))
    }
}

async fn expand_to(
    context: &Context,
    key: &QueueKey,
    entry: &OutboxEntry,
    bodies: &Bodies,
    subscriptions: &[SubscriptionId],
) -> Result<(), Error> {
    let now = context.parts.clock.now();
    let rows: Vec<(Row, Timestamp)> = entry
        .messages
        .iter()
        .enumerate()
        .map(|(at, message)| {
            let (ttl, created) = (message.ttl, entry.created);
            let body = bodies.of(at, message);
            let content = Content::Message;
            (Row { message: message.id, ttl, created, content, body }, message.due)
        })
        .filter(|(row, _)| row.expires() > now)
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> =
        subscriptions.iter().map(|id| SubscriptionKey { queue: key.clone(), id: *id }).collect();
    let rows = &rows;
    let mut adding = futures_util::stream::iter(keys.clone())
        .map(|key| async move { context.deliveries.add(&key, rows, now).await })
        .buffer_unordered(CONCURRENCY);
    while let Some(added) = adding.next().await {
        added?;
    }
    drop(adding);
    let tickets: Vec<_> =
        keys.into_iter().map(|subscription| Ticket { subscription, keeps: false }).collect();
    // A ticket for each time at which a row becomes due, so that a delayed row is not late.
    let dues: BTreeSet<_> =
        rows.iter().map(|(_, due)| due.as_millis().max(now.as_millis()).div_ceil(1000)).collect();
    for (at, due) in dues.into_iter().enumerate() {
        let due = if at == 0 { rows.iter().map(|(_, due)| *due).min() } else { None }
            .unwrap_or(Timestamp::from_millis(due.saturating_mul(1000)));
        context.deliveries.schedule(&tickets, due, now).await?;
    }
    Ok(())
}
