//! Collections, indexes, and the encoding of names and ids.
//!
//! Numbers are 64-bit integers; unsigned ones are stored with the same bits. Times are in
//! milliseconds, except those with a TTL index, which are dates.

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

/// The maximum size of a caller's data in one document, in bytes: MongoDB's limit minus our
/// overhead.
pub(crate) const MAX_DOCUMENT: usize = (16 << 20) - (64 << 10);
/// The maximum number of documents and bytes of one write command, so that none takes long.
pub(crate) const CHUNK_DOCUMENTS: usize = 1000;
pub(crate) const CHUNK_BYTES: usize = 8 << 20;

/// The storage format. A release with another format does not start.
pub(crate) const FORMAT: i32 = 2;

/// The original uses none of these names.
pub(crate) const FORMATS: &str = "store_format";
pub(crate) const ROWS: &str = "queue_rows";
pub(crate) const HEADS: &str = "queue_heads";
pub(crate) const MESSAGES: &str = "queue_messages";
pub(crate) const CLAIMS: &str = "queue_claims";
pub(crate) const SUBSCRIPTIONS: &str = "queue_subscriptions";
pub(crate) const OUTBOX: &str = "queue_outbox";
pub(crate) const LEASES: &str = "queue_leases";

/// The field of messages of internal queues.
pub(crate) const INTERNAL: &str = "own";

/// The index of leased outbox entries by position.
pub(crate) const LEASED: &str = "leased";
/// The index of messages by position.
pub(crate) const BY_POSITION: &str = "place_expiry";
/// The index of subscriptions by lease and id.
pub(crate) const BY_LEASE: &str = "leased";
/// The index of subscriptions with an address by id.
pub(crate) const RECIPIENTS: &str = "recipients";
/// The index of messages by state and position.
pub(crate) const BY_STATE: &str = "state_expiry";

/// The TTL indexes delete documents this much later than our sweeps.
const TTL_INDEX_LAG: Duration = Duration::from_secs(3600);
/// How long documents that were written for an intent are kept if it is not committed.
const DRAFT_TTL: Duration = Duration::from_secs(24 * 3600);
/// An intent cannot be committed later than this after its start. Shorter than [`DRAFT_TTL`] by
/// more than clocks differ.
const COMMIT_WITHIN: Duration = Duration::from_secs(12 * 3600);
/// How far positions advance per millisecond without posts.
const POSITIONS_PER_MS: i64 = 1000;
/// The latest stored date, 1 January 9998. Not every tool supports later ones.
const LAST_DATE: i64 = 253_339_228_800_000;

/// Every collection and its indexes, in addition to the one on `_id`.
pub(crate) fn indexes() -> Vec<(&'static str, Vec<IndexModel>)> {
    let plain = |name: &str, keys| index(name, keys, IndexOptions::default());
    let sparse = |name: &str, keys| index(name, keys, sparse());
    // Partial: only documents with this field.
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
                // For news; for abandoned intents; for dropped epochs.
                plain("posted", doc! { "posted": 1 }),
                plain("todo", doc! { "todo.at": 1 }),
                sparse("garbage", doc! { "garbage": 1 }),
                // For queues whose last subscription without a lease has expired.
                plain("subscribed", doc! { "subscribed": 1 }),
                // For a walk over all queues.
                plain("life", doc! { "life": 1 }),
            ],
        ),
        (
            MESSAGES,
            vec![
                // Sparse: a message that is not committed yet has none of these fields. With the
                // expiry, so that expired messages that are not swept yet are not fetched.
                sparse(BY_POSITION, doc! { "h": 1, "n": 1, "x": 1 }),
                sparse(BY_STATE, doc! { "h": 1, "s": 1, "n": 1, "x": 1 }),
                having("due_in_queue", doc! { "h": 1, "t": 1 }, "t"),
                sparse("due", doc! { "t": 1 }),
                ttl_index("expires", "x"),
            ],
        ),
        (
            CLAIMS,
            vec![
                plain("over", doc! { "h": 1, "live": 1, "e": 1 }),
                // Not a TTL index: the messages of a claim must be freed with it.
                sparse("due", doc! { "e": 1 }),
                ttl_index("unused", "x"),
            ],
        ),
        (
            SUBSCRIPTIONS,
            vec![
                plain("subscriber", doc! { "hall": 1, "subscriber": 1 }),
                plain("last", doc! { "hall": 1, "leased": 1, "e": 1 }),
                // Covers the query of a server that pushes.
                having(
                    BY_LEASE,
                    doc! { "lease": 1, "_id": 1, "counts": 1, "e": 1, "since": 1, "ttl": 1 },
                    "lease",
                ),
                // Covers the query of a worker that gives each a delivery.
                plain(
                    RECIPIENTS,
                    doc! { "hall": 1, "leased": 1, "_id": 1, "counts": 1, "e": 1, "confirmed": 1 },
                ),
                ttl_index("expires", "e"),
            ],
        ),
        (
            OUTBOX,
            vec![
                sparse("first", doc! { "life": 1, "first": 1 }),
                // Only open entries, so that entries that can only be followed are not scanned.
                having("open", doc! { "life": 1, "first": 1, "due": 1 }, "due"),
                having(LEASED, doc! { "life": 1, "first": 1, "leased_until": 1 }, "leased_until"),
                sparse("due", doc! { "due": 1 }),
                sparse("ends", doc! { "ends": 1 }),
                ttl_index("expires", "x"),
            ],
        ),
        (LEASES, vec![sparse("until", doc! { "until": 1 }), ttl_index("forgotten", "x")]),
    ]
}

fn index(name: &str, keys: Document, mut options: IndexOptions) -> IndexModel {
    options.name = Some(name.to_owned());
    IndexModel::builder().keys(keys).options(options).build()
}

fn sparse() -> IndexOptions {
    IndexOptions::builder().sparse(true).build()
}

fn ttl_index(name: &str, date: &str) -> IndexModel {
    index(name, doc! { date: 1 }, IndexOptions::builder().expire_after(TTL_INDEX_LAG).build())
}

/// The id of a queue's row and head: kind, name and project. Kind and name contain no slash.
pub(crate) fn queue_id(key: &QueueKey) -> String {
    format!("{}/{}/{}", key.kind.as_str(), key.name, key.project)
}

/// Parses the output of [`queue_id`].
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

/// The id of a post: its request id mixed with the queue and the assumed generation. The content
/// may depend on these, so with other values it is another post.
pub(crate) fn post_id(queue: &str, assumed: Generation, request: u128) -> [u8; 16] {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, queue, assumed).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (request ^ (half(0) << 64 | half(1))).to_be_bytes()
}

/// The keys of a post's messages.
pub(crate) fn message_keys(post: &[u8], count: u32) -> Vec<Binary> {
    (0..count).map(|number| message_key(post, number)).collect()
}

/// The key of a post's message by its index.
pub(crate) fn message_key(post: &[u8], number: u32) -> Binary {
    binary([post, &number.to_be_bytes()].concat())
}

/// The index in the output of [`message_key`].
pub(crate) fn message_index(id: &Binary) -> Option<u32> {
    id.bytes.last_chunk().map(|number| u32::from_be_bytes(*number))
}

/// The key of a claim's document.
pub(crate) fn claim_key(message_epoch: i64, claim: &Binary) -> Binary {
    binary([&message_epoch.to_be_bytes(), claim.bytes.as_slice()].concat())
}

pub(crate) fn claim_bits(id: ClaimId) -> Binary {
    binary(id.get().to_be_bytes().to_vec())
}

pub(crate) fn claim_id(bits: &Binary) -> Option<ClaimId> {
    bits.bytes.as_slice().try_into().ok().map(u128::from_be_bytes).map(ClaimId::new)
}

/// The key of a lease's document.
pub(crate) fn lease_bits(id: LeaseId) -> Binary {
    binary(id.get().to_be_bytes().to_vec())
}

pub(crate) fn lease_id(bits: &Binary) -> Option<LeaseId> {
    bits.bytes.as_slice().try_into().ok().map(u128::from_be_bytes).map(LeaseId::new)
}

/// The key of a subscription's document: those of an epoch are a range, ordered by id.
pub(crate) fn subscription_key(subscription_epoch: i64, id: SubscriptionId) -> Binary {
    binary([subscription_epoch.to_be_bytes().as_slice(), &id.get().to_be_bytes()].concat())
}

/// The subscription id in the output of [`subscription_key`].
pub(crate) fn subscription_id(key: &Binary) -> Option<SubscriptionId> {
    key.bytes.last_chunk().map(|bits| SubscriptionId::new(u128::from_be_bytes(*bits)))
}

/// The range of the keys of 24 bytes that begin with an epoch: from the first value to before the
/// second. Binaries are ordered by length first, so the bounds are as long as the keys.
pub(crate) fn key_range(position: i64) -> (Binary, Binary) {
    let first = |position: u64| binary([position.to_be_bytes().as_slice(), &[0; 16]].concat());
    let position = position.cast_unsigned();
    (first(position), first(position.wrapping_add(1)))
}

pub(crate) const fn binary(bytes: Vec<u8>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes }
}

/// A random epoch. Never negative, never the largest number.
pub(crate) fn new_epoch() -> i64 {
    (rand::random::<u64>() >> 2).cast_signed()
}

/// A random id for an intent, a claim or a call.
pub(crate) fn random_id() -> Binary {
    binary(rand::random::<u128>().to_be_bytes().to_vec())
}

pub(crate) const fn generation(incarnation: i64, version: i64) -> Generation {
    Generation {
        incarnation: Incarnation::new(incarnation.cast_unsigned()),
        version: Version::new(version.cast_unsigned()),
    }
}

pub(crate) const fn message_id(incarnation: Incarnation, position: i64) -> MessageId {
    MessageId { incarnation, position: Position::new(position.cast_unsigned()) }
}

/// The first position of a post at a time: after all assigned positions, and not before the clock,
/// so that a store that lost its last writes does not reuse a position.
pub(crate) fn first_position(at: &Bson) -> Document {
    // The product of a larger number would become a floating-point number.
    let millis = doc! { "$min": [at.clone(), i64::MAX / POSITIONS_PER_MS / 2] };
    doc! { "$max": ["$next", { "$multiply": [millis, POSITIONS_PER_MS] }] }
}

/// A condition that holds if the database's clock differs from this time by at most `bound`.
pub(crate) fn clocks_agree(now: i64, bound: i64) -> Document {
    doc! { "$lte": [{ "$abs": { "$subtract": [{ "$toLong": "$$NOW" }, now] } }, bound] }
}

/// The value that a change stream reports for a post: incarnation and last position.
pub(crate) fn news(last: Document) -> Document {
    doc! { "$concat": [{ "$toString": "$incarnation" }, ":", { "$toString": last }] }
}

/// Parses the output of [`news`].
pub(crate) fn read_news(news: &str) -> Option<(i64, i64)> {
    let (incarnation, last) = news.split_once(':')?;
    Some((incarnation.parse().ok()?, last.parse().ok()?))
}

/// A number of seconds or a count, to be stored.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) const fn millis(time: Timestamp) -> i64 {
    time.as_millis().cast_signed()
}

/// A duration in milliseconds.
pub(crate) fn duration_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A time in milliseconds plus seconds.
pub(crate) fn plus_secs(from: i64, seconds: i64) -> i64 {
    from.saturating_add(seconds.saturating_mul(1000))
}

/// When documents that were written for an intent are deleted if it is not committed.
pub(crate) fn draft_expiry(now: i64) -> DateTime {
    date(now.saturating_add(duration_millis(DRAFT_TTL)))
}

/// The time of the database's clock until which an intent can be committed. The documents of a
/// writer that was stopped for longer may have been deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommitDeadline(i64);

impl CommitDeadline {
    /// The deadline of an intent that starts now.
    pub(crate) fn new() -> Self {
        Self(DateTime::now().timestamp_millis().saturating_add(duration_millis(COMMIT_WITHIN)))
    }

    /// A deadline that has passed.
    #[cfg(test)]
    pub(crate) fn past() -> Self {
        Self(DateTime::now().timestamp_millis())
    }

    pub(crate) const fn has_passed(self, now: DateTime) -> bool {
        now.timestamp_millis() >= self.0
    }

    /// A condition that holds until the deadline.
    pub(crate) fn condition(self) -> Document {
        doc! { "$lt": [{ "$toLong": "$$NOW" }, self.0] }
    }
}

/// A time as a date, for a TTL index.
pub(crate) fn date(millis: i64) -> DateTime {
    DateTime::from_millis(millis.min(LAST_DATE))
}

/// A ttl in milliseconds, limited so that the expiry is before the latest date for some centuries.
pub(crate) fn lifetime(seconds: i64) -> i64 {
    seconds.saturating_mul(1000).min(LAST_DATE / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_ids_round_trip() {
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
    fn a_key_range_contains_exactly_the_keys_of_its_epoch() {
        let (first, last) = key_range(7);
        let key = |subscription_epoch, id| {
            subscription_key(subscription_epoch, SubscriptionId::new(id)).bytes
        };
        for id in [0, 1, u128::MAX] {
            assert!(first.bytes <= key(7, id) && key(7, id) < last.bytes);
            assert!(key(6, id) < first.bytes && key(8, id) >= last.bytes);
            assert_eq!(key(7, id).len(), first.bytes.len());
        }
    }

    #[test]
    fn requests_with_different_assumptions_are_different_posts() {
        let id = post_id("queue/q/p", generation(1, 1), 5);
        assert_eq!(id, post_id("queue/q/p", generation(1, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(2, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(1, 2), 5));
        assert_ne!(id, post_id("queue/r/p", generation(1, 1), 5));
        assert_ne!(id, post_id("queue/q/p", generation(1, 1), 6));
    }
}
