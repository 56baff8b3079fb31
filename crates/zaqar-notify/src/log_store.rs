//! The log of deliveries in the store: writing, trimming and reading entries.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use zaqar_core::delivery::{Delivery, DeliveryState};
use zaqar_core::storage::Error;
use zaqar_core::{ClaimId, MessageId};

use crate::context::Context;
use crate::log::Entry;
use crate::row::{Content, Row, SubscriptionKey};

/// Subscriptions whose entries are written concurrently.
const CONCURRENCY: usize = 16;

/// A delivery, and where it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) delivery: Delivery,
    /// The waiting row, and the claim that holds it.
    pub(crate) waits: Option<(MessageId, Option<ClaimId>)>,
    pub(crate) kept: Option<MessageId>,
}

/// Writes all waiting entries.
pub(crate) async fn flush(context: &Context) -> Result<(), Error> {
    let (waiting, lost) = context.log.take();
    if lost > 0 {
        tracing::warn!(
            lost,
            "entries of the log of deliveries were dropped: the store is too slow"
        );
    }
    let mut writing = futures_util::stream::iter(waiting)
        .map(|(key, entries)| async move { write(context, &key, entries).await })
        .buffer_unordered(CONCURRENCY);
    let mut failed = None;
    while let Some(written) = writing.next().await {
        failed = failed.or(written.err());
    }
    failed.map_or(Ok(()), Err)
}

async fn write(
    context: &Context,
    key: &SubscriptionKey,
    mut entries: Vec<Entry>,
) -> Result<(), Error> {
    // Of more than are kept, the older ones would be deleted at once.
    entries.drain(..entries.len().saturating_sub(context.options.log));
    let Some(queue) = key.log().filter(|_| !entries.is_empty()) else { return Ok(()) };
    let (deliveries, now) = (&context.deliveries, context.parts.clock.now());
    let project = &key.queue.project;
    let sealed = |entry: &Entry| context.parts.bodies.seal(project, entry.encode());
    let payloads: Vec<_> = entries.iter().filter_map(sealed).collect();
    let (count, kept) = (payloads.len(), context.options.log);
    if count == 0 {
        return Ok(());
    }
    deliveries.append(key, &queue, payloads, context.options.log_time, now).await?;
    if context.log.note_written(key, count, kept) {
        deliveries.trim(&queue, kept, now).await?;
        if let Some(failed) = key.failed() {
            deliveries.trim(&failed, kept, now).await?;
        }
    }
    Ok(())
}

/// The known deliveries of a subscription by id: those in the log, and waiting rows.
pub(crate) async fn read(
    context: &Context,
    key: &SubscriptionKey,
) -> Result<BTreeMap<MessageId, Known>, Error> {
    write(context, key, context.log.take_one(key)).await?;
    let now = context.parts.clock.now();
    let mut known = BTreeMap::new();
    if let Some(queue) = key.log() {
        let project = &key.queue.project;
        for message in context.deliveries.scan(&queue, now).await? {
            let opened = context.parts.bodies.open(project, message.payload);
            if let Some(entry) = opened.and_then(|bytes| Entry::decode(&bytes)) {
                add(entry, &mut known);
            }
        }
    }
    let Some(queue) = key.deliveries() else { return Ok(known) };
    for message in context.deliveries.scan(&queue, now).await? {
        let Some(row) = Row::decode(&message.payload) else { continue };
        if row.content == Content::Recovery {
            continue;
        }
        let fresh = || Known {
            delivery: Delivery {
                id: row.message,
                state: DeliveryState::Pending,
                posted: row.created,
                changed: row.created,
                attempts: Vec::new(),
            },
            waits: None,
            kept: None,
        };
        let known = known.entry(row.message).or_insert_with(fresh);
        known.delivery.state = DeliveryState::Pending;
        known.waits = Some((message.id, message.claim));
    }
    Ok(known)
}

fn add(entry: Entry, known: &mut BTreeMap<MessageId, Known>) {
    let (id, state, posted, changed) = (entry.message, entry.state, entry.posted, entry.at);
    let attempts = Vec::new();
    let fresh = || Known {
        delivery: Delivery { id, state, posted, changed, attempts },
        waits: None,
        kept: None,
    };
    let known = known.entry(id).or_insert_with(fresh);
    known.delivery.state = state;
    known.delivery.changed = changed;
    known.delivery.attempts.extend(entry.attempts);
    known.kept = entry.kept;
}
