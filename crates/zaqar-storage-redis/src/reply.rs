//! What scripts answer: a flat list that is read from the front.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "replies and errors that are not named are treated alike"
)]

use redis::Value;
use zaqar_core::storage::{Guarded, Message};
use zaqar_core::{ClaimId, Generation, Incarnation, MessageId, Position, Timestamp, Version};

use crate::error::Garbled;
use crate::record;

/// How many parts tell of one message.
pub(crate) const MESSAGE_PARTS: u64 = 5;

/// An answer that is being read.
#[derive(Debug)]
pub(crate) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(crate) fn new(value: Value) -> Result<Self, Garbled> {
        match value {
            Value::Array(parts) => Ok(Self(parts.into_iter())),
            _ => Err(Garbled),
        }
    }

    /// How many parts are left.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    pub(crate) fn value(&mut self) -> Result<Value, Garbled> {
        self.0.next().ok_or(Garbled)
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Garbled> {
        bytes(self.value()?)
    }

    pub(crate) fn text(&mut self) -> Result<String, Garbled> {
        String::from_utf8(self.bytes()?).map_err(|_| Garbled)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Garbled> {
        number(&self.value()?)
    }

    /// A number, or nothing where the script says nothing.
    pub(crate) fn some_number(&mut self) -> Result<Option<u64>, Garbled> {
        match self.value()? {
            Value::BulkString(text) if text.is_empty() => Ok(None),
            value => number(&value).map(Some),
        }
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Garbled> {
        self.number().map(Timestamp::from_millis)
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, Garbled> {
        self.number().map(Incarnation::new)
    }

    pub(crate) fn generation(&mut self) -> Result<Generation, Garbled> {
        Ok(Generation {
            incarnation: Incarnation::new(self.number()?),
            version: Version::new(self.number()?),
        })
    }

    /// The next parts.
    pub(crate) fn take(&mut self, count: u64) -> Result<Self, Garbled> {
        let count = usize::try_from(count).map_err(|_| Garbled)?;
        if count > self.0.len() {
            return Err(Garbled);
        }
        Ok(Self(self.0.by_ref().take(count).collect::<Vec<_>>().into_iter()))
    }

    /// The messages that the rest tells of.
    pub(crate) fn messages(mut self, incarnation: Incarnation) -> Result<Vec<Message>, Garbled> {
        let mut messages = Vec::with_capacity(self.0.len() / 5);
        while !self.is_empty() {
            let position = Position::new(self.number()?);
            let (expires, count, claim) = (self.value()?, self.number()?, self.bytes()?);
            let Value::BulkString(record) = self.value()? else { continue };
            // One that is damaged must not hide the others.
            let (Ok(expires), Ok(record)) = (number(&expires), record::decode(record)) else {
                tracing::warn!(position = position.get(), "a message cannot be read");
                continue;
            };
            messages.push(Message {
                id: MessageId { incarnation, position },
                ttl: seconds(expires.saturating_sub(record.created.as_millis())),
                client: record.client,
                payload: record.payload,
                created: record.created,
                claim: claim_id(&claim)?,
                claim_count: u32::try_from(count).unwrap_or(u32::MAX),
            });
        }
        Ok(messages)
    }
}

/// How a step on a queue ended that has done nothing, or its answer.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It says this, and the rest of the reply.
    Said(&'static str, Reply),
    Absent,
    Stale(Generation),
}

impl Outcome {
    /// The answer of a step that may find another generation than assumed.
    pub(crate) fn guarded<T>(
        self,
        read: impl FnOnce(&str, Reply) -> Result<T, Garbled>,
    ) -> Result<Guarded<T>, Garbled> {
        match self {
            Self::Said(what, reply) => read(what, reply).map(Guarded::Done),
            Self::Absent => Ok(Guarded::Absent),
            Self::Stale(generation) => Ok(Guarded::Stale(generation)),
        }
    }

    /// The answer of a step that asks for no generation; `None` without a head.
    pub(crate) fn found(self) -> Result<Option<(&'static str, Reply)>, Garbled> {
        match self {
            Self::Said(what, reply) => Ok(Some((what, reply))),
            Self::Absent => Ok(None),
            Self::Stale(_) => Err(Garbled),
        }
    }
}

/// Seconds, to the nearest.
pub(crate) const fn seconds(millis: u64) -> u64 {
    millis.saturating_add(500) / 1000
}

fn bytes(value: Value) -> Result<Vec<u8>, Garbled> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(Garbled),
    }
}

pub(crate) fn number(value: &Value) -> Result<u64, Garbled> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| Garbled),
        Value::BulkString(text) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Garbled)
        }
        _ => Err(Garbled),
    }
}

fn claim_id(text: &[u8]) -> Result<Option<ClaimId>, Garbled> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| Garbled)?;
    text.parse().map(Some).map_err(|_| Garbled)
}
