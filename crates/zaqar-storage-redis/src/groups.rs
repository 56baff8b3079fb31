//! Grouping of posts, claims and deletions of single messages. Requests that arrive while one for
//! the same queue is in flight wait and are then sent in one call of a script, which executes the
//! group atomically. Each request gets its own answer. A group is repeated as it was sent, so that
//! it is recognised as a whole.

use zaqar_core::storage::{Batch, ClaimRequest, Claimed, Deleted, Error, Guarded};
use zaqar_core::{ClaimId, Generation, MessageId, Position, QueueKey, Timestamp};
use zaqar_storage_batch::{Batcher, Limits};

use crate::error::RETRY_AFTER;

/// Requests in one group, at most.
const MAX_ITEMS: usize = 64;
/// Bytes in one group, at most, where each message counts [`MESSAGE_OVERHEAD`] bytes more than its
/// size.
const MAX_BYTES: usize = 128 << 10;
pub(crate) const MESSAGE_OVERHEAD: usize = 1 << 10;
/// Messages that the claims of one group may get, at most.
const MAX_CLAIMED: usize = 50;

/// The requests that wait, by queue.
pub(crate) struct Groups {
    pub(crate) posts: Batcher<PostKey, Post, PostResult>,
    pub(crate) deletions: Batcher<DeletionKey, Deletion, Result<Deleted, Error>>,
    pub(crate) claims: Batcher<ClaimKey, Claim, ClaimResult>,
}

/// The key by which posts are grouped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PostKey {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
    pub(crate) notify: bool,
}

pub(crate) struct Post {
    pub(crate) batch: Batch,
    pub(crate) now: Timestamp,
}

pub(crate) type PostResult = Result<Guarded<Vec<MessageId>>, Error>;

/// The key by which deletions are grouped: one queue in one incarnation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct DeletionKey {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
}

pub(crate) struct Deletion {
    pub(crate) position: Position,
    pub(crate) claim: Option<ClaimId>,
    pub(crate) now: Timestamp,
}

/// The key by which claims are grouped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClaimKey {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
    pub(crate) max_claim_count: Option<u32>,
    /// The keys of the caller: see [`crate::record::keys`].
    pub(crate) keys: Vec<u8>,
}

pub(crate) struct Claim {
    pub(crate) request: ClaimRequest,
    pub(crate) now: Timestamp,
}

pub(crate) type ClaimResult = Result<Guarded<Claimed>, Error>;

impl Groups {
    /// Creates groups with at most `waiting` waiting requests per queue.
    pub(crate) fn new(waiting: usize) -> Self {
        let limits = Limits { items: MAX_ITEMS, bytes: MAX_BYTES, waiting: waiting.max(1) };
        Self {
            posts: Batcher::new(limits),
            deletions: Batcher::new(limits),
            claims: Batcher::new(Limits { bytes: MAX_CLAIMED * MESSAGE_OVERHEAD, ..limits }),
        }
    }
}

impl Post {
    pub(crate) fn bytes(&self) -> usize {
        self.batch.messages.iter().map(|message| message.payload.bytes.len()).sum()
    }
}

/// The answer of a request that was rejected, or whose group was lost.
pub(crate) fn flatten<T>(error: zaqar_storage_batch::Error) -> Result<T, Error> {
    match error {
        zaqar_storage_batch::Error::Full => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        zaqar_storage_batch::Error::Lost => {
            Err(Error::unavailable("the task that sent the request ended"))
        }
    }
}

/// Returns the same error for each request of a group.
pub(crate) fn same_error<T>(error: Error, count: usize) -> Vec<Result<T, Error>> {
    let mut answers: Vec<_> = (1..count).map(|_| Err(error.duplicate())).collect();
    answers.push(Err(error));
    answers
}
