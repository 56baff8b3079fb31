//! Collections, their indexes, and how names and ids are written.
//!
//! Numbers are 64-bit integers; those that are unsigned here are kept with their bits. Times are
//! milliseconds, except for those that a TTL index looks at: these are dates.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::IndexOptions;
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, LeaseId, MessageId, Position, ProjectId, QueueKey,
    QueueName, SubscriptionId, Timestamp, Version,
};

/// The most bytes that a document of a caller's may have: what MongoDB allows, less what we add.
pub(crate) const MAX_DOCUMENT: usize = (16 << 20) - (64 << 10);
/// Documents, and bytes, that one command writes: so that none takes long.
pub(crate) const PIECE: usize = 1000;
pub(crate) const PIECE_BYTES: usize = 8 << 20;

/// The format of what is stored. A release that cannot read it refuses to start.
pub(crate) const FORMAT: i32 = 2;

/// The original has none of these names.
pub(crate) const FORMATS: &str = "store_format";
pub(crate) const ROWS: &str = "queue_rows";
pub(crate) const HEADS: &str = "queue_heads";
pub(crate) const MESSAGES: &str = "queue_messages";
pub(crate) const CLAIMS: &str = "queue_claims";
pub(crate) const SUBSCRIPTIONS: &str = "queue_subscriptions";
pub(crate) const OUTBOX: &str = "queue_outbox";
pub(crate) const LEASES: &str = "queue_leases";

/// A message by its queue and place.
pub(crate) const BY_PLACE: &str = "place_expiry";
/// The subscriptions on a lease, by id.
pub(crate) const BY_LEASE: &str = "leased";
/// The messages of one state, by place.
pub(crate) const BY_STATE: &str = "state_expiry";

/// The server's own collector comes this much later than our sweep.
const COLLECTOR_LAG: Duration = Duration::from_secs(3600);
/// What was written for a step stays this long if the step is not decided.
const DRAFT_KEPT: Duration = Duration::from_secs(24 * 3600);
/// A step is not decided later than this after it was begun. Shorter than [`DRAFT_KEPT`] by more
/// than clocks differ.
const DRAFT_TAKEN: Duration = Duration::from_secs(12 * 3600);
/// Positions that pass in a millisecond where nothing is posted.
const POSITIONS: i64 = 1000;
/// No date is later: 1 January 9998. Not every tool reads later ones.
const LAST_DATE: i64 = 253_339_228_800_000;

/// Every collection and its indexes, beside the one on `_id` that each has.
pub(crate) fn indexes() -> Vec<(&'static str, Vec<IndexModel>)> {
    let plain = |name: &str, keys| index(name, keys, IndexOptions::default());
    let sparse = |name: &str, keys| index(name, keys, sparse());
    // Of documents that have this field.
    let having = |name: &str, keys, field: &str| {
        let mut options = IndexOptions::default();
        options.partial_filter_expression = Some(doc! { field: { "$exists": true } });
        index(name, keys, options)
    };
    vec![
        (ROWS, vec![plain("name", doc! { "project": 1, "kind": 1, "name": 1 })]),
        (
            HEADS,
            vec![
                // Of posts, for news; of steps that were begun, for the sweep; of rooms that are to
                // be cleared.
                plain("posted", doc! { "posted": 1 }),
                plain("todo", doc! { "todo.at": 1 }),
                sparse("garbage", doc! { "garbage": 1 }),
                // Of the last subscription without a lease: then outbox entries end.
                plain("subscribed", doc! { "subscribed": 1 }),
            ],
        ),
        (
            MESSAGES,
            vec![
                // Sparse: a message that was not committed yet has none of these fields.
                // With the expiry: what has expired and waits to be swept is not fetched.
                sparse(BY_PLACE, doc! { "h": 1, "n": 1, "x": 1 }),
                sparse(BY_STATE, doc! { "h": 1, "s": 1, "n": 1, "x": 1 }),
                having("due_in_queue", doc! { "h": 1, "t": 1 }, "t"),
                sparse("due", doc! { "t": 1 }),
                collected("expires", "x"),
            ],
        ),
        (
            CLAIMS,
            vec![
                plain("over", doc! { "h": 1, "live": 1, "e": 1 }),
                // Not collected: what a claim holds is freed with it.
                sparse("due", doc! { "e": 1 }),
                collected("unused", "x"),
            ],
        ),
        (
            SUBSCRIPTIONS,
            vec![
                plain("subscriber", doc! { "hall": 1, "subscriber": 1 }),
                plain("last", doc! { "hall": 1, "leased": 1, "e": 1 }),
                // Covers what a server that pushes asks for.
                having(
                    BY_LEASE,
                    doc! { "lease": 1, "_id": 1, "counts": 1, "e": 1, "since": 1, "ttl": 1 },
                    "lease",
                ),
                collected("expires", "e"),
            ],
        ),
        (
            OUTBOX,
            vec![
                sparse("first", doc! { "life": 1, "first": 1 }),
                // Of open ones: what can only be followed does not stand before them.
                having("open", doc! { "life": 1, "first": 1, "due": 1 }, "due"),
                sparse("due", doc! { "due": 1 }),
                sparse("ends", doc! { "ends": 1 }),
                collected("expires", "x"),
            ],
        ),
        (LEASES, vec![sparse("until", doc! { "until": 1 }), collected("forgotten", "x")]),
    ]
}

fn index(name: &str, keys: Document, mut options: IndexOptions) -> IndexModel {
    options.name = Some(name.to_owned());
    IndexModel::builder().keys(keys).options(options).build()
}

fn sparse() -> IndexOptions {
    IndexOptions::builder().sparse(true).build()
}

fn collected(name: &str, date: &str) -> IndexModel {
    index(name, doc! { date: 1 }, IndexOptions::builder().expire_after(COLLECTOR_LAG).build())
}

/// The id of a queue's documents: kind, name and project. Neither of the first two has a slash.
pub(crate) fn queue_id(key: &QueueKey) -> String {
    format!("{}/{}/{}", key.kind.as_str(), key.name, key.project)
}

/// Reads what [`queue_id`] wrote.
pub(crate) fn queue_key(id: &str) -> Option<QueueKey> {
    let (kind, rest) = id.split_once('/')?;
    let (name, project) = rest.split_once('/')?;
    let kind = match kind {
        "queue" => Kind::Queue,
        "topic" => Kind::Topic,
        "internal" => Kind::Internal,
        _ => return None,
    };
    Some(QueueKey {
        project: ProjectId::new(project).ok()?,
        kind,
        name: QueueName::new(name).ok()?,
    })
}

/// Names a post: its request, mixed with the queue and the generation that it assumes. What is
/// posted may depend on these, so with others it is another post.
pub(crate) fn post_id(queue: &str, assumed: Generation, request: u128) -> [u8; 16] {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, queue, assumed).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (request ^ (half(0) << 64 | half(1))).to_be_bytes()
}

/// The ids of a post's messages.
pub(crate) fn message_ids(post: &[u8], count: u32) -> Vec<Binary> {
    (0..count).map(|number| message_id(post, number)).collect()
}

/// The id of a post's message by its number.
pub(crate) fn message_id(post: &[u8], number: u32) -> Binary {
    binary([post, &number.to_be_bytes()].concat())
}

/// The number that [`message_id`] wrote.
pub(crate) fn message_number(id: &Binary) -> Option<u32> {
    id.bytes.last_chunk().map(|number| u32::from_be_bytes(*number))
}

/// The id of a claim's document.
pub(crate) fn claim_key(room: i64, claim: &Binary) -> Binary {
    binary([&room.to_be_bytes(), claim.bytes.as_slice()].concat())
}

pub(crate) fn claim_bits(id: ClaimId) -> Binary {
    binary(id.get().to_be_bytes().to_vec())
}

pub(crate) fn claim_id(bits: &Binary) -> Option<ClaimId> {
    bits.bytes.as_slice().try_into().ok().map(u128::from_be_bytes).map(ClaimId::new)
}

/// The id of a lease's document.
pub(crate) fn lease_bits(id: LeaseId) -> Binary {
    binary(id.get().to_be_bytes().to_vec())
}

pub(crate) fn lease_id(bits: &Binary) -> Option<LeaseId> {
    bits.bytes.as_slice().try_into().ok().map(u128::from_be_bytes).map(LeaseId::new)
}

/// The id of a subscription's document: all of a hall are a range, in the order of their ids.
pub(crate) fn subscription_key(hall: i64, id: SubscriptionId) -> Binary {
    binary([hall.to_be_bytes().as_slice(), &id.get().to_be_bytes()].concat())
}

/// The subscription that [`subscription_key`] named.
pub(crate) fn subscription_id(key: &Binary) -> Option<SubscriptionId> {
    key.bytes.last_chunk().map(|bits| SubscriptionId::new(u128::from_be_bytes(*bits)))
}

/// The ids of 24 bytes that begin with a room or hall are from the first of these to before the
/// second. Binaries of different lengths are ordered by length, so these are as long as the ids.
pub(crate) fn bounds(place: i64) -> (Binary, Binary) {
    let first = |place: u64| binary([place.to_be_bytes().as_slice(), &[0; 16]].concat());
    let place = place.cast_unsigned();
    (first(place), first(place.wrapping_add(1)))
}

pub(crate) const fn binary(bytes: Vec<u8>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes }
}

/// A new name for a room, a hall or a life. Never negative, never the greatest number.
pub(crate) fn fresh() -> i64 {
    (rand::random::<u64>() >> 2).cast_signed()
}

/// A new name for a step.
pub(crate) fn fresh_op() -> Binary {
    binary(rand::random::<u128>().to_be_bytes().to_vec())
}

pub(crate) const fn generation(incarnation: i64, version: i64) -> Generation {
    Generation {
        incarnation: Incarnation::new(incarnation.cast_unsigned()),
        version: Version::new(version.cast_unsigned()),
    }
}

pub(crate) const fn place(incarnation: Incarnation, position: i64) -> MessageId {
    MessageId { incarnation, position: Position::new(position.cast_unsigned()) }
}

/// The first position of what is posted at a time: behind all that was given before, and not before
/// the clock, so that a store which lost its last writes gives none of them again.
pub(crate) fn first_position(at: &Bson) -> Document {
    // Where it is multiplied, a greater number would become a floating one.
    let millis = doc! { "$min": [at.clone(), i64::MAX / POSITIONS / 2] };
    doc! { "$max": ["$next", { "$multiply": [millis, POSITIONS] }] }
}

/// A condition that holds while the database's clock is no further than `bound` from this time.
pub(crate) fn clocks_agree(now: i64, bound: i64) -> Document {
    doc! { "$lte": [{ "$abs": { "$subtract": [{ "$toLong": "$$NOW" }, now] } }, bound] }
}

/// What a change stream tells of a post without reading the head: incarnation and last position.
pub(crate) fn news(last: Document) -> Document {
    doc! { "$concat": [{ "$toString": "$incarnation" }, ":", { "$toString": last }] }
}

/// Reads what [`news`] wrote.
pub(crate) fn read_news(news: &str) -> Option<(i64, i64)> {
    let (incarnation, last) = news.split_once(':')?;
    Some((incarnation.parse().ok()?, last.parse().ok()?))
}

/// A number to keep of seconds or counts.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) const fn millis(time: Timestamp) -> i64 {
    time.as_millis().cast_signed()
}

/// A span in milliseconds.
pub(crate) fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Seconds later, in milliseconds.
pub(crate) fn later(from: i64, seconds: i64) -> i64 {
    from.saturating_add(seconds.saturating_mul(1000))
}

/// When what was written for a step is collected if the step is not decided.
pub(crate) fn draft_end(now: i64) -> DateTime {
    date(now.saturating_add(span(DRAFT_KEPT)))
}

/// A time of the database's clock before which a step is decided or never: a writer that was
/// stopped for longer may find that what it has written was collected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence(i64);

impl Fence {
    /// For what is begun now.
    pub(crate) fn new() -> Self {
        Self(DateTime::now().timestamp_millis().saturating_add(span(DRAFT_TAKEN)))
    }

    /// One that has come.
    #[cfg(test)]
    pub(crate) fn past() -> Self {
        Self(DateTime::now().timestamp_millis())
    }

    pub(crate) const fn has_come(self, now: DateTime) -> bool {
        now.timestamp_millis() >= self.0
    }

    /// A condition that does not hold once it has come.
    pub(crate) fn condition(self) -> Document {
        doc! { "$lt": [{ "$toLong": "$$NOW" }, self.0] }
    }
}

/// A time that a TTL index looks at.
pub(crate) fn date(millis: i64) -> DateTime {
    DateTime::from_millis(millis.min(LAST_DATE))
}

/// Milliseconds of a life, short enough to end before the last date whenever it begins within some
/// centuries.
pub(crate) fn lifetime(seconds: i64) -> i64 {
    seconds.saturating_mul(1000).min(LAST_DATE / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_reads_back() {
        for project in ["p", "a/b", "queue/x/y", "ü€", "$p", "."] {
            for kind in [Kind::Queue, Kind::Topic, Kind::Internal] {
                let key = QueueKey {
                    project: ProjectId::new(project).unwrap(),
                    kind,
                    name: QueueName::new("n.a-m_e").unwrap(),
                };
                assert_eq!(queue_key(&queue_id(&key)), Some(key));
            }
        }
    }

    #[test]
    fn bounds_hold_every_id_of_a_place_and_no_other() {
        let (first, last) = bounds(7);
        let key = |hall, id| subscription_key(hall, SubscriptionId::new(id)).bytes;
        for id in [0, 1, u128::MAX] {
            assert!(first.bytes <= key(7, id) && key(7, id) < last.bytes);
            assert!(key(6, id) < first.bytes && key(8, id) >= last.bytes);
            assert_eq!(key(7, id).len(), first.bytes.len());
        }
    }

    #[test]
    fn one_request_under_two_assumptions_is_two_posts() {
        let id = post_id("queue/q/p", generation(1, 1), 5);
        assert_eq!(id, post_id("queue/q/p", generation(1, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(2, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(1, 2), 5));
        assert_ne!(id, post_id("queue/r/p", generation(1, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(1, 1), 6));
    }
}
