//! Dead letters.
//!
//! The source gives them to a claim that nobody knows, so that nobody else sees or takes them.
//! Where both queues are on one server, one step then stores them in the target and removes them
//! from the source. In a Cluster these are two: the target takes them under the names of their
//! sources, so that a repeat changes nothing. Where a server ends in between, the claim runs out,
//! and who claims next begins again.

use zaqar_core::storage::{DeadLetters, Error};
use zaqar_core::{Incarnation, QueueKey, Timestamp};

use crate::Redis;
use crate::driver::{Step, arguments, millis, number};
use crate::error::Garbled;
use crate::keys;
use crate::messages::lane;
use crate::reply::{Outcome, Reply};
use crate::scripts;
use crate::server::Mode;

/// Messages on their way to a dead-letter queue.
pub(crate) struct Moving {
    source: QueueKey,
    /// The claim of the source that holds them.
    claim: Vec<u8>,
    messages: Vec<DeadLetter>,
}

struct DeadLetter {
    /// Names it for all time.
    name: Vec<u8>,
    record: Vec<u8>,
    /// When it expires, unless the rule says how long it lives.
    expires: u64,
}

impl Moving {
    /// Reads what a claim says of messages that must move: place, end and record of each.
    pub(crate) fn read(
        source: &QueueKey,
        incarnation: Incarnation,
        claim: Vec<u8>,
        mut reply: Reply,
    ) -> Result<Self, Garbled> {
        let life = format!("{}/{:x}", keys::tag(source), incarnation.get());
        let mut messages = Vec::new();
        while !reply.is_empty() {
            let (place, expires) = (reply.number()?, reply.number()?);
            let name = format!("{life}/{place:x}").into_bytes();
            messages.push(DeadLetter { name, record: reply.bytes()?, expires });
        }
        Ok(Self { source: source.clone(), claim, messages })
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.record.len()).sum()
    }

    fn arguments(self, rule: &DeadLetters, now: Timestamp) -> Result<Vec<Vec<u8>>, Garbled> {
        let mut arguments = arguments(Some(rule.generation));
        arguments.push(self.claim);
        let life = rule.ttl.map_or_else(Vec::new, millis);
        for DeadLetter { name, mut record, expires } in self.messages {
            let created = record.get_mut(..8).ok_or(Garbled)?;
            created.copy_from_slice(&now.as_millis().to_be_bytes());
            arguments.extend([name, record, life.clone(), number(expires)]);
        }
        Ok(arguments)
    }
}

impl Redis {
    /// Moves dead letters to their target; `false`, and they stay where they are, if that is not as
    /// assumed.
    pub(crate) async fn dead_letter(
        &self,
        rule: &DeadLetters,
        moving: Moving,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let (source, claim) = (moving.source.clone(), [moving.claim.clone()]);
        let is_one_step = !self.server().is_cluster();
        let place = self.server().keys().head(&source);
        let (script, other) = if is_one_step {
            (&scripts::DEAD_LETTERS_OF_BOTH, Some(&place))
        } else {
            (&scripts::DEAD_LETTERS, None)
        };
        let lane = lane(moving.messages.len(), moving.bytes());
        let arguments = moving.arguments(rule, now)?;
        let step = Step::new(script, Mode::Write, Some(now), arguments);
        let step = Step { lane, ..step };
        let is_stored = match self.step_on_both(&rule.target, other, step).await? {
            Outcome::Said(..) => true,
            Outcome::Absent | Outcome::Stale(_) => false,
        };
        if !is_stored {
            let free = &scripts::CLAIM_RELEASE;
            self.change_head_of(&source, now, free, claim).await?;
        } else if !is_one_step {
            let remove = &scripts::DEAD_LETTERS_MOVED;
            self.change_head_of(&source, now, remove, claim).await?;
        }
        Ok(is_stored)
    }
}
