//! Replies of scripts: flat lists that are read from the front.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other replies and errors are treated alike"
)]

use redis::Value;
use zaqar_core::storage::{Error, Guarded, Message, MoveEnd, MoveId, Skipped};
use zaqar_core::{
    ClaimId, Generation, Incarnation, KeyId, MessageId, Position, Timestamp, Version,
};

use crate::error::{Malformed, report_unreadable};
use crate::record;

/// Number of values per message.
pub(crate) const MESSAGE_FIELDS: u64 = 5;

/// A reply that is being read.
#[derive(Debug)]
pub(crate) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(crate) fn new(value: Value) -> Result<Self, Malformed> {
        match value {
            Value::Array(parts) => Ok(Self(parts.into_iter())),
            _ => Err(Malformed),
        }
    }

    /// Number of values that are left.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    pub(crate) fn value(&mut self) -> Result<Value, Malformed> {
        self.0.next().ok_or(Malformed)
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        bytes(self.value()?)
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        number(&self.value()?)
    }

    /// A number; `None` for an empty string.
    pub(crate) fn some_number(&mut self) -> Result<Option<u64>, Malformed> {
        match self.value()? {
            Value::BulkString(text) if text.is_empty() => Ok(None),
            value => number(&value).map(Some),
        }
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Malformed> {
        self.number().map(Timestamp::from_millis)
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, Malformed> {
        self.number().map(Incarnation::new)
    }

    pub(crate) fn generation(&mut self) -> Result<Generation, Malformed> {
        Ok(Generation {
            incarnation: Incarnation::new(self.number()?),
            version: Version::new(self.number()?),
        })
    }

    /// The error of a frozen head: the letter of the end of the move, and its number.
    pub(crate) fn moved(&mut self) -> Result<Error, Malformed> {
        let mark = self.text()?;
        let end = if mark.starts_with('s') { MoveEnd::Source } else { MoveEnd::Target };
        let number = mark.get(1..).and_then(|number| number.parse().ok()).ok_or(Malformed)?;
        Ok(Error::Moved { id: MoveId::new(number), end })
    }

    /// Splits off the next values.
    pub(crate) fn take(&mut self, count: u64) -> Result<Self, Malformed> {
        let count = usize::try_from(count).map_err(|_| Malformed)?;
        if count > self.0.len() {
            return Err(Malformed);
        }
        Ok(Self(self.0.by_ref().take(count).collect::<Vec<_>>().into_iter()))
    }

    /// What a pop or claim skipped: the next position and the key, or empty.
    pub(crate) fn skipped(&mut self) -> Result<Skipped, Malformed> {
        let next = self.some_number()?.map(Position::new);
        let key = self.bytes()?;
        let key = (!key.is_empty()).then(|| KeyId(String::from_utf8_lossy(&key).into_owned()));
        Ok(Skipped { key, next })
    }

    /// Reads all remaining values as messages.
    pub(crate) fn messages(mut self, incarnation: Incarnation) -> Result<Vec<Message>, Malformed> {
        let mut messages = Vec::with_capacity(self.0.len() / 5);
        while !self.is_empty() {
            let position = Position::new(self.number()?);
            let (expires, count, claim) = (self.value()?, self.number()?, self.bytes()?);
            let Value::BulkString(record) = self.value()? else { continue };
            // A damaged message is skipped, so that it does not hide the others.
            let (Ok(expires), Ok(record)) = (number(&expires), record::decode(record)) else {
                report_unreadable("a message", position.get());
                continue;
            };
            let id = MessageId { incarnation, position };
            messages
                .push(Message { claim: claim_id(&claim)?, ..record.message(id, expires, count) });
        }
        Ok(messages)
    }
}

/// The outcome of a call on a queue's head.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The script's status, and the rest of the reply.
    Answer(&'static str, Reply),
    Absent,
    Stale(Generation),
}

impl Outcome {
    /// Reads the answer of a call that assumes a generation.
    pub(crate) fn guarded<T>(
        self,
        read: impl FnOnce(&str, Reply) -> Result<T, Malformed>,
    ) -> Result<Guarded<T>, Malformed> {
        match self {
            Self::Answer(what, reply) => read(what, reply).map(Guarded::Done),
            Self::Absent => Ok(Guarded::Absent),
            Self::Stale(generation) => Ok(Guarded::Stale(generation)),
        }
    }

    /// Reads the answer of a call that assumes no generation; `None` without a head.
    pub(crate) fn found(self) -> Result<Option<(&'static str, Reply)>, Malformed> {
        match self {
            Self::Answer(what, reply) => Ok(Some((what, reply))),
            Self::Absent => Ok(None),
            Self::Stale(_) => Err(Malformed),
        }
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, Malformed> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(Malformed),
    }
}

pub(crate) fn number(value: &Value) -> Result<u64, Malformed> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| Malformed),
        Value::BulkString(text) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
        }
        _ => Err(Malformed),
    }
}

fn claim_id(text: &[u8]) -> Result<Option<ClaimId>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map(Some).map_err(|_| Malformed)
}
