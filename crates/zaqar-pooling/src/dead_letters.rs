//! Dead letters whose queue is in another pool: a store moves messages within itself only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, DeadLetters, Error, Guarded, ListQuery, Message, MessageStore,
    NewMessage,
};
use zaqar_core::{ClientId, Generation, QueueKey, Timestamp};

/// How often letters are moved and a claim is tried again, at most.
const ROUNDS: usize = 32;

/// Messages at the front that are looked at for letters, at least.
const FRONT: usize = 100;

/// One lock for each queue whose letters this process is moving: two claims at once would move a
/// letter twice where the store of the dead-letter queue does not recognise a repeated post.
#[derive(Debug, Default)]
pub(crate) struct Moving(Mutex<HashMap<QueueKey, Arc<AsyncMutex<()>>>>);

impl Moving {
    fn map(&self) -> MutexGuard<'_, HashMap<QueueKey, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a queue.
    fn of(&self, key: &QueueKey) -> QueueLock<'_> {
        let lock = Arc::clone(self.map().entry(key.clone()).or_default());
        QueueLock { moving: self, key: key.clone(), lock }
    }
}

/// A queue's lock; it is forgotten when the last of these is dropped.
struct QueueLock<'a> {
    moving: &'a Moving,
    key: QueueKey,
    lock: Arc<AsyncMutex<()>>,
}

impl Drop for QueueLock<'_> {
    fn drop(&mut self) {
        let mut map = self.moving.map();
        // The map's and this one.
        if Arc::strong_count(&self.lock) == 2 {
            map.remove(&self.key);
        }
    }
}

/// A claim of a queue in one store, with dead letters to a queue in another.
pub(crate) struct Crossing<'a> {
    pub(crate) source: Arc<dyn MessageStore>,
    /// The store of the dead-letter queue; `None` for a queue that has no place.
    pub(crate) target: Option<Arc<dyn MessageStore>>,
    pub(crate) key: &'a QueueKey,
    pub(crate) rule: &'a DeadLetters,
    pub(crate) now: Timestamp,
    pub(crate) moving: &'a Moving,
}

/// The first free messages of a queue.
struct Front {
    /// The letters that a claim would meet before it has all that it may take.
    letters: Vec<Message>,
    /// Whether there are letters only, and perhaps more behind them.
    is_all_letters: bool,
}

impl Crossing<'_> {
    /// Claims, after what was claimed too often already has moved. Letters move to the target
    /// first: after a crash in between a message is in both queues.
    pub(crate) async fn claim(
        &self,
        assumed: Generation,
        request: &ClaimRequest,
    ) -> Result<Guarded<Claimed>, Error> {
        let request = ClaimRequest { dead_letters: None, ..request.clone() };
        for _ in 0..ROUNDS {
            let front = self.front(request.limit).await?;
            if !front.letters.is_empty() && !self.move_free(request.limit).await? {
                return Ok(Guarded::Done(Claimed::TargetChanged));
            }
            if front.is_all_letters {
                continue;
            }
            let claimed = self.source.claim(self.key, assumed, &request, self.now).await?;
            let Guarded::Done(Claimed::Messages(messages)) = claimed else { return Ok(claimed) };
            let had_none = messages.is_empty();
            let Some(alive) = self.move_claimed(messages, &request).await? else {
                return Ok(Guarded::Done(Claimed::TargetChanged));
            };
            if had_none || !alive.is_empty() {
                return Ok(Guarded::Done(Claimed::Messages(alive)));
            }
            self.source.claim_release(self.key, request.id, self.now).await?;
        }
        Ok(Guarded::Done(Claimed::Messages(Vec::new())))
    }

    /// Moves the letters at the front that nobody holds; `false` where the dead-letter queue is not
    /// as assumed.
    async fn move_free(&self, limit: usize) -> Result<bool, Error> {
        let queue = self.moving.of(self.key);
        let _alone = queue.lock.lock().await;
        if !self.is_target_as_assumed().await? {
            return Ok(false);
        }
        // Another claim may have moved those that were seen before.
        for letter in self.front(limit).await?.letters {
            if !self.post(&letter).await? {
                return Ok(false);
            }
            self.source.delete(self.key, letter.id, None, self.now).await?;
        }
        Ok(true)
    }

    /// Moves the letters among claimed messages, which were held when the front was looked at, and
    /// answers the others; `None` where the dead-letter queue is not as assumed, and nothing is
    /// claimed then.
    async fn move_claimed(
        &self,
        messages: Vec<Message>,
        claim: &ClaimRequest,
    ) -> Result<Option<Vec<Message>>, Error> {
        // The claim has counted itself.
        let is_dead = |message: &Message| message.claim_count > self.rule.max_claim_count;
        let (dead, alive): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_dead);
        for message in &dead {
            if !self.post(message).await? {
                self.source.claim_release(self.key, claim.id, self.now).await?;
                return Ok(None);
            }
            self.source.delete(self.key, message.id, Some(claim.id), self.now).await?;
        }
        Ok(Some(alive))
    }

    async fn front(&self, limit: usize) -> Result<Front, Error> {
        let looked_at = limit.max(FRONT);
        let query = ListQuery {
            after: None,
            limit: looked_at,
            hide: None,
            include_claimed: false,
            include_delayed: false,
        };
        let messages = self.source.list(self.key, &query, self.now).await?.messages;
        let is_full = messages.len() >= looked_at;
        let (mut letters, mut others) = (Vec::new(), 0);
        for message in messages {
            if message.claim_count >= self.rule.max_claim_count {
                letters.push(message);
            } else {
                others += 1;
                if others == limit {
                    break;
                }
            }
        }
        Ok(Front { letters, is_all_letters: is_full && others == 0 })
    }

    async fn is_target_as_assumed(&self) -> Result<bool, Error> {
        let Some(store) = &self.target else { return Ok(false) };
        Ok(store.generation(&self.rule.target).await? == Some(self.rule.generation))
    }

    /// Stores a message in the dead-letter queue; `false` where that is not as assumed.
    async fn post(&self, message: &Message) -> Result<bool, Error> {
        let Some(store) = &self.target else { return Ok(false) };
        let left = message.ttl.saturating_sub(self.now.secs_since(message.created)).max(1);
        let batch = Batch {
            request: request_of(self.key, message),
            // Who posted it is known to its store only.
            client: ClientId::new(""),
            messages: vec![NewMessage {
                payload: message.payload.clone(),
                ttl: self.rule.ttl.unwrap_or(left),
                delay: 0,
            }],
            notify: false,
        };
        match store.post(&self.rule.target, self.rule.generation, batch, self.now).await? {
            Guarded::Done(_) => Ok(true),
            Guarded::Absent | Guarded::Stale(_) => Ok(false),
        }
    }
}

/// The same for every attempt to move a message.
fn request_of(key: &QueueKey, message: &Message) -> u128 {
    let text = format!("{key}\n{}", message.id);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}
