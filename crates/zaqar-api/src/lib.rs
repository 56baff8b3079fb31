#![doc = include_str!("../README.md")]

mod claims;
mod directory;
mod error;
mod filter;
mod health;
mod home;
pub mod json;
mod messages;
mod operation;
mod pushes;
mod queues;
mod seal;
mod share;
mod subscriptions;
mod sweeper;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use zaqar_core::limits::DEFAULT_PAGE;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Clock, Limits, QueueKey, Secret, SystemClock};

use directory::Directory;
use pushes::Audience;

pub use error::{Error, Part};
pub use filter::MAX_ROWS_FILTERED;
pub use health::{Health, Probe};
pub use home::home_document;
pub use operation::{
    Answer, Caller, Change, ChangeSubscription, ConfirmSubscription, CreateClaim, CreateQueue,
    CreateSubscription, DeleteMessage, DeleteMessages, ListMessages, ListQueues, ListSubscriptions,
    ListedQueue, Operation, PatchQueue, PopMessages, PostMessages, PostedMessage, Purge, QueueList,
    QueueRef, ReadClaim, ReadMessages, RenewClaim, Request, Share, Shared, Subscriber,
    SubscriptionRef,
};
pub use pushes::{Listener, Push, Pushed, Pushes, PushesEnded};
pub use seal::{Keyring, KeyringError, MIN_SECRET_CHARS};
pub use share::SignedHeaders;
pub use sweeper::Sweeper;

/// How the operations behave.
#[derive(Clone)]
pub struct Options {
    /// What a request may ask for.
    pub limits: Limits,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Messages carry the checksum of their body (`enable_checksum`).
    pub checksums: bool,
    /// Signs URLs (`[signed_url] secret_key`); without it none can be made and none opens anything.
    pub signing_key: Option<Secret<String>>,
    /// Seals the bodies of queues that ask for it; without it no queue may ask.
    pub keyring: Option<Arc<Keyring>>,
    /// Queues whose generation is remembered, at most.
    pub cached_queues: u64,
    /// How long a generation is remembered. A stale one costs a round trip, never a wrong answer.
    pub cached_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            clock: Arc::new(SystemClock::default()),
            checksums: false,
            signing_key: None,
            keyring: None,
            cached_queues: 10_000,
            cached_for: Duration::from_secs(5),
        }
    }
}

/// The operations on one pair of stores. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    audience: Arc<Audience>,
    management: Arc<dyn ManagementStore>,
    messages: Arc<dyn MessageStore>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    checksums: bool,
    signing_key: Option<Secret<String>>,
    keyring: Option<Arc<Keyring>>,
}

impl Api {
    /// Puts the operations in front of two stores, which may be one and the same.
    pub fn new(
        management: Arc<dyn ManagementStore>,
        messages: Arc<dyn MessageStore>,
        options: Options,
    ) -> Self {
        let directory = Directory::new(
            Arc::clone(&management),
            Arc::clone(&messages),
            options.cached_queues,
            options.cached_for,
        );
        let Options { limits, clock, checksums, signing_key, keyring, .. } = options;
        let audience = Audience::new(Arc::clone(&messages), Arc::clone(&clock), keyring.clone());
        let inner = Inner {
            directory,
            audience: Arc::new(audience),
            management,
            messages,
            limits,
            clock,
            checksums,
            signing_key,
            keyring,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The limits that requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Where this service takes its time from: what shows ages must ask the same clock.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    /// Opens a connection that messages can be pushed to; at most `capacity` pushes wait in it. Cheap: nothing runs before the first
    /// subscription. Subscribe on a tokio runtime: from then on tasks of its own hear the store's news and keep a lease, as long as
    /// anybody listens.
    pub fn listen(&self, capacity: usize) -> (Listener, Pushes) {
        pushes::listen(&self.inner.audience, capacity)
    }

    /// Ends the subscriptions of all connections of this server; each [`Pushes`] ends.
    pub async fn stop_pushes(&self) {
        self.inner.audience.shut_down().await;
    }

    /// Asks both stores whether they can serve.
    ///
    /// # Errors
    /// What the first store that cannot serve says.
    pub async fn ping(&self) -> Result<(), Error> {
        self.inner.management.ping().await?;
        self.inner.messages.ping().await?;
        Ok(())
    }

    /// Runs any operation.
    ///
    /// # Errors
    /// As the operation.
    pub async fn run(&self, request: Request) -> Result<Answer, Error> {
        let Request { caller, operation } = request;
        let caller = &caller;
        Ok(match operation {
            Operation::Ping => self.ping().await.map(|()| Answer::Done)?,
            Operation::ListQueues(op) => Answer::Queues(self.list_queues(caller, op).await?),
            Operation::CreateQueue(op) => Answer::Created(self.create_queue(caller, op).await?),
            Operation::GetQueue(queue) => Answer::Metadata(self.get_queue(caller, queue).await?),
            Operation::PatchQueue(op) => {
                Answer::Metadata(Some(self.patch_queue(caller, op).await?))
            }
            Operation::DeleteQueue(queue) => {
                self.delete_queue(caller, queue).await.map(|()| Answer::Done)?
            }
            Operation::QueueStats(queue) => Answer::Stats(self.stats(caller, queue).await?),
            Operation::Purge(op) => self.purge(caller, op).await.map(|()| Answer::Done)?,
            Operation::PostMessages(op) => Answer::Posted(self.post_messages(caller, op).await?),
            Operation::ListMessages(op) => Answer::Page(self.list_messages(caller, op).await?),
            Operation::ReadMessages(op) => Answer::Messages(self.read_messages(caller, op).await?),
            Operation::DeleteMessage(op) => {
                self.delete_message(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::DeleteMessages(op) => {
                self.delete_messages(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::PopMessages(op) => Answer::Messages(self.pop_messages(caller, op).await?),
            Operation::CreateClaim(op) => Answer::Claimed(self.create_claim(caller, op).await?),
            Operation::ReadClaim(op) => Answer::Claim(self.read_claim(caller, op).await?),
            Operation::RenewClaim(op) => {
                self.renew_claim(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::ReleaseClaim(op) => {
                self.release_claim(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::CreateSubscription(op) => {
                Answer::Subscribed(self.create_subscription(caller, op).await?)
            }
            Operation::ListSubscriptions(op) => {
                Answer::Subscriptions(self.list_subscriptions(caller, op).await?)
            }
            Operation::ReadSubscription(op) => {
                Answer::Subscription(self.read_subscription(caller, op).await?)
            }
            Operation::ChangeSubscription(op) => {
                self.change_subscription(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::ConfirmSubscription(op) => {
                self.confirm_subscription(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::DeleteSubscription(op) => {
                self.delete_subscription(caller, op).await.map(|()| Answer::Done)?
            }
            Operation::Share(op) => Answer::Shared(self.share(caller, op)?),
            Operation::Health => Answer::Health(self.health(caller).await?),
        })
    }
}

impl tower::Service<Request> for Api {
    type Response = Answer;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { api.run(request).await })
    }
}

impl Caller {
    fn key(&self, queue: QueueRef) -> QueueKey {
        QueueKey { project: self.project.clone(), kind: queue.kind, name: queue.name }
    }
}

/// Checks how many messages or subscriptions a request wants.
fn page_limit(limit: Option<i64>, max: u64) -> Result<usize, Error> {
    checked_limit(limit, DEFAULT_PAGE, max, |max| {
        Error::request(format!("Limit must be at least 1 and may not be greater than {max}."))
    })
}

/// Checks how many of something a request wants.
fn checked_limit(
    limit: Option<i64>,
    default: u64,
    max: u64,
    error: impl FnOnce(u64) -> Error,
) -> Result<usize, Error> {
    let wanted = match limit {
        None => default.min(max),
        Some(limit) => match u64::try_from(limit) {
            Ok(limit) if (1..=max).contains(&limit) => limit,
            _ => return Err(error(max)),
        },
    };
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX))
}

/// Checks a number of seconds.
fn checked_seconds(
    seconds: i64,
    min: u64,
    max: u64,
    error: impl FnOnce(u64, u64) -> Error,
) -> Result<u64, Error> {
    match u64::try_from(seconds) {
        Ok(seconds) if (min..=max).contains(&seconds) => Ok(seconds),
        _ => Err(error(max, min)),
    }
}

#[cfg(test)]
mod tests;
