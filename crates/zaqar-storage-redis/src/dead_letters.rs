//! Dead letters.
//!
//! The source assigns them to a claim with a random id, so that no other claim sees or takes them.
//! If both queues are on one server, one script then stores them in the target and deletes them
//! from the source. In a Cluster these are two calls: the target records the names of their
//! sources, so that a repeat stores nothing twice. If the server dies in between, the claim
//! expires, and the next claim of the queue starts the move again.

use zaqar_core::storage::{DeadLetters, Error};
use zaqar_core::{Incarnation, QueueKey, Timestamp};

use crate::Redis;
use crate::driver::{HeadCall, arguments, millis, number};
use crate::error::Malformed;
use crate::keys;
use crate::messages::lane;
use crate::reply::{Outcome, Reply};
use crate::scripts;
use crate::server::Mode;

/// Messages that are being moved to a dead-letter queue.
pub(crate) struct DeadLetterBatch {
    source: QueueKey,
    /// The claim of the source that holds them.
    claim: Vec<u8>,
    messages: Vec<DeadLetter>,
}

struct DeadLetter {
    /// A unique name: the source queue, its incarnation and the position.
    name: Vec<u8>,
    record: Vec<u8>,
    /// When it expires, unless the rule sets a ttl.
    expires: u64,
}

impl DeadLetterBatch {
    /// Reads the messages that a claim must move: position, expiry and record of each.
    pub(crate) fn read(
        source: &QueueKey,
        incarnation: Incarnation,
        claim: Vec<u8>,
        mut reply: Reply,
    ) -> Result<Self, Malformed> {
        let source_prefix = format!("{}/{:x}", keys::tag(source), incarnation.get());
        let mut messages = Vec::new();
        while !reply.is_empty() {
            let (position, expires) = (reply.number()?, reply.number()?);
            let name = format!("{source_prefix}/{position:x}").into_bytes();
            messages.push(DeadLetter { name, record: reply.bytes()?, expires });
        }
        Ok(Self { source: source.clone(), claim, messages })
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.record.len()).sum()
    }

    fn arguments(self, rule: &DeadLetters, now: Timestamp) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut arguments = arguments(Some(rule.generation));
        arguments.push(self.claim);
        let ttl = rule.ttl.map_or_else(Vec::new, millis);
        for DeadLetter { name, mut record, expires } in self.messages {
            let created = record.get_mut(..8).ok_or(Malformed)?;
            created.copy_from_slice(&now.as_millis().to_be_bytes());
            arguments.extend([name, record, ttl.clone(), number(expires)]);
        }
        Ok(arguments)
    }
}

impl Redis {
    /// Moves dead letters to their target. Returns `false`, and leaves them in the source, if the
    /// target's generation is not the assumed one.
    pub(crate) async fn dead_letter(
        &self,
        rule: &DeadLetters,
        batch: DeadLetterBatch,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let (source, claim) = (batch.source.clone(), [batch.claim.clone()]);
        let is_one_step = !self.server().is_cluster();
        let keys = self.server().keys().head(&source);
        let (script, other) = if is_one_step {
            (&scripts::MOVE_DEAD_LETTERS, Some(&keys))
        } else {
            (&scripts::STORE_DEAD_LETTERS, None)
        };
        let lane = lane(batch.messages.len(), batch.bytes());
        let arguments = batch.arguments(rule, now)?;
        let call = HeadCall::new(script, Mode::Write, Some(now), arguments);
        let call = HeadCall { lane, ..call };
        let stored = self.call_heads(&rule.target, other, call).await;
        let is_stored = matches!(stored, Ok(Outcome::Answer(..)));
        let is_left = stored.as_ref().map_or_else(is_moved, |_| !is_stored);
        if is_left {
            let free = &scripts::CLAIM_RELEASE;
            self.update_head(&source, now, free, claim.clone()).await?;
        }
        stored?;
        if is_stored && !is_one_step {
            let remove = &scripts::REMOVE_DEAD_LETTERS;
            self.update_head(&source, now, remove, claim).await?;
        }
        Ok(is_stored)
    }
}

/// The source or the target is frozen for a move; the messages stay where they are.
const fn is_moved(error: &Error) -> bool {
    matches!(error, Error::Moved { .. })
}
