//! What leaves in groups: posts, claims and deletions of single messages. What comes while one for
//! the same queue is on its way waits and then leaves in one call of a script, which carries it out
//! whole or not at all. Each keeps its own answer. A group is repeated as it was sent, so that it
//! is recognised as a whole.

use zaqar_core::storage::{Batch, ClaimRequest, Claimed, Deleted, Error, Guarded};
use zaqar_core::{ClaimId, Generation, MessageId, Position, QueueKey, Timestamp};
use zaqar_storage_batch::{Batcher, Limits};

use crate::error::RETRY_AFTER;

/// Requests in one group, at most.
const ITEMS: usize = 64;
/// Bytes in one group, at most, where each message counts as [`MESSAGE`] bytes more than it has.
const BYTES: usize = 128 << 10;
pub(crate) const MESSAGE: usize = 1 << 10;
/// Messages that the claims of one group get, at most.
const CLAIMED: usize = 50;

/// What waits for each queue.
pub(crate) struct Groups {
    pub(crate) posts: Batcher<PostLine, Post, Posted>,
    pub(crate) deletions: Batcher<DeletionLine, Deletion, Result<Deleted, Error>>,
    pub(crate) claims: Batcher<ClaimLine, Claim, Answer>,
}

/// Posts that can be in one group.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PostLine {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
    pub(crate) notify: bool,
}

pub(crate) struct Post {
    pub(crate) batch: Batch,
    pub(crate) now: Timestamp,
}

pub(crate) type Posted = Result<Guarded<Vec<MessageId>>, Error>;

/// Deletions that can be in one group: those of one queue in one of its lives.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct DeletionLine {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
}

pub(crate) struct Deletion {
    pub(crate) position: Position,
    pub(crate) claim: Option<ClaimId>,
    pub(crate) now: Timestamp,
}

/// Claims that can be in one group.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClaimLine {
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
    pub(crate) max_claim_count: Option<u32>,
}

pub(crate) struct Claim {
    pub(crate) request: ClaimRequest,
    pub(crate) now: Timestamp,
}

pub(crate) type Answer = Result<Guarded<Claimed>, Error>;

impl Groups {
    /// With so many requests waiting for a queue, at most.
    pub(crate) fn new(waiting: usize) -> Self {
        let limits = Limits { items: ITEMS, bytes: BYTES, waiting: waiting.max(1) };
        Self {
            posts: Batcher::new(limits),
            deletions: Batcher::new(limits),
            claims: Batcher::new(Limits { bytes: CLAIMED * MESSAGE, ..limits }),
        }
    }
}

impl Post {
    pub(crate) fn bytes(&self) -> usize {
        self.batch.messages.iter().map(|message| message.payload.bytes.len()).sum()
    }
}

/// The answer of a request that was in no group, or whose group came to nothing.
pub(crate) fn refused<T>(error: zaqar_storage_batch::Error) -> Result<T, Error> {
    match error {
        zaqar_storage_batch::Error::Full => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        zaqar_storage_batch::Error::Lost => {
            Err(Error::unavailable("the task that sent the request ended"))
        }
    }
}

/// One error for all requests of a group.
pub(crate) fn all_alike<T>(error: Error, count: usize) -> Vec<Result<T, Error>> {
    let mut answers: Vec<_> = (1..count).map(|_| Err(error.duplicate())).collect();
    answers.push(Err(error));
    answers
}
