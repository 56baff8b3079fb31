//! Heads, intents and messages as they are stored.
//!
//! Some stored names are shorter or older than the names in this crate:
//!
//! | here | stored |
//! |---|---|
//! | message epoch | `room`, in messages and claims `h` |
//! | subscription epoch | `hall` |
//! | outbox epoch | `life` |
//! | claim sequence number | `turn`, in messages `q` |
//! | subscription sequence number | `roster` |
//! | last claim intent, last subscription intent | `last`, `roster_last` |
//! | intents, and the action of one | `todo`, `act` |
//! | dropped epochs | `gone`, and `garbage` while there are any |
//! | subscribed until, followed until | `subscribed`, `followed` |
//! | latest time, next due, next claim expiry | `at`, `due`, `over` |
//! | positions, extend to, readers, dead letters of an action | `places`, `alive`, `hearers`, `letters` |
//! | the actions release, subscribe, change subscription, unsubscribe | `free`, `join`, `change`, `leave` |
//! | of a lease: was live, attached | `kept`, `joins` |

use bytes::Bytes;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use zaqar_core::storage::{Error, Message};
use zaqar_core::{Checksum, ClientId, Generation, Incarnation, KeyId, Payload, Position};

use crate::error::unreadable;
use crate::schema::{self, claim_id, time};

/// The head of a queue: every operation on more than one document is committed by one change of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Head {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    /// Whether the queue exists. A closed head is kept until its dropped epochs are cleared.
    pub(crate) open: bool,
    incarnation: i64,
    version: i64,
    /// The epoch of its outbox entries: new each time the queue is opened.
    #[serde(rename = "life")]
    pub(crate) outbox_epoch: i64,
    /// The epoch of its messages and claims: new each time the queue is opened or purged.
    #[serde(rename = "room")]
    pub(crate) message_epoch: i64,
    /// The epoch of its subscriptions: new each time the queue is opened or all subscriptions are
    /// removed.
    #[serde(rename = "hall")]
    pub(crate) subscription_epoch: i64,
    /// The next position.
    pub(crate) next: i64,
    /// Counts the operations that change which claim holds a message. Such an operation commits
    /// only if the number has not changed since it read the head.
    #[serde(rename = "turn")]
    pub(crate) claim_seq: i64,
    /// The intent that last changed `claim_seq`.
    #[serde(rename = "last")]
    pub(crate) last_claim_intent: Option<Binary>,
    /// Counts changes of subscriptions, likewise.
    #[serde(rename = "roster")]
    pub(crate) subscription_seq: i64,
    /// The intent that last changed `subscription_seq`.
    #[serde(rename = "roster_last")]
    pub(crate) last_subscription_intent: Option<Binary>,
    /// When the last subscription without a lease expires. Without such a subscription: 1 while
    /// entries for workers may be left in the outbox, 0 once they were removed.
    #[serde(rename = "subscribed")]
    pub(crate) subscribed_until: i64,
    /// When the last subscription on a lease expires by its own ttl; 0 without one.
    #[serde(rename = "followed")]
    pub(crate) followed_until: i64,
    /// The latest time of a committed operation.
    #[serde(rename = "at")]
    pub(crate) latest_time: i64,
    /// A lower bound of when the next delayed message is due.
    #[serde(rename = "due")]
    pub(crate) next_due: i64,
    /// A lower bound of when the next claim expires.
    #[serde(rename = "over")]
    pub(crate) next_claim_expiry: i64,
    /// Committed intents that may not be applied yet.
    #[serde(rename = "todo")]
    pub(crate) intents: Vec<Intent>,
    /// Epochs whose documents are still to be deleted.
    #[serde(rename = "gone", default)]
    pub(crate) dropped_epochs: Vec<DroppedEpoch>,
    /// The move that has frozen it: see [`crate::moves`]. It is not open then.
    pub(crate) moving: Option<String>,
    /// The database's clock when the head was read.
    pub(crate) clock: Option<DateTime>,
    /// The caller's clock, if intents are to compare it with the database's.
    #[serde(skip)]
    pub(crate) caller_time: Option<i64>,
}

impl Head {
    pub(crate) const fn generation(&self) -> Generation {
        schema::generation(self.incarnation, self.version)
    }

    pub(crate) const fn incarnation(&self) -> Incarnation {
        self.generation().incarnation
    }

    /// The value of an expiry field when the last subscription of its kind is removed. It makes the
    /// sweep look for entries without readers.
    pub(crate) fn expiry_when_empty(&self, expiry_field: &str) -> i64 {
        i64::from(expiry_field == self::expiry_field(false) && self.subscribed_until > 0)
    }

    /// When the last current subscription of any kind expires.
    pub(crate) fn has_subscribers_until(&self) -> i64 {
        self.subscribed_until.max(self.followed_until)
    }

    /// The intent with this id, if it is still listed.
    pub(crate) fn intent(&self, op: &Binary) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.op == *op)
    }

    /// Whether it lists an intent for one of these posts.
    pub(crate) fn lists_any(&self, posts: &[Post]) -> bool {
        let listed = self.intents.iter().flat_map(|intent| intent.action.posts());
        listed.into_iter().any(|listed| posts.iter().any(|post| post.op == listed.op))
    }

    /// The last assigned position.
    pub(crate) fn last_position(&self) -> Position {
        Position::new(u64::try_from(self.next - 1).unwrap_or(0))
    }
}

/// The field of a head that has the expiry of the last subscription of a kind: on a lease, or
/// without one.
pub(crate) const fn expiry_field(is_leased: bool) -> &'static str {
    if is_leased { "followed" } else { "subscribed" }
}

/// An epoch whose documents are still to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DroppedEpoch {
    #[serde(rename = "room")]
    Messages(i64),
    #[serde(rename = "hall")]
    Subscriptions(i64),
    #[serde(rename = "life")]
    Outbox(i64),
}

impl DroppedEpoch {
    pub(crate) fn to_bson(&self) -> Bson {
        let (kind, epoch) = match self {
            Self::Messages(epoch) => ("room", epoch),
            Self::Subscriptions(epoch) => ("hall", epoch),
            Self::Outbox(epoch) => ("life", epoch),
        };
        doc! { kind: *epoch }.into()
    }
}

/// An intent: an operation on many documents. It is committed when its head lists it, and then
/// applied by any process, any number of times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Its id.
    pub(crate) op: Binary,
    /// The time of the operation.
    pub(crate) at: i64,
    /// The head's message epoch when it was committed.
    #[serde(rename = "room")]
    pub(crate) message_epoch: i64,
    #[serde(rename = "act")]
    pub(crate) action: Action,
}

impl Intent {
    /// Whether it activates outbox entries for workers.
    pub(crate) const fn notifies_workers(&self) -> bool {
        matches!(self.action, Action::Post { readers: Some(Readers { workers: true, .. }), .. })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Assigns positions to the messages of posts.
    Post {
        #[serde(rename = "life")]
        outbox_epoch: i64,
        incarnation: i64,
        /// The position of the first message; the others follow.
        first: i64,
        posts: Vec<Post>,
        /// The readers of the outbox entries; `None` if no entries were written.
        #[serde(rename = "hearers")]
        readers: Option<Readers>,
    },
    /// Makes a claim hold messages.
    Claim {
        #[serde(rename = "turn")]
        claim_seq: i64,
        claim: Binary,
        #[serde(rename = "places")]
        positions: Vec<i64>,
        ttl: i64,
        until: i64,
        /// The messages expire then at the earliest.
        #[serde(rename = "alive")]
        extend_to: i64,
        /// Added to the claim count of the messages: 1, or 0 for the store's own claims.
        counts: i32,
    },
    /// Deletes claims and frees their messages.
    #[serde(rename = "free")]
    Release {
        #[serde(rename = "turn")]
        claim_seq: i64,
        claims: Vec<Binary>,
        #[serde(rename = "places")]
        positions: Vec<i64>,
    },
    Renew {
        #[serde(rename = "turn")]
        claim_seq: i64,
        claim: Binary,
        #[serde(rename = "places")]
        positions: Vec<i64>,
        ttl: i64,
        until: i64,
        #[serde(rename = "alive")]
        extend_to: i64,
    },
    /// Deletes messages: any, or those that one of the claims holds.
    Delete {
        #[serde(rename = "places")]
        positions: Vec<i64>,
        holders: Option<Vec<Binary>>,
    },
    /// Takes messages over from a claim in another queue.
    #[serde(rename = "letters")]
    DeadLetters {
        first: i64,
        /// The other queue's message epoch.
        source: i64,
        claim: Binary,
        #[serde(rename = "letters")]
        dead_letters: Vec<DeadLetter>,
    },
    /// Activates a subscription.
    #[serde(rename = "join")]
    Subscribe {
        key: Binary,
        /// When it expires.
        end: i64,
    },
    #[serde(rename = "change")]
    ChangeSubscription {
        key: Binary,
        #[serde(rename = "roster")]
        subscription_seq: i64,
        set: Document,
    },
    #[serde(rename = "leave")]
    Unsubscribe { keys: Vec<Binary> },
}

impl Action {
    /// The posts that it commits.
    fn posts(&self) -> &[Post] {
        if let Self::Post { posts, .. } = self { posts } else { &[] }
    }
}

/// One of the posts that an intent commits together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Post {
    /// Its messages' keys begin with this.
    pub(crate) op: Binary,
    pub(crate) count: i64,
}

/// The readers of a post's outbox entry. Without readers the entry is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Workers: there are subscriptions without a lease.
    pub(crate) workers: bool,
    /// Servers that push: there are subscriptions on a lease.
    pub(crate) followers: bool,
}

impl Readers {
    pub(crate) const fn are_any(self) -> bool {
        self.workers || self.followers
    }
}

/// A message that is moved to a dead-letter queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) id: Binary,
    /// The ttl to show, in seconds.
    pub(crate) ttl: i64,
    /// When it expires.
    pub(crate) expires: DateTime,
}

/// The states of a message.
pub(crate) mod state {
    pub(crate) const FREE: i32 = 0;
    pub(crate) const CLAIMED: i32 = 1;
    pub(crate) const DELAYED: i32 = 2;
}

/// A message with a position. The fields have their stored names.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoredMessage {
    #[serde(rename = "_id")]
    pub(crate) id: Binary,
    /// Its position.
    pub(crate) n: i64,
    /// Its state.
    pub(crate) s: i32,
    /// The claim that holds it, if its state is claimed.
    pub(crate) c: Option<Binary>,
    /// Its claim count.
    pub(crate) k: i32,
    /// When it was posted.
    a: DateTime,
    /// The posted ttl in seconds.
    l: i64,
    /// When it expires: later than by its ttl if a claim has extended it.
    x: DateTime,
    /// The client that posted it.
    #[serde(default)]
    u: String,
    /// When it becomes visible, if its state is delayed.
    t: Option<i64>,
    /// The move that has stamped it: see [`crate::moves`].
    pub(crate) z: Option<i64>,
    /// Its body, encryption key and checksum.
    b: Binary,
    pub(crate) e: Option<String>,
    m: Option<Binary>,
}

impl StoredMessage {
    /// Whether its fields are valid.
    pub(crate) fn can_be_shown(&self) -> bool {
        let has_checksum = |digest: &Binary| digest.bytes.len() == size_of::<Checksum>();
        self.m.as_ref().is_none_or(has_checksum)
            && (self.s != state::CLAIMED || self.c.as_ref().and_then(claim_id).is_some())
    }

    pub(crate) fn show(self, incarnation: Incarnation) -> Result<Message, Error> {
        let claim = match &self.c {
            Some(bits) if self.s == state::CLAIMED => {
                Some(claim_id(bits).ok_or_else(|| unreadable("a claim's id"))?)
            }
            _ => None,
        };
        Ok(Message {
            id: schema::message_id(incarnation, self.n),
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

    /// Until when it is delayed.
    pub(crate) fn visible(&self) -> Option<i64> {
        self.t.filter(|_| self.s == state::DELAYED)
    }

    pub(crate) const fn body_length(&self) -> usize {
        self.b.bytes.len()
    }

    /// The message as it is after this claim.
    pub(crate) fn claimed_by(mut self, claim: &Binary, extend_to: DateTime) -> Self {
        self.s = state::CLAIMED;
        self.c = Some(claim.clone());
        self.k = self.k.saturating_add(1);
        self.x = self.x.max(extend_to);
        self
    }
}

/// The ttl to show: the posted one, unless a claim has extended the message; then rounded to
/// seconds.
pub(crate) fn shown_ttl(posted: i64, created: i64, expires: i64) -> u64 {
    let lives = expires.saturating_sub(created);
    let ttl = if lives > posted.saturating_mul(1000) { rounded_seconds(lives) } else { posted };
    u64::try_from(ttl).unwrap_or(0)
}

/// Milliseconds rounded to seconds.
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

/// Adds the fields that [`payload`] reads.
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
    fn the_posted_ttl_is_shown_unless_it_was_extended() {
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

    /// Databases exist with these names, which differ from those in this crate.
    #[test]
    fn stored_names_of_intents_do_not_change() {
        let op = schema::random_id;
        let actions = [
            (
                Action::Claim {
                    claim_seq: 1,
                    claim: op(),
                    positions: vec![1],
                    ttl: 60,
                    until: 2,
                    extend_to: 3,
                    counts: 1,
                },
                "claim",
                &["turn", "claim", "places", "ttl", "until", "alive", "counts"][..],
            ),
            (
                Action::Release { claim_seq: 1, claims: vec![op()], positions: vec![1] },
                "free",
                &["turn", "claims", "places"],
            ),
            (
                Action::Delete { positions: vec![1], holders: None },
                "delete",
                &["places", "holders"],
            ),
            (
                Action::DeadLetters { first: 1, source: 2, claim: op(), dead_letters: Vec::new() },
                "letters",
                &["first", "source", "claim", "letters"],
            ),
            (Action::Subscribe { key: op(), end: 1 }, "join", &["key", "end"]),
            (
                Action::ChangeSubscription { key: op(), subscription_seq: 1, set: doc! {} },
                "change",
                &["key", "roster", "set"],
            ),
            (Action::Unsubscribe { keys: Vec::new() }, "leave", &["keys"]),
        ];
        for (action, name, fields) in actions {
            let intent = Intent { op: op(), at: 5, message_epoch: 7, action };
            let stored = mongodb::bson::serialize_to_document(&intent).unwrap();
            assert_eq!(stored.keys().collect::<Vec<_>>(), ["op", "at", "room", "act"]);
            let action = stored.get_document("act").unwrap();
            let found: Vec<_> = action.get_document(name).unwrap().keys().collect();
            assert_eq!(found, fields, "{name}");
        }
        for (dropped, name) in [
            (DroppedEpoch::Messages(5), "room"),
            (DroppedEpoch::Subscriptions(5), "hall"),
            (DroppedEpoch::Outbox(5), "life"),
        ] {
            assert_eq!(dropped.to_bson(), doc! { name: 5_i64 }.into());
            let stored = doc! { name: 5_i64 };
            let read: DroppedEpoch = mongodb::bson::deserialize_from_document(stored).unwrap();
            assert_eq!(read, dropped);
        }
    }

    #[test]
    fn an_intent_round_trips() {
        let intent = Intent {
            op: schema::random_id(),
            at: 5,
            message_epoch: 7,
            action: Action::Delete {
                positions: vec![1, 2],
                holders: Some(vec![schema::random_id()]),
            },
        };
        let stored = mongodb::bson::serialize_to_document(&intent).unwrap();
        let read: Intent = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(format!("{read:?}"), format!("{intent:?}"));
    }
}
