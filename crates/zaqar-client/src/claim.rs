//! Claims that are renewed while they are held.

use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Error;
use crate::client::{Call, Client};
use crate::messages::{IDS, joined};
use crate::query::{Query, encoded};
use crate::resource::Queue;
use crate::types::{ClaimId, ClaimInfo, ClaimTimes, Message, MessageId, MessageList};

/// The shortest time between two renewals.
const RENEW_AT_LEAST: Duration = Duration::from_millis(100);
/// Ten years: a longer time counts as this.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a claim is made and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimOptions {
    /// Messages, at most; servers allow 1 to 20 unless configured otherwise.
    pub limit: u32,
    /// Seconds that the claim lives after it was made or renewed: how long its messages wait when
    /// the worker dies. Servers take 60 to 43 200.
    pub ttl: u64,
    /// Seconds that its messages outlive it, at least.
    pub grace: u64,
    /// How often it is renewed; a third of `ttl`, where it is `None`. At least 100 ms.
    pub renew_every: Option<Duration>,
    /// How long it is renewed, at most; ten years if it is longer. After that it expires though it
    /// is held.
    pub hold_at_most: Duration,
}

impl Default for ClaimOptions {
    /// Ten messages, 60 s, renewed for up to twelve hours.
    fn default() -> Self {
        Self {
            limit: 10,
            ttl: 60,
            grace: 60,
            renew_every: None,
            hold_at_most: Duration::from_secs(12 * 3600),
        }
    }
}

/// Messages that nobody else gets while this is held.
///
/// A task renews the claim. Dropping it releases what was not deleted, in the background; if the
/// program ends first, the messages are free again when the claim's `ttl` has passed.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
/// # use support::*;
/// # block_on(async |client: zaqar_client::Client| {
/// use zaqar_client::{ClaimOptions, NewMessage};
///
/// let queue = client.queue("jobs")?;
/// queue.post([NewMessage::new("work").unwrap()]).await?;
/// while let Some(claim) = queue.claim(&ClaimOptions::default()).await? {
///     for message in claim.messages() {
///         // work …
///         claim.delete(&message.id).await?;
///     }
/// }
/// assert_eq!(queue.stats().await?.total, 0);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Claim {
    queue: Queue,
    id: ClaimId,
    messages: Vec<Message>,
    /// Ids of messages that were not deleted through this.
    held: Mutex<Vec<MessageId>>,
    lost: watch::Receiver<bool>,
    /// Ends the keeper; dropped, it releases the claim.
    end: Option<oneshot::Sender<End>>,
    keeper: Option<JoinHandle<Result<(), Error>>>,
}

/// How the keeper ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// There is nothing to release.
    Done,
    /// The claim is released.
    Release,
}

impl Queue {
    /// Claims the first free messages, or `None` where there are none. It is sent again only if
    /// the server cannot have done it.
    ///
    /// # Errors
    /// 400 past a limit. An error for which [`Error::may_be_done`] is true may leave messages
    /// claimed until `ttl` has passed.
    pub async fn claim(&self, options: &ClaimOptions) -> Result<Option<Claim>, Error> {
        let limit = options.limit.to_string();
        let path = Query::new(self.path("/claims")).with("limit", limit).end();
        let times = ClaimTimes { ttl: options.ttl, grace: options.grace };
        let call = Call::new(Method::POST, path).body(&times)?;
        // The claim lives from when the server made it: not before it was asked.
        let asked = Instant::now();
        let answer = self.client.call(call).await?;
        if answer.body.is_empty() {
            return Ok(None);
        }
        let id = answer.located().map(ClaimId::new);
        let list = answer.json::<MessageList>()?.messages.into_iter();
        let messages: Vec<_> = list.map(Message::completed).collect();
        let Some(id) = id.or_else(|| messages.first()?.claim_id.clone()) else {
            return Err(answer.malformed("a claim without a Location"));
        };
        Ok(Some(Claim::hold(self.clone(), id, messages, options, asked)))
    }
}

/// A claim that somebody else made, or an earlier run: it is not renewed by itself.
#[derive(Debug, Clone)]
pub struct ClaimHandle {
    client: Client,
    path: String,
}

impl Queue {
    /// A claim by its id, which need not be there.
    pub fn claim_by_id(&self, id: &ClaimId) -> ClaimHandle {
        let path = self.path(&format!("/claims/{}", encoded(id.as_str())));
        ClaimHandle { client: self.client.clone(), path }
    }

    /// Deletes a message that this claim holds.
    ///
    /// # Errors
    /// 400 where the claim has ended, or does not hold it.
    pub async fn delete_claimed(&self, id: &MessageId, claim: &ClaimId) -> Result<(), Error> {
        let below = format!("/messages/{}", encoded(id.as_str()));
        let path = Query::new(self.path(&below)).with("claim_id", claim.as_str()).end();
        self.client.call(Call::new(Method::DELETE, path)).await.map(drop)
    }
}

impl ClaimHandle {
    /// Reads it.
    ///
    /// # Errors
    /// 404 where it has ended, or all its messages are gone.
    pub async fn get(&self) -> Result<ClaimInfo, Error> {
        let mut claim: ClaimInfo = self.client.call(Call::get(&self.path)).await?.json()?;
        claim.messages = claim.messages.into_iter().map(Message::completed).collect();
        Ok(claim)
    }

    /// Gives it a new life from now.
    ///
    /// # Errors
    /// 404 where it has ended.
    pub async fn renew(&self, ttl: u64, grace: u64) -> Result<(), Error> {
        let call = Call::new(Method::PATCH, &self.path).body(&ClaimTimes { ttl, grace })?;
        self.client.call(call).await.map(drop)
    }

    /// Gives its messages back. One that is not there is no error.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn release(&self) -> Result<(), Error> {
        self.client.call(Call::new(Method::DELETE, &self.path)).await.map(drop)
    }
}

impl Claim {
    fn hold(
        queue: Queue,
        id: ClaimId,
        messages: Vec<Message>,
        options: &ClaimOptions,
        asked: Instant,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let (lose, lost) = watch::channel(false);
        let keeper = Keeper {
            client: queue.client.clone(),
            path: queue.path(&format!("/claims/{}", encoded(id.as_str()))),
            times: ClaimTimes { ttl: options.ttl, grace: options.grace },
            every: options
                .renew_every
                .unwrap_or(Duration::from_secs(options.ttl) / 3)
                .clamp(RENEW_AT_LEAST, LONGEST),
            asked,
            until: asked + options.hold_at_most.min(LONGEST),
            lose,
        };
        let held = Mutex::new(messages.iter().map(|message| message.id.clone()).collect());
        let keeper = tokio::spawn(keeper.run(ended));
        Self { queue, id, messages, held, lost, end: Some(end), keeper: Some(keeper) }
    }

    /// Its id.
    pub const fn id(&self) -> &ClaimId {
        &self.id
    }

    /// What it held when it was made.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Deletes a message, as its work is done.
    ///
    /// # Errors
    /// 400 where the claim has ended: somebody else may have the message.
    pub async fn delete(&self, id: &MessageId) -> Result<(), Error> {
        self.queue.delete_claimed(id, &self.id).await?;
        self.held().retain(|held| held != id);
        Ok(())
    }

    /// Deletes all messages that it still holds, in requests of 20.
    ///
    /// `Ok` proves that they are deleted. That nobody else had got them before it proves only on
    /// servers with `message_delete_with_claim_id`: others delete them also where the claim has
    /// just ended.
    ///
    /// # Errors
    /// [`Error::ClaimLost`] if the claim is known to have ended; those of any request. Earlier
    /// requests have been done.
    pub async fn delete_all(&self) -> Result<(), Error> {
        let held = self.held().clone();
        self.check_is_held()?;
        for ids in held.chunks(IDS) {
            self.check_is_held()?;
            let path = Query::new(self.queue.path("/messages"))
                .with("ids", joined(ids))
                .with("claim_ids", self.id.as_str())
                .end();
            self.queue.client.call(Call::new(Method::DELETE, path)).await?;
            self.held().retain(|held| !ids.contains(held));
        }
        Ok(())
    }

    fn check_is_held(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::ClaimLost { id: self.id.clone() }) } else { Ok(()) }
    }

    /// Whether the claim has ended although it is held: somebody else may have its messages.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the claim is lost, to stop work that somebody else may do.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that the keeper has ended, which it does with the claim alone.
        if lost.wait_for(|&lost| lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives back what was not deleted, and waits for it. Without this, dropping does the same in
    /// the background.
    ///
    /// # Errors
    /// Those of any request: the messages are then free when `ttl` has passed.
    pub async fn release(mut self) -> Result<(), Error> {
        self.end();
        match self.keeper.take() {
            Some(keeper) => keeper.await.map_err(|error| Error::Closed {
                reason: format!("the task of the claim ended: {error}"),
            })?,
            None => Ok(()),
        }
    }

    /// Leaves the claim to somebody else, who knows its id: it is neither renewed nor released.
    pub fn leave(mut self) -> (ClaimId, Vec<Message>) {
        if let Some(sender) = self.end.take() {
            // A keeper that has ended has lost the claim.
            let _ = sender.send(End::Done);
        }
        (self.id.clone(), std::mem::take(&mut self.messages))
    }

    fn end(&mut self) {
        let end = if self.held().is_empty() { End::Done } else { End::Release };
        if let Some(sender) = self.end.take() {
            // A keeper that has ended has lost the claim.
            let _ = sender.send(end);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<MessageId>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end();
    }
}

/// Renews a claim, and releases it in the end.
struct Keeper {
    client: Client,
    path: String,
    times: ClaimTimes,
    every: Duration,
    /// When the claim was asked for.
    asked: Instant,
    until: Instant,
    lose: watch::Sender<bool>,
}

impl Keeper {
    async fn run(self, mut ended: oneshot::Receiver<End>) -> Result<(), Error> {
        let ttl = Duration::from_secs(self.times.ttl).min(LONGEST);
        let mut expires = self.asked + ttl;
        let mut renewal = self.asked + self.every;
        let end = loop {
            tokio::select! {
                end = &mut ended => break end.unwrap_or(End::Release),
                () = tokio::time::sleep_until(renewal.min(expires)) => {}
            }
            let now = Instant::now();
            if now >= expires {
                self.lose.send_replace(true);
                return Ok(());
            }
            if now >= self.until {
                renewal = expires;
                continue;
            }
            tokio::select! {
                end = &mut ended => break end.unwrap_or(End::Release),
                // No answer is waited for longer than the claim lives.
                renewed = tokio::time::timeout_at(expires, self.renew()) => match renewed {
                    // It lives from when the server read the request: not before it was sent.
                    Ok(Ok(())) => expires = now + ttl,
                    Ok(Err(error)) if error.is_not_found() => {
                        self.lose.send_replace(true);
                        return Ok(());
                    }
                    // The next one may work, until it has expired.
                    Ok(Err(_)) | Err(_) => {}
                },
            }
            renewal = now + self.every;
        };
        match end {
            End::Done => Ok(()),
            End::Release => self.client.call(Call::new(Method::DELETE, self.path)).await.map(drop),
        }
    }

    async fn renew(&self) -> Result<(), Error> {
        let call = Call::new(Method::PATCH, self.path.clone()).body(&self.times)?;
        self.client.call(call).await.map(drop)
    }
}
