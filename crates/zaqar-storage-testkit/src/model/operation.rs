//! Operations, and strategies that generate them.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// One operation. Queues, messages and claims are given by numbers, which select among those that
/// exist or existed, so that any list of operations is valid, and so is any part of it. For
/// messages and claims, 0 is the latest.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the arguments of the storage method of that name")]
pub enum Op {
    /// Posts a batch.
    Post { queue: usize, client: u8, messages: Vec<New> },
    /// Posts with a version that is not the head's.
    PostStale { queue: usize },
    /// Follows a listing to its end.
    List {
        queue: usize,
        after: Option<usize>,
        limit: usize,
        hide: Option<u8>,
        claimed: bool,
        delayed: bool,
    },
    /// Reads by id.
    Get { queue: usize, ids: Vec<usize> },
    /// Deletes a message.
    Delete { queue: usize, id: usize, claim: Option<usize> },
    /// Deletes several messages: any, or only those that these claims hold.
    DeleteMany { queue: usize, ids: Vec<usize>, claims: Option<Vec<usize>> },
    /// Pops messages that are plain or sealed with one of these keys.
    Pop { queue: usize, limit: usize, keys: Vec<u8> },
    /// Purges.
    Purge { queue: usize },
    /// Claims messages that are plain or sealed with one of these keys; `None` for any key.
    Claim {
        queue: usize,
        limit: usize,
        ttl: u64,
        grace: u64,
        keys: Option<Vec<u8>>,
        dead_letters: Option<DeadLetterRule>,
    },
    /// Renews.
    Renew { queue: usize, claim: usize, ttl: u64, grace: u64 },
    /// Releases.
    Release { queue: usize, claim: usize },
    /// Raises the version of a head.
    Advance { queue: usize },
    /// Closes a head.
    Close { queue: usize },
    /// Opens a head with a new incarnation, if there is none.
    Open { queue: usize },
    /// Subscribes for `ttl` seconds, on the live lease or with an address.
    Subscribe { queue: usize, subscriber: u8, ttl: u64, is_on_lease: bool },
    /// Changes a subscription.
    ChangeSubscription {
        queue: usize,
        subscription: usize,
        subscriber: Option<u8>,
        ttl: Option<u64>,
    },
    /// Removes a subscription.
    Unsubscribe { queue: usize, subscription: usize },
    /// Removes all subscriptions.
    UnsubscribeAll { queue: usize },
    /// Leases outbox entries, for seconds.
    LeaseEntries { queue: usize, limit: usize, secs: u64 },
    /// Settles the outbox entry that begins with a message.
    Settle { queue: usize, id: usize },
    /// Extends the lease that subscriptions depend on, to `secs` from now.
    KeepLease { secs: u64 },
    /// Ends that lease, sweeps, and creates another.
    EndLease,
    /// Advances the clock by milliseconds, then sweeps.
    Pass { millis: u64 },
    /// Shuts the store down and opens it again, if it is durable.
    Restart,
}

/// A message to post.
#[derive(Debug, Clone, Copy)]
pub struct New {
    /// Its ttl in seconds.
    pub ttl: u64,
    /// Seconds until it is available.
    pub delay: u64,
    /// The number of the key that seals it.
    pub key: Option<u8>,
}

/// A dead-letter rule; the target is the next queue.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetterRule {
    /// Claims after which a message is moved.
    pub max_claim_count: u32,
    /// Its ttl there, in seconds.
    pub ttl: Option<u64>,
}

/// Lists of at most `max` operations: on messages and claims, or also on subscriptions and the
/// outbox.
pub fn operations(max: usize) -> impl Strategy<Value = Vec<Op>> {
    let followed = prop_oneof![operation(), subscribers()];
    prop_oneof![3 => vec(operation(), 1..=max), 2 => vec(followed, 1..=max)]
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => post(),
        1 => queue().prop_map(|queue| Op::PostStale { queue }),
        3 => list(),
        1 => (queue(), vec(any_of(), 0..6)).prop_map(|(queue, ids)| Op::Get { queue, ids }),
        3 => (queue(), any_of(), option::of(any_of()))
            .prop_map(|(queue, id, claim)| Op::Delete { queue, id, claim }),
        2 => (queue(), vec(any_of(), 0..6), option::of(vec(any_of(), 0..3)))
            .prop_map(|(queue, ids, claims)| Op::DeleteMany { queue, ids, claims }),
        2 => (queue(), 1usize..5, vec(0..2u8, 0..3))
            .prop_map(|(queue, limit, keys)| Op::Pop { queue, limit, keys }),
        1 => queue().prop_map(|queue| Op::Purge { queue }),
        8 => claim(),
        2 => (queue(), any_of(), claim_ttl(), grace())
            .prop_map(|(queue, claim, ttl, grace)| Op::Renew { queue, claim, ttl, grace }),
        4 => (queue(), any_of()).prop_map(|(queue, claim)| Op::Release { queue, claim }),
        1 => queue().prop_map(|queue| Op::Advance { queue }),
        1 => queue().prop_map(|queue| Op::Close { queue }),
        1 => queue().prop_map(|queue| Op::Open { queue }),
        5 => pass(),
        1 => Just(Op::Restart),
    ]
}

/// Operations on subscriptions, leases and the outbox.
fn subscribers() -> impl Strategy<Value = Op> {
    let subscription_ttl = || prop_oneof![Just(60u64), Just(120), Just(3600)];
    let lease = || prop_oneof![Just(60u64), Just(500)];
    prop_oneof![
        4 => (queue(), 0..3u8, subscription_ttl(), any::<bool>()).prop_map(
            |(queue, subscriber, ttl, is_on_lease)| Op::Subscribe {
                queue,
                subscriber,
                ttl,
                is_on_lease,
            },
        ),
        2 => (queue(), 0..4usize, option::of(0..3u8), option::of(subscription_ttl())).prop_map(
            |(queue, subscription, subscriber, ttl)| Op::ChangeSubscription {
                queue,
                subscription,
                subscriber,
                ttl,
            },
        ),
        1 => (queue(), 0..4usize)
            .prop_map(|(queue, subscription)| Op::Unsubscribe { queue, subscription }),
        1 => queue().prop_map(|queue| Op::UnsubscribeAll { queue }),
        3 => (queue(), 1usize..4, lease())
            .prop_map(|(queue, limit, secs)| Op::LeaseEntries { queue, limit, secs }),
        3 => (queue(), any_of()).prop_map(|(queue, id)| Op::Settle { queue, id }),
        1 => lease().prop_map(|secs| Op::KeepLease { secs }),
        1 => Just(Op::EndLease),
    ]
}

fn post() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![Just(3600), Just(60), Just(61), Just(120), Just(600)];
    let delay = prop_oneof![3 => Just(0), 1 => Just(30), 1 => Just(60), 1 => Just(200)];
    let key = prop_oneof![4 => Just(None), 1 => (0..2u8).prop_map(Some)];
    let new = (ttl, delay, key).prop_map(|(ttl, delay, key)| New { ttl, delay, key });
    (queue(), 0..3u8, vec(new, 1..5)).prop_map(|(queue, client, messages)| Op::Post {
        queue,
        client,
        messages,
    })
}

fn list() -> impl Strategy<Value = Op> {
    let flags = (any::<bool>(), any::<bool>());
    (queue(), option::of(any_of()), 1usize..5, option::of(0..3u8), flags).prop_map(
        |(queue, after, limit, hide, (claimed, delayed))| Op::List {
            queue,
            after,
            limit,
            hide,
            claimed,
            delayed,
        },
    )
}

fn claim() -> impl Strategy<Value = Op> {
    let rule = (1..4u32, option::of(prop_oneof![Just(60u64), Just(500u64)]))
        .prop_map(|(max_claim_count, ttl)| DeadLetterRule { max_claim_count, ttl });
    let keys = option::of(vec(0..2u8, 0..3));
    (queue(), 1usize..6, claim_ttl(), grace(), keys, option::of(rule)).prop_map(
        |(queue, limit, ttl, grace, keys, dead_letters)| Op::Claim {
            queue,
            limit,
            ttl,
            grace,
            keys,
            dead_letters,
        },
    )
}

/// Whole seconds or fifths of one, but never half a second, for which rounding a ttl would be
/// ambiguous.
fn pass() -> impl Strategy<Value = Op> {
    let millis = prop_oneof![
        1 => (1..=4u64).prop_map(|fifths| fifths * 200),
        3 => prop_oneof![Just(1u64), Just(30), Just(60), Just(100), 1..200u64]
            .prop_map(|secs| secs * 1000),
    ];
    millis.prop_map(|millis| Op::Pass { millis })
}

fn queue() -> impl Strategy<Value = usize> {
    // Mostly one queue, so that operations interact.
    prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2)]
}

/// Mostly a recent one, which is more likely to be live.
fn any_of() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0..4usize, 2 => 0..12usize, 1 => 0..80usize]
}

fn claim_ttl() -> impl Strategy<Value = u64> {
    prop_oneof![Just(60), Just(90), Just(300)]
}

fn grace() -> impl Strategy<Value = u64> {
    prop_oneof![Just(60), Just(400)]
}
