//! Reads queues that connections of this server subscribe to, once for all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, error, warn};
use zaqar_core::storage::{Error as StorageError, OutboxEntry, OutboxMessage};
use zaqar_core::{ClientId, OverBudget, Permit, QueueKey, StateLog, SubscriptionId, Timestamp};

use super::pusher::{Pusher, Session};
use super::state::ReadMessage;
use super::{PUSH_BYTES, Push};
use crate::{Authentication, Context, Error, PushMessages, QueueRef};

/// Number of posts read at a time.
const PAGE: usize = 16;
/// Bytes that are reserved before a page of posts is read.
const RESERVED: usize = 512 * 1024;
/// Number of subscriptions read at a time.
const SUBSCRIPTIONS: usize = 1000;
/// The delay before a retry.
const RETRY_DELAY: Duration = Duration::from_secs(1);

static READING_LOG: StateLog = StateLog::new();
static UNREADABLE_LOG: StateLog = StateLog::new();

/// Why a page was not read.
enum Failure {
    /// A temporary failure, which is retried.
    Temporary(Error),
    /// Its messages exceed the memory budget.
    OverBudget(OverBudget),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Temporary(error.into())
    }
}

impl From<OverBudget> for Failure {
    fn from(over: OverBudget) -> Self {
        Self::OverBudget(over)
    }
}

impl Pusher {
    /// Reads a queue until there is no more news.
    pub(super) async fn read(self: Arc<Self>, session: Arc<Session>, key: QueueKey) {
        loop {
            let page = {
                let Ok(_permit) = self.readers.acquire().await else { return };
                self.read_page(&session, &key).await
            };
            match page {
                Ok(true) => {}
                Ok(false) if self.reads_again(&key) => {}
                Ok(false) => return,
                Err(Failure::OverBudget(over)) => return self.over_budget(&key, &over),
                Err(Failure::Temporary(error)) => {
                    if let Some(failures) = READING_LOG.failure() {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, failures, "cannot read messages to push");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_DELAY) => {}
                        () = session.ended.cancelled() => {}
                    }
                }
            }
            if session.ended.is_cancelled() {
                return;
            }
        }
    }

    /// Reads the next posts of a queue. Returns whether there may be more.
    async fn read_page(&self, session: &Session, key: &QueueKey) -> Result<bool, Failure> {
        let now = self.clock.now();
        self.check(session, key, now).await?;
        let Some((incarnation, cursor)) = self.cursor(key) else { return Ok(false) };
        let holder = self.memory.background().for_project(&key.project);
        let mut permit = holder.try_acquire(RESERVED)?;
        let entries = self.store.follow(key, incarnation, cursor, PAGE, now).await?;
        let Some(last) = entries.last().and_then(|entry| entry.messages.last()) else {
            return Ok(false);
        };
        let (last, is_full) = (last.id.position, entries.len() == PAGE);
        permit.resize(entries.iter().flat_map(|entry| &entry.messages).map(occupied).sum())?;
        let context = context(key);
        for entry in entries {
            let messages = self.pushes(key, entry, &mut permit);
            let queue = QueueRef { kind: key.kind, name: key.name.clone() };
            let pushed = self.stack.call(&context, PushMessages { queue, messages }, |operation| {
                for push in operation.messages {
                    let (id, due) = (push.id, push.due);
                    self.push(key, ReadMessage { id, due, push: Arc::new(push) }, now);
                }
                std::future::ready(Ok(()))
            });
            match pushed.await {
                Ok(()) => {}
                // The page is read again; no subscription gets a message twice.
                Err(error) if error.retry_after().is_some() => {
                    return Err(Failure::Temporary(error));
                }
                // A stage rejects it.
                Err(error) => debug!(%error, queue = %key.name, "messages are not pushed"),
            }
        }
        self.advance(key, cursor, last);
        Ok(is_full)
    }

    /// The messages of a post that can be decrypted, each with its part of the permit.
    fn pushes(&self, key: &QueueKey, entry: OutboxEntry, permit: &mut Permit) -> Vec<Push> {
        let created = entry.created;
        let push = |message: OutboxMessage| {
            // A message without delay is due whatever this server's clock shows: if it waited,
            // later posts would overtake it.
            let due = if message.due > created { message.due } else { Timestamp::from_millis(0) };
            let permit = permit.split(occupied(&message));
            let body = self.open(key, &message)?;
            let queue = QueueRef { kind: key.kind, name: key.name.clone() };
            Some(Push::new(queue, message.id, due, message.ttl, body, permit))
        };
        entry.messages.into_iter().filter_map(push).collect()
    }

    /// A message's body in its own buffer: a slice would keep the whole page in memory.
    fn open(&self, key: &QueueKey, message: &OutboxMessage) -> Option<Bytes> {
        let Some(id) = &message.payload.sealed_with else {
            return Some(Bytes::copy_from_slice(&message.payload.bytes));
        };
        let keyring = self.keyring.as_ref();
        let opened = keyring.and_then(|ring| ring.open(&key.project, id, &message.payload.bytes));
        if opened.is_none()
            && let Some(messages) = UNREADABLE_LOG.failure()
        {
            error!(key = id.0, messages, "cannot decrypt messages to push");
        }
        opened
    }

    /// Checks which subscriptions the store still has, unless that was done a moment ago: another
    /// server may have removed some.
    async fn check(
        &self,
        session: &Session,
        key: &QueueKey,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let Some(asked) = self.due_for_check(key, now) else { return Ok(()) };
        let mut found = HashMap::new();
        let mut after: Option<SubscriptionId> = None;
        loop {
            let leased =
                self.store.leased_subscriptions(key, session.lease, after, SUBSCRIPTIONS, now);
            let page = leased.await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let is_full = page.len() == SUBSCRIPTIONS;
            found.extend(page);
            if !is_full {
                break;
            }
        }
        if asked.iter().any(|id| !found.contains_key(id)) && self.is_deleted(key).await? {
            self.queue_deleted(key);
        } else {
            self.checked(key, &asked, &found);
        }
        Ok(())
    }

    /// Whether the incarnation of the queue that is being read was deleted.
    async fn is_deleted(&self, key: &QueueKey) -> Result<bool, StorageError> {
        let Some((incarnation, _)) = self.cursor(key) else { return Ok(false) };
        let head = self.store.generation(key).await?;
        Ok(head.is_none_or(|head| head.incarnation != incarnation))
    }
}

/// Bytes that a message occupies as a push.
fn occupied(message: &OutboxMessage) -> usize {
    message.payload.bytes.len() + PUSH_BYTES
}

/// The server itself, on behalf of the queue's project.
fn context(key: &QueueKey) -> Context {
    Context::new(key.project.clone(), ClientId::new("")).authenticated(Authentication::Server)
}
