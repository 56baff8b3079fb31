//! Dead letters from each kind of store to each other.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use bytes::Bytes;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, DeadLetters, Guarded, Heads, ListQuery, Message,
    Messages, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey, QueueName,
    Timestamp, Version,
};
use zaqar_pooling::Pooled;

use crate::stores::{Deployment, POOLS};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const ASSUMED: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
/// More than one batch of letters.
const LETTERS: usize = 130;

fn queue(name: &str) -> QueueKey {
    let project = ProjectId::new("p").unwrap();
    QueueKey { project, kind: Kind::Queue, name: QueueName::new(name).unwrap() }
}

async fn post(pooled: &Pooled, key: &QueueKey, numbers: std::ops::Range<usize>, client: &str) {
    let message = |number: usize| NewMessage {
        payload: Payload::plain(Bytes::from(number.to_string())),
        ttl: 600,
        delay: 0,
    };
    let batch = Batch {
        request: rand::random(),
        client: ClientId::new(client),
        messages: numbers.map(message).collect(),
        notify: true,
    };
    let posted = pooled.post(key, ASSUMED, batch, NOW).await.unwrap();
    assert!(matches!(posted, Guarded::Done(_)), "{posted:?}");
}

async fn claim(pooled: &Pooled, key: &QueueKey, request: &ClaimRequest) -> Vec<Message> {
    match pooled.claim(key, ASSUMED, request, NOW).await.unwrap() {
        Guarded::Done(Claimed::Messages { messages, .. }) => messages,
        other => panic!("{other:?}"),
    }
}

async fn all(pooled: &Pooled, key: &QueueKey) -> Vec<Message> {
    let query = ListQuery {
        after: None,
        limit: 1000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    pooled.list(key, &query, NOW).await.unwrap().messages
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_from_each_kind_of_store_to_each_other() {
    let deployment = Deployment::open(&format!("crossing_{:016x}", rand::random::<u64>())).await;
    let pooled = &deployment.pooled;
    for pool in POOLS {
        deployment.prefer(pool).await;
        for role in ["source", "dead"] {
            for other in POOLS {
                let (from, to) = if role == "source" { (pool, other) } else { (other, pool) };
                let key = queue(&format!("{role}-{from}-{to}"));
                pooled.open(&key, ASSUMED, NOW).await.unwrap();
            }
        }
    }
    for from in POOLS {
        for to in POOLS {
            let (source, dead) =
                (queue(&format!("source-{from}-{to}")), queue(&format!("dead-{from}-{to}")));
            post(pooled, &source, 0..LETTERS / 2, "first").await;
            post(pooled, &source, LETTERS / 2..LETTERS, "second").await;
            let rule = DeadLetters {
                max_claim_count: 1,
                target: dead.clone(),
                generation: ASSUMED,
                ttl: None,
            };
            let request = || {
                let (id, dead_letters) = (ClaimId::new(rand::random()), Some(rule.clone()));
                ClaimRequest { grace: 60, dead_letters, ..ClaimRequest::new(id, 60, LETTERS) }
            };
            let first = request();
            assert_eq!(claim(pooled, &source, &first).await.len(), LETTERS, "{from} to {to}");
            pooled.claim_release(&source, first.id, NOW).await.unwrap();
            // A store may move many in several steps.
            while !all(pooled, &source).await.is_empty() {
                assert_eq!(claim(pooled, &source, &request()).await, [], "{from} to {to}");
            }
            let letters = all(pooled, &dead).await;
            let seen: Vec<_> = letters
                .iter()
                .map(|one| {
                    let text = String::from_utf8(one.payload.bytes.to_vec()).unwrap();
                    // The time in transfer counts towards the ttl.
                    let ttl = if (500..=600).contains(&one.ttl) { 600 } else { one.ttl };
                    (text, one.client.as_str().to_owned(), one.claim_count, ttl)
                })
                .collect();
            let expected: Vec<_> = (0..LETTERS)
                .map(|number| {
                    let client = if number < LETTERS / 2 { "first" } else { "second" };
                    (number.to_string(), client.to_owned(), 0, 600)
                })
                .collect();
            assert_eq!(seen, expected, "{from} to {to}");
        }
    }
}
