//! Heads, steps and messages as they are kept.

use bytes::Bytes;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use zaqar_core::storage::{Error, Message};
use zaqar_core::{Checksum, ClientId, Generation, Incarnation, KeyId, Payload, Position};

use crate::error::unreadable;
use crate::schema::{self, claim_id, time};

/// A queue's head: the one document by which everything that concerns more than one message is
/// decided.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Head {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    /// Whether the queue is there. What was closed stays until its room is cleared.
    pub(crate) open: bool,
    incarnation: i64,
    version: i64,
    /// What its outbox entries belong to: new with each opening.
    pub(crate) life: i64,
    /// What its messages and claims belong to: new with each opening and each purge.
    pub(crate) room: i64,
    /// What its subscriptions belong to: new with each opening, and when all are removed.
    pub(crate) hall: i64,
    /// The next position.
    pub(crate) next: i64,
    /// Counts the steps that change who holds which message. Each is tried on the count that it has
    /// seen.
    pub(crate) turn: i64,
    /// The step that made the latest turn.
    pub(crate) last: Option<Binary>,
    /// Counts changes of subscriptions, likewise.
    pub(crate) roster: i64,
    pub(crate) roster_last: Option<Binary>,
    /// When the last subscription without a lease is over. Without one, 1 while outbox entries may
    /// be due to nobody, and 0 when these were removed.
    pub(crate) subscribed: i64,
    /// When the last one on a lease is over by itself; 0 without one.
    pub(crate) followed: i64,
    /// The latest time that a step was done at.
    pub(crate) at: i64,
    /// No delayed message is due earlier.
    pub(crate) due: i64,
    /// No claim is over earlier.
    pub(crate) over: i64,
    /// Steps that are decided and perhaps not carried out.
    pub(crate) todo: Vec<Step>,
    /// Rooms, halls and lives that hold garbage.
    #[serde(default)]
    pub(crate) gone: Vec<Gone>,
    /// The database's clock when it was read.
    pub(crate) clock: Option<DateTime>,
    /// The clock of the operation that reads it, where its steps are to compare it with the
    /// database's.
    #[serde(skip)]
    pub(crate) asked_at: Option<i64>,
}

impl Head {
    pub(crate) const fn generation(&self) -> Generation {
        schema::generation(self.incarnation, self.version)
    }

    pub(crate) const fn incarnation(&self) -> Incarnation {
        self.generation().incarnation
    }

    /// What a horizon becomes when the last subscription of its sort leaves: the sweep looks for
    /// entries that nobody is left to deliver.
    pub(crate) fn left_behind(&self, horizon: &str) -> i64 {
        i64::from(horizon == self::horizon(false) && self.subscribed > 0)
    }

    /// When nobody hears of posts any more, of those who subscribe now.
    pub(crate) fn heard_until(&self) -> i64 {
        self.subscribed.max(self.followed)
    }

    /// The step of this name, if it is still listed.
    pub(crate) fn step(&self, op: &Binary) -> Option<&Step> {
        self.todo.iter().find(|step| step.op == *op)
    }

    /// The last position given.
    pub(crate) fn last_position(&self) -> Position {
        Position::new(u64::try_from(self.next - 1).unwrap_or(0))
    }
}

/// The field of a head that says when the last subscription of a sort is over.
pub(crate) const fn horizon(is_leased: bool) -> &'static str {
    if is_leased { "followed" } else { "subscribed" }
}

/// What waits to be cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Gone {
    Room(i64),
    Hall(i64),
    Life(i64),
}

impl Gone {
    pub(crate) fn to_bson(&self) -> Bson {
        let (kind, name) = match self {
            Self::Room(name) => ("room", name),
            Self::Hall(name) => ("hall", name),
            Self::Life(name) => ("life", name),
        };
        doc! { kind: *name }.into()
    }
}

/// A step that its head lists: decided by being listed, carried out by whoever comes first, any
/// number of times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its name.
    pub(crate) op: Binary,
    /// When.
    pub(crate) at: i64,
    /// The head's room at that time.
    pub(crate) room: i64,
    pub(crate) act: Act,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// Gives the messages of posts their places.
    Post {
        life: i64,
        incarnation: i64,
        /// The position of the first message; the others follow.
        first: i64,
        posts: Vec<Post>,
        /// For whom there is an outbox entry; `None` where none was prepared.
        hearers: Option<Readers>,
    },
    /// Lets a claim have messages.
    Claim {
        turn: i64,
        claim: Binary,
        places: Vec<i64>,
        ttl: i64,
        until: i64,
        /// Messages live until then at least.
        alive: i64,
        /// 1 where this counts as a claim of the message.
        counts: i32,
    },
    /// Takes messages from claims, and ends these.
    Free {
        turn: i64,
        claims: Vec<Binary>,
        places: Vec<i64>,
    },
    Renew {
        turn: i64,
        claim: Binary,
        places: Vec<i64>,
        ttl: i64,
        until: i64,
        alive: i64,
    },
    /// Removes messages: any, or those that one of the claims holds.
    Delete {
        places: Vec<i64>,
        holders: Option<Vec<Binary>>,
    },
    /// Takes messages over from a claim in another room.
    #[serde(rename = "letters")]
    DeadLetters {
        first: i64,
        source: i64,
        claim: Binary,
        letters: Vec<DeadLetter>,
    },
    /// Makes a subscription count.
    Join {
        key: Binary,
        /// When it is over.
        end: i64,
    },
    Change {
        key: Binary,
        roster: i64,
        set: Document,
    },
    Leave {
        keys: Vec<Binary>,
    },
}

/// One of the posts that a step decides together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Post {
    /// Its messages' ids begin with this.
    pub(crate) op: Binary,
    pub(crate) count: i64,
}

/// For whom a post's outbox entry is. Where it is for nobody it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Workers: there are subscriptions without a lease.
    pub(crate) workers: bool,
    /// Servers that push: there are subscriptions on one.
    pub(crate) followers: bool,
}

impl Readers {
    pub(crate) const fn are_any(self) -> bool {
        self.workers || self.followers
    }
}

/// A message that moves to a dead-letter queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) id: Binary,
    /// Seconds it is shown to live.
    pub(crate) ttl: i64,
    /// When it expires, as a date.
    pub(crate) expires: DateTime,
}

/// What a message is.
pub(crate) mod state {
    pub(crate) const FREE: i32 = 0;
    pub(crate) const HELD: i32 = 1;
    pub(crate) const DELAYED: i32 = 2;
}

/// A message that has its place.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Stored {
    #[serde(rename = "_id")]
    pub(crate) id: Binary,
    /// Its place.
    pub(crate) n: i64,
    /// Its state.
    pub(crate) s: i32,
    /// The claim that holds it, where one does.
    pub(crate) c: Option<Binary>,
    /// How often it was claimed.
    pub(crate) k: i32,
    /// When it was posted.
    a: DateTime,
    /// Seconds it was posted to live.
    l: i64,
    /// When it expires: later than its ttl says where a claim has made it live longer.
    x: DateTime,
    /// Who posted it.
    #[serde(default)]
    u: String,
    /// Body, key and checksum.
    b: Binary,
    pub(crate) e: Option<String>,
    m: Option<Binary>,
}

impl Stored {
    /// Whether its parts are as this store writes them.
    pub(crate) fn can_be_shown(&self) -> bool {
        let has_checksum = |digest: &Binary| digest.bytes.len() == size_of::<Checksum>();
        self.m.as_ref().is_none_or(has_checksum)
            && (self.s != state::HELD || self.c.as_ref().and_then(claim_id).is_some())
    }

    pub(crate) fn show(self, incarnation: Incarnation) -> Result<Message, Error> {
        let claim = match &self.c {
            Some(bits) if self.s == state::HELD => {
                Some(claim_id(bits).ok_or_else(|| unreadable("a claim's id"))?)
            }
            _ => None,
        };
        Ok(Message {
            id: schema::place(incarnation, self.n),
            client: ClientId::new(&self.u),
            ttl: shown_ttl(self.l, self.a.timestamp_millis(), self.x.timestamp_millis()),
            created: time(self.a.timestamp_millis()),
            claim,
            claim_count: u32::try_from(self.k).unwrap_or(0),
            payload: payload(self.b, self.e, self.m)?,
        })
    }

    /// When it expires.
    pub(crate) const fn expires(&self) -> DateTime {
        self.x
    }

    /// It as a claim that was just made holds it.
    pub(crate) fn held_by(mut self, claim: &Binary, alive: DateTime) -> Self {
        self.s = state::HELD;
        self.c = Some(claim.clone());
        self.k = self.k.saturating_add(1);
        self.x = self.x.max(alive);
        self
    }
}

/// The ttl to show: the one posted, unless the message lives longer; then in seconds, to the
/// nearest.
pub(crate) fn shown_ttl(posted: i64, created: i64, expires: i64) -> u64 {
    let lives = expires.saturating_sub(created);
    let ttl = if lives > posted.saturating_mul(1000) { rounded_seconds(lives) } else { posted };
    u64::try_from(ttl).unwrap_or(0)
}

/// Milliseconds as seconds, to the nearest.
pub(crate) const fn rounded_seconds(millis: i64) -> i64 {
    millis.saturating_add(500) / 1000
}

pub(crate) fn payload(
    body: Binary,
    sealed_with: Option<String>,
    checksum: Option<Binary>,
) -> Result<Payload, Error> {
    let checksum = match checksum {
        Some(digest) => {
            let digest = digest.bytes.try_into().map_err(|_| unreadable("a checksum"))?;
            Some(Checksum(digest))
        }
        None => None,
    };
    Ok(Payload { bytes: Bytes::from(body.bytes), sealed_with: sealed_with.map(KeyId), checksum })
}

/// Adds to a document what [`payload`] reads.
pub(crate) fn put_payload(into: &mut Document, payload: &Payload) {
    into.insert("b", schema::binary(payload.bytes.to_vec()));
    if let Some(KeyId(key)) = &payload.sealed_with {
        into.insert("e", key);
    }
    if let Some(Checksum(digest)) = &payload.checksum {
        into.insert("m", schema::binary(digest.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_shown_as_posted_unless_the_life_has_grown() {
        for (posted, lives, shown) in [
            (60, 60_000, 60),
            (60, 60_499, 60),
            (60, 60_500, 61),
            (60, 170_001, 170),
            (1_000_000_000_000, 126_000_000_000_000, 1_000_000_000_000),
        ] {
            assert_eq!(shown_ttl(posted, 5, 5 + lives), shown, "{posted} s, {lives} ms");
        }
    }

    #[test]
    fn a_step_reads_back() {
        let step = Step {
            op: schema::fresh_op(),
            at: 5,
            room: 7,
            act: Act::Delete { places: vec![1, 2], holders: Some(vec![schema::fresh_op()]) },
        };
        let stored = mongodb::bson::serialize_to_document(&step).unwrap();
        let read: Step = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(format!("{read:?}"), format!("{step:?}"));
    }
}
