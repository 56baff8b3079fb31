//! Reads by plain commands (`src/direct.rs`) answer what the scripts answer.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claims, Deletable, Error, Guarded, ListQuery, Message, MessagePage,
    Messages, NewMessage, PopQuery,
};
use zaqar_core::{ClaimId, ClientId, Incarnation, MessageId, Timestamp};
use zaqar_storage_redis::{Options, Redis};

use crate::servers::Server;
use crate::support::{Queue, message, now, open, options, rand, texts};

/// Operations of one run, and runs.
const STEPS: usize = 120;
const RUNS: u64 = 6;

fn query(after: Option<MessageId>, limit: usize) -> ListQuery {
    ListQuery { after, limit, hide: None, include_claimed: false, include_delayed: false }
}

async fn list(queue: &Queue, query: &ListQuery) -> MessagePage {
    Messages::list(&queue.store, &queue.key, query, now()).await.expect("it answers")
}

/// Calls of commands whose names begin so.
fn calls(server: &Server, name: &str) -> u64 {
    let client = redis::Client::open(("127.0.0.1", server.port)).expect("an address");
    let mut connection = client.get_connection().expect("it accepts connections");
    let stats: String =
        redis::cmd("INFO").arg("commandstats").query(&mut connection).expect("it answers");
    let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    let name = format!("cmdstat_{name}");
    stats.lines().filter(|line| line.starts_with(&name)).filter_map(calls).sum()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn post_numbers(queue: &Queue, range: std::ops::Range<usize>) -> Vec<MessageId> {
    queue.try_post_new(range.map(|n| message(&n.to_string())).collect()).await.expect("stored")
}

#[tokio::test(flavor = "multi_thread")]
async fn usual_reads_call_no_script() {
    let server = Server::start(&[]);
    // No background work calls scripts within the test.
    let store = open(Options { news_poll: None, ..options(&server.uri()) }).await;
    let queue = Queue::new(&store, "q").await;
    // The first page of a queue is read by a script, as is the first one that is not empty.
    assert_eq!(list(&queue, &query(None, 10)).await, MessagePage::default());
    let before = calls(&server, "eval");
    assert_eq!(list(&queue, &query(None, 10)).await, MessagePage::default());
    assert_eq!(calls(&server, "eval"), before);
    let ids = post_numbers(&queue, 0..300).await;
    list(&queue, &query(None, 10)).await;

    // Each is one transaction, so that nothing changes between its commands; that of 200 are two.
    let (before, transactions) = (calls(&server, "eval"), calls(&server, "exec"));
    let all = [query(None, 10), query(Some(ids[99]), 200), query(Some(ids[295]), 10)];
    for (query, expected) in all.into_iter().zip([0..10, 100..300, 296..300]) {
        let page = list(&queue, &query).await;
        assert_eq!(page.next, Some(ids[expected.end - 1]));
        assert_eq!(texts(&page.messages), numbers(expected));
    }
    assert_eq!(list(&queue, &query(Some(ids[299]), 10)).await, MessagePage::default());
    for wanted in [&ids[7..8], &ids[250..260]] {
        let found = store.get(&queue.key, wanted, now()).await.expect("it answers");
        assert_eq!(found.iter().map(|message| message.id).collect::<Vec<_>>(), wanted);
    }
    assert_eq!((calls(&server, "eval"), calls(&server, "exec")), (before, transactions + 7));

    // A page begins where the first claim ended.
    queue.claim(20).await;
    let before = calls(&server, "eval");
    assert_eq!(texts(&list(&queue, &query(None, 3)).await.messages), numbers(20..23));
    assert_eq!(calls(&server, "eval"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_large_messages_are_read_in_slices() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    // A new connection leaves a gap: the first posts are deleted.
    for _ in 0..8 {
        let ids = queue.post(&["gap"]).await;
        store.delete_many(&queue.key, &ids, &Deletable::Any, now()).await.expect("it answers");
    }
    let text = "x".repeat(60 << 10);
    for _ in 0..30 {
        queue.post(&[text.as_str()]).await;
    }
    let mut reads = Vec::new();
    for _ in 0..2 {
        let before = calls(&server, "time");
        assert_eq!(list(&queue, &query(None, 20)).await.messages.len(), 20);
        reads.push(calls(&server, "time") - before);
    }
    // A slice of three messages, and others of five.
    assert_eq!(reads[1], 5, "{reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_told() {
    let server = Server::start(&[]);
    let bound = std::time::Duration::from_secs(30);
    let store = open(Options { max_clock_skew: Some(bound), ..options(&server.uri()) }).await;
    let queue = Queue::new(&store, "q").await;
    let ids = post_numbers(&queue, 0..20).await;
    for _ in 0..2 {
        list(&queue, &query(None, 10)).await;
    }
    let wrong = now().plus_secs(60);
    let listed = Messages::list(&store, &queue.key, &query(None, 10), wrong).await;
    assert!(matches!(listed, Err(Error::ClockSkew { .. })), "{listed:?}");
    let found = store.get(&queue.key, &ids[..1], wrong).await;
    assert!(matches!(found, Err(Error::ClockSkew { .. })), "{found:?}");
}

/// Changes a queue at random. Returns the ids of what it posted.
async fn change(
    queue: &Queue,
    random: &mut StdRng,
    ids: &[MessageId],
    at: Timestamp,
) -> Vec<MessageId> {
    let store = &queue.store;
    let any = |random: &mut StdRng| ids[random.random_range(0..ids.len())];
    match random.random_range(0..12) {
        0..5 => {
            let client = ClientId::new(["me", "you"][random.random_range(0..2)]);
            let ttl = [60, 600, 3600][random.random_range(0..3)];
            let delay = if random.random_range(0..8) == 0 { 30 } else { 0 };
            let count = random.random_range(1..12);
            let messages = (0..count).map(|n| NewMessage { ttl, delay, ..message(&n.to_string()) });
            let messages = messages.collect();
            let batch = Batch { request: rand(), client, messages, notify: false };
            let posted = store.post(&queue.key, queue.generation, batch, at).await;
            let Guarded::Done(ids) = posted.expect("it answers") else { panic!("it is refused") };
            return ids;
        }
        5..8 => {
            let (ttl, limit) = ([60, 300][random.random_range(0..2)], random.random_range(1..6));
            let grace = [60, 7200][random.random_range(0..2)];
            let request =
                ClaimRequest { grace, ..ClaimRequest::new(ClaimId::new(rand()), ttl, limit) };
            store.claim(&queue.key, queue.generation, &request, at).await.expect("it answers");
            if random.random_range(0..2) == 0 {
                store.claim_release(&queue.key, request.id, at).await.expect("it answers");
            }
        }
        8..10 if !ids.is_empty() => {
            let some = [any(random), any(random)];
            store.delete_many(&queue.key, &some, &Deletable::Any, at).await.expect("it answers");
        }
        11 if random.random_range(0..3) == 0 => {
            let query = PopQuery { limit: 2, after: None, keys: Vec::new() };
            store.pop(&queue.key, &query, at).await.expect("it answers");
        }
        10 if random.random_range(0..6) == 0 => {
            store.purge(&queue.key, at).await.expect("it answers");
        }
        _ => {}
    }
    Vec::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_answer_what_scripts_answer() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let (mut directly, mut all) = (0, 0);
    for seed in 0..RUNS {
        let mut random = StdRng::seed_from_u64(seed);
        let queue = Queue::new(&store, &format!("q{seed}")).await;
        let (mut ids, mut at) = (Vec::new(), now());
        for step in 0..STEPS {
            at = at.plus_secs([0, 0, 0, 1, 50][random.random_range(0..5)]);
            ids.extend(change(&queue, &mut random, &ids, at).await);
            let query = ListQuery {
                after: ids.get(random.random_range(0..ids.len() + 20)).copied(),
                limit: random.random_range(1..15),
                hide: (random.random_range(0..4) == 0).then(|| ClientId::new("you")),
                include_claimed: random.random_range(0..3) == 0,
                include_delayed: random.random_range(0..3) == 0,
            };
            // A new store knows nothing of the queue, so that its first page is read by a script.
            let other: Redis = open(options(&server.uri())).await;
            let expected = Messages::list(&other, &queue.key, &query, at).await;
            let before = calls(&server, "eval");
            let page = Messages::list(&other, &queue.key, &query, at).await;
            directly += usize::from(calls(&server, "eval") == before);
            all += 1;
            let (page, expected) = (page.expect("it answers"), expected.expect("it answers"));
            assert_eq!(page, expected, "seed {seed}, step {step}: {query:?}");
            let from = random.random_range(0..ids.len() + 1);
            let some = &ids[from..ids.len().min(from + random.random_range(1..4))];
            if let Some(&id) = some.first() {
                let found: Vec<Message> =
                    other.get(&queue.key, some, at).await.expect("it answers");
                // Ids of two incarnations are left to the script.
                let foreign = MessageId { incarnation: Incarnation::new(1), ..id };
                let all = [some, &[foreign]].concat();
                let expected = other.get(&queue.key, &all, at).await.expect("it answers");
                assert_eq!(found, expected, "seed {seed}, step {step}: {some:?}");
            }
        }
    }
    assert!(directly > all / 10, "{directly} of {all}");
}
