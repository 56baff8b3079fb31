//! Reads queues that somebody here listens to, once for all who do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use zaqar_core::storage::{Error as StorageError, OutboxMessage};
use zaqar_core::{QueueKey, SubscriptionId, Timestamp};

use super::Push;
use super::audience::{Audience, Session};
use super::delayed::Coming;
use crate::QueueRef;

/// Posts that are read at a time.
const PAGE: usize = 16;
/// Subscriptions that are read at a time.
const SUBSCRIPTIONS: usize = 1000;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How late a delayed message may be pushed.
const TICK: Duration = Duration::from_millis(500);

/// Reads a queue until there is no more news of it.
pub(super) async fn read(audience: Arc<Audience>, session: Arc<Session>, key: QueueKey) {
    loop {
        let page = {
            let Ok(_permit) = audience.readers.acquire().await else { return };
            read_page(&audience, &key).await
        };
        match page {
            Ok(true) => {}
            Ok(false) if audience.goes_on(&key) => {}
            Ok(false) => return,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot read what to push");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = session.over.cancelled() => {}
                }
            }
        }
        if session.over.is_cancelled() {
            return;
        }
    }
}

/// Reads the next posts of a queue; whether there may be more.
async fn read_page(audience: &Audience, key: &QueueKey) -> Result<bool, StorageError> {
    let now = audience.clock.now();
    check(audience, key, now).await?;
    let Some((incarnation, cursor)) = audience.cursor(key) else { return Ok(false) };
    let entries = audience.store.follow(key, incarnation, cursor, PAGE, now).await?;
    let Some(last) = entries.last().and_then(|entry| entry.messages.last()) else {
        return Ok(false);
    };
    let (last, is_full) = (last.id.position, entries.len() == PAGE);
    for entry in entries {
        for message in entry.messages {
            // What has no delay is due whatever this server's clock says: held back, later posts would overtake it.
            let due =
                if message.due > entry.created { message.due } else { Timestamp::from_millis(0) };
            let id = message.id;
            if let Some(push) = open(audience, key, message) {
                audience.push(key, Coming { id, due, push: Arc::new(push) }, now);
            }
        }
    }
    audience.advance(key, cursor, last);
    Ok(is_full)
}

/// Asks the store who still listens, unless that was asked a moment ago: somebody may have unsubscribed on another server.
async fn check(audience: &Audience, key: &QueueKey, now: Timestamp) -> Result<(), StorageError> {
    let Some(asked) = audience.due_for_check(key, now) else { return Ok(()) };
    let mut found = HashMap::new();
    let mut after: Option<SubscriptionId> = None;
    loop {
        let page = audience.store.subscriptions(key, after, SUBSCRIPTIONS, now).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        let is_full = page.len() == SUBSCRIPTIONS;
        found.extend(page.into_iter().map(|one| (one.id, one)));
        if !is_full {
            break;
        }
    }
    audience.checked(key, &asked, &found);
    Ok(())
}

fn open(audience: &Audience, key: &QueueKey, message: OutboxMessage) -> Option<Push> {
    let queue = QueueRef { kind: key.kind, name: key.name.clone() };
    let body = match &message.payload.sealed_with {
        None => message.payload.bytes,
        Some(with) => {
            let keyring = audience.keyring.as_ref();
            let opened =
                keyring.and_then(|ring| ring.open(&key.project, with, &message.payload.bytes));
            if opened.is_none() {
                warn!(key = with.0, "a sealed message cannot be opened to be pushed");
            }
            opened?
        }
    };
    Some(Push::new(queue, message.ttl, body))
}

/// Pushes delayed messages when they are due.
pub(super) async fn push_delayed(audience: Arc<Audience>, session: Arc<Session>) {
    loop {
        let now = audience.clock.now();
        let next = audience.push_delayed(now).map_or(TICK, |due| {
            Duration::from_millis(due.as_millis().saturating_sub(now.as_millis()))
        });
        tokio::select! {
            () = tokio::time::sleep(next.min(TICK)) => {}
            () = session.over.cancelled() => return,
        }
    }
}
