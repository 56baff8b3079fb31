//! Expands entries of the outbox into rows: one for each message and subscription.
//!
//! Entries of one queue are expanded in groups: all that wait while a group is expanded are the
//! next one. A group costs one step to lease it, one for each subscription to add all its rows, one
//! for each shard of the schedule to post tickets, and one to settle it. The store leases no entry
//! while an older one of its queue is leased, so rows are added in the order of the posts, whatever
//! server dies.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::future::join;
use zaqar_core::storage::{Error, LeaseRequest, OutboxEntry, RecipientQuery};
use zaqar_core::{QueueKey, SubscriptionId, Timestamp};

use crate::context::Context;
use crate::deliveries::EncodedRow;
use crate::row::{Body, Content, Row, SubscriptionKey, Ticket};
use crate::unfinished::{Leased, Progress};

/// How long entries are leased for expansion, in seconds.
const LEASE: u64 = 60;
/// Subscriptions per page.
const PAGE: usize = 100;
/// Subscriptions whose rows are added concurrently.
const CONCURRENCY: usize = 16;
/// Bytes of a group's bodies, about; a larger entry is a group of its own.
const BYTES: usize = 64 * 1024;
/// Messages whose rows are added in one step, about: an entry of more has a step of its own.
const MESSAGES: usize = 1000;
/// Groups of one queue that are expanded before other queues have their turn.
const GROUPS: usize = 4;
/// A body larger than this is stored once for all subscriptions.
const SHARED_FROM: usize = 1024;

/// Expands due entries of a queue, at most [`GROUPS`] groups. Returns their number. Entries whose
/// expansion failed before are expanded first: while they are leased, no others are.
pub(crate) async fn expand_queue(context: &Context, key: &QueueKey) -> Result<usize, Error> {
    let mut done = 0;
    for _ in 0..GROUPS {
        let now = context.parts.clock.now();
        let limit = context.audiences.entries(key);
        let Leased { mut entries, mut until, mut progress } = context.unfinished.take(key, now);
        if entries.is_empty() {
            until = now.plus_secs(LEASE);
            let request = LeaseRequest { until, limit, bytes: BYTES };
            entries = match context.parts.messages.lease(key, &request, now).await {
                Ok(entries) => entries,
                Err(error) => {
                    context.unfinished.keep(key, Leased { entries, until: now, progress });
                    return Err(error);
                }
            };
        }
        // A group that is not full had all there was. News tells of what came since.
        let is_last = entries.len() < limit && bytes(&entries) < BYTES / 2;
        let mut left = entries.as_slice();
        while !left.is_empty() {
            let size = progress.entries(left).unwrap_or_else(|| {
                let size = part(left);
                progress = Progress::of(&left[..size]);
                size
            });
            let (part, rest) = left.split_at(size);
            if let Err(error) = finish(context, key, part, &mut progress).await {
                context.unfinished.keep(key, Leased { entries: left.to_vec(), until, progress });
                return Err(error);
            }
            left = rest;
        }
        done += entries.len();
        if is_last {
            break;
        }
    }
    Ok(done)
}

/// How many entries are expanded in one step, of at least one.
fn part(entries: &[OutboxEntry]) -> usize {
    let mut messages = 0;
    let fitting = entries.iter().take_while(|entry| {
        messages += entry.messages.len();
        messages <= MESSAGES
    });
    fitting.count().max(1)
}

fn bytes(entries: &[OutboxEntry]) -> usize {
    let messages = entries.iter().flat_map(|entry| &entry.messages);
    messages.map(|message| message.payload.bytes.len()).sum()
}

/// Expands entries, and settles them.
async fn finish(
    context: &Context,
    key: &QueueKey,
    entries: &[OutboxEntry],
    progress: &mut Progress,
) -> Result<(), Error> {
    let Some(first) = entries.first() else { return Ok(()) };
    expand(context, key, entries, progress).await?;
    let firsts: Vec<_> = entries.iter().map(|entry| entry.first).collect();
    context.parts.messages.settle(key, first.incarnation, &firsts).await
}

/// Adds the rows of entries page by page, and each page's tickets after its rows, while the next
/// page is read and its rows are added. After a failure it goes on where `progress` says; what is
/// repeated after a crash is delivered twice.
async fn expand(
    context: &Context,
    key: &QueueKey,
    entries: &[OutboxEntry],
    progress: &mut Progress,
) -> Result<(), Error> {
    let Some(newest) = entries.iter().map(|entry| entry.created).max() else { return Ok(()) };
    let (mut after, mut told, mut is_last) = (progress.after, Vec::new(), false);
    let mut group = None;
    loop {
        let now = context.parts.clock.now();
        let tickets = group.as_ref().map(|group: &Group| group.tickets(context, key, &told, now));
        let posted =
            async { context.deliveries.schedule_all(&tickets.unwrap_or_default(), now).await };
        let added = &mut progress.added;
        let page = async {
            if is_last {
                return Ok(None);
            }
            let confirmed_only = context.options.require_confirmation;
            let query = RecipientQuery { after, limit: PAGE, confirmed_only };
            let page = context.parts.messages.recipients(key, &query, now).await?;
            // Ids are in the order of their times: those behind a younger one are younger too.
            let told: Vec<_> =
                page.iter().copied().take_while(|id| is_older(*id, newest)).collect();
            let is_last = page.len() < PAGE || told.len() < page.len();
            if !told.is_empty() {
                let is_shared = told.len() > 1 || !is_last || after.is_some();
                if group.is_none() {
                    group = Some(Group::new(context, key, entries, is_shared, now).await?);
                }
                if let Some(group) = &group {
                    group.add(context, key, &told, added, now).await?;
                }
            }
            Ok(Some((told, page.last().copied().or(after), is_last)))
        };
        // Neither is dropped half done because the other fails.
        let (posted, page) = join(posted, page).await;
        posted?;
        (progress.after, progress.size) = (after, progress.size + told.len());
        progress.added.retain(|id| Some(*id) > after);
        match page {
            Ok(Some(next)) => (told, after, is_last) = next,
            Ok(None) => {
                context.audiences.note(key, progress.size);
                return Ok(());
            }
            Err(error) => {
                // Those that have their rows need not wait for the others.
                let added: Vec<_> = progress.added.iter().copied().collect();
                if let Some(group) = group.filter(|_| !added.is_empty()) {
                    let tickets = group.tickets(context, key, &added, now);
                    let _ = context.deliveries.schedule_all(&tickets, now).await;
                }
                return Err(error);
            }
        }
    }
}

/// When a subscription was made.
fn made(id: SubscriptionId) -> u64 {
    u64::try_from(id.get() >> 80).unwrap_or(u64::MAX)
}

/// Whether a subscription gets what was posted at `posted`.
fn is_older(id: SubscriptionId, posted: Timestamp) -> bool {
    made(id) <= posted.as_millis()
}

/// The rows of entries as messages, which are the same for all subscriptions.
struct Group {
    rows: Vec<GroupRow>,
}

struct GroupRow {
    row: EncodedRow,
    /// When its message was posted.
    created: Timestamp,
}

impl Group {
    /// Makes the rows. Stores large bodies that several subscriptions share.
    async fn new(
        context: &Context,
        key: &QueueKey,
        entries: &[OutboxEntry],
        is_shared: bool,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let messages = entries
            .iter()
            .flat_map(|entry| entry.messages.iter().map(move |message| (entry.created, message)));
        let live: Vec<_> =
            messages.filter(|(created, message)| created.plus_secs(message.ttl) > now).collect();
        let is_large = |bytes: usize| is_shared && bytes > SHARED_FROM;
        let large = live.iter().filter(|(_, one)| is_large(one.payload.bytes.len()));
        let large: Vec<_> =
            large.map(|(created, one)| (one.payload.clone(), created.plus_secs(one.ttl))).collect();
        let stored = match large.is_empty() {
            true => Vec::new(),
            false => context.deliveries.add_bodies(&key.project, large, now).await?,
        };
        let mut stored = stored.into_iter();
        let rows = live.into_iter().map(|(created, message)| {
            let size = message.payload.bytes.len();
            let shared = if is_large(size) { stored.next() } else { None };
            let body = match shared {
                Some(id) => Body::Shared(id, Some(size)),
                None => Body::Here(message.payload.clone()),
            };
            let (content, ttl) = (Content::Message, message.ttl);
            let row = Row { message: message.id, ttl, created, content, body };
            GroupRow { row: EncodedRow::new(&row, message.due), created }
        });
        Ok(Self { rows: rows.collect() })
    }

    /// The rows of a subscription: those of entries that are not older than it.
    fn of(&self, id: SubscriptionId) -> impl Iterator<Item = &EncodedRow> {
        let rows = self.rows.iter().filter(move |row| is_older(id, row.created));
        rows.map(|row| &row.row)
    }

    /// Adds the rows of those subscriptions that are not in `added`, in one step for each, and
    /// notes it there. One that fails keeps no other from its rows.
    async fn add(
        &self,
        context: &Context,
        key: &QueueKey,
        subscriptions: &[SubscriptionId],
        added: &mut BTreeSet<SubscriptionId>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let missing: Vec<_> =
            subscriptions.iter().copied().filter(|id| !added.contains(id)).collect();
        let mut adding = futures_util::stream::iter(missing)
            .map(|id| async move {
                let messages = self.of(id).map(|row| row.message(now)).collect();
                let key = SubscriptionKey { queue: key.clone(), id };
                context.deliveries.add_messages(&key, messages, now).await.map(|()| id)
            })
            .buffer_unordered(CONCURRENCY);
        let mut failed = Ok(());
        while let Some(done) = adding.next().await {
            match done {
                Ok(id) => drop(added.insert(id)),
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// The tickets of subscriptions whose rows were added: one for each time at which some become
    /// due, so that a delayed row is not late. A service of this server that looks for rows once
    /// more needs none for those that are due.
    fn tickets(
        &self,
        context: &Context,
        key: &QueueKey,
        subscriptions: &[SubscriptionId],
        now: Timestamp,
    ) -> Vec<(Ticket, Timestamp)> {
        let mut tickets = Vec::new();
        for id in subscriptions {
            let subscription = SubscriptionKey { queue: key.clone(), id: *id };
            let delays: BTreeSet<_> = self.of(*id).map(|row| row.delay(now)).collect();
            for delay in delays {
                if delay > 0 || !context.in_service.notify(&subscription, now) {
                    let ticket = Ticket { subscription: subscription.clone(), keeps: false };
                    tickets.push((ticket, now.plus_secs(delay)));
                }
            }
        }
        tickets
    }
}
