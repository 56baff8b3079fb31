//! On a server whose memory is full, consumers and sweeps continue.

use zaqar_core::storage::{
    ClaimRequest, Claims, DeadLetters, Error, Heads, Leases, Messages, NewMessage, NewSubscription,
    Outbox, Renewal, Subscriptions, Upkeep,
};
use zaqar_core::{ClaimId, LeaseId, SubscriptionId};
use zaqar_storage_redis::Options;

use crate::repeats::{OPERATIONS, fixture, state};
use crate::servers::{Cluster, Server};
use crate::support::{Queue, lease_for, message, now, open, options, rand};

fn lives(text: &str, ttl: u64) -> NewMessage {
    NewMessage { ttl, ..message(text) }
}

/// The number of keys that hold messages.
fn chunks(server: &Server) -> usize {
    server.cli(&["--scan", "--pattern", "*:b:*"]).lines().filter(|key| !key.is_empty()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_empties_itself() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let mut queues = Vec::new();
    for n in 0..20 {
        let queue = Queue::new(&store, &format!("q{n}")).await;
        queue.try_post_new(vec![lives("x", 75); 400]).await.unwrap();
        queues.push(queue);
    }
    // Queues without due work: their only message was deleted.
    for n in 0..20 {
        let queue = Queue::new(&store, &format!("empty{n}")).await;
        let posted = queue.try_post_new(vec![lives("x", 60)]).await.unwrap();
        store.delete(&queue.key, posted[0], None, now()).await.unwrap();
    }
    let (purged, closed) = (Queue::new(&store, "p").await, Queue::new(&store, "c").await);
    for queue in [&purged, &closed] {
        queue.try_post_new(vec![lives("x", 3600); 400]).await.unwrap();
    }
    // A queue that cannot be swept does not stop the others.
    let bad = Queue::new(&store, "bad").await;
    bad.try_post_new(vec![lives("x", 60)]).await.unwrap();
    let key = format!("zq1:{{q/{}/bad}}:x", bad.key.project.as_str());
    server.cli(&["DEL", &key]);
    server.cli(&["SET", &key, "odd"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(matches!(queues[0].try_post(&["more"]).await, Err(Error::Full { .. })));
    store.purge(&purged.key, now()).await.unwrap();
    Heads::close(&store, &closed.key, closed.generation.incarnation).await.unwrap();
    let later = now().plus_secs(120);
    zaqar_storage_testkit::sweep(&store, later, 500).await;
    assert_eq!(chunks(&server), 1, "only what the bad queue has");
    for queue in &queues {
        assert_eq!(store.stats(&queue.key, later).await.unwrap().unwrap().free, 0);
    }
}

/// Operations that need memory: a full server rejects them.
const NEED_MEMORY: [&str; 8] = [
    "open",
    "post",
    "post of much",
    "post in parts",
    "subscribe",
    "change_subscription",
    "rows",
    "ping",
];

/// Every operation that frees memory, or delivers messages, has the same effect as on a server that
/// is not full.
async fn check_operations(uri: &str, servers: &[Server]) {
    let limit = |bytes: &str| {
        for server in servers {
            server.cli(&["CONFIG", "SET", "maxmemory", bytes]);
        }
    };
    for (name, operation) in OPERATIONS {
        // A separate store for each, because some operations work on all queues of a store.
        let prefix = format!("full-{}", name.replace(' ', "-"));
        let store = open(Options { prefix, ..options(uri) }).await;
        let (unlimited, it) = (fixture(&store).await, fixture(&store).await);
        limit("1");
        let on_full = it.clone();
        let result = tokio::spawn(async move { operation(&on_full).await }).await;
        // Reads end due claims and delays.
        let stats = store.stats(&it.queue.key, now().plus_secs(61)).await;
        stats.unwrap_or_else(|error| panic!("stats after {name}: {error:?}"));
        it.queue.all().await;
        limit("0");
        assert_eq!(result.is_err(), NEED_MEMORY.contains(name), "{name}: {result:?}");
        if result.is_ok() {
            operation(&unlimited).await;
            store.stats(&unlimited.queue.key, now().plus_secs(61)).await.expect("it answers");
            assert_eq!(state(&it, &store).await, state(&unlimited, &store).await, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_free_memory_work_on_a_full_server() {
    let server = Server::start(&[]);
    check_operations(&server.uri(), std::slice::from_ref(&server)).await;
}

/// In a Cluster dead letters move in two calls, of which the one to the target needs memory.
#[tokio::test(flavor = "multi_thread")]
async fn operations_that_free_memory_work_in_a_full_cluster() {
    let cluster = Cluster::start();
    check_operations(&cluster.uri(), &cluster.nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_dead_letters_and_deliveries_continue() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let (queue, target) = (Queue::new(&store, "q").await, Queue::new(&store, "dead").await);
    let (id, lease) = (SubscriptionId::new(rand()), LeaseId::new(rand()));
    let subscription = NewSubscription {
        id,
        subscriber: "http://example.org".into(),
        ttl: 6000,
        options: "{}".into(),
        confirmed: true,
        lease: None,
    };
    store.subscribe(&queue.key, queue.generation, &subscription, now()).await.unwrap();
    store.keep_lease(lease, now().plus_secs(60), now()).await.unwrap();
    let ids = queue.post(&["a", "b"]).await;
    let (claim, _) = queue.try_claim(1).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(store.claim_renew(&queue.key, claim, 100, 60, now()).await.unwrap());
    let renewed = store.keep_lease(lease, now().plus_secs(90), now()).await.unwrap();
    assert_eq!(renewed, Renewal::Continued);
    let soon = now().plus_secs(40);
    let due = store.due_queues(10, soon).await.unwrap();
    assert_eq!(due.iter().map(|due| &due.queue).collect::<Vec<_>>(), [&queue.key]);
    let entry_lease = lease_for(soon.plus_secs(60));
    let entry = store.lease(&queue.key, &entry_lease, soon).await.unwrap().remove(0);
    store.settle(&queue.key, entry.incarnation, &[entry.first]).await.unwrap();
    assert!(store.lease(&queue.key, &entry_lease, soon).await.unwrap().is_empty());
    store.claim_release(&queue.key, claim, now()).await.unwrap();
    let (to, generation) = (target.key.clone(), target.generation);
    let rule = DeadLetters { max_claim_count: 1, target: to, generation, ttl: None };
    let rule = Some(rule);
    let request = ClaimRequest {
        grace: 9,
        dead_letters: rule,
        ..ClaimRequest::new(ClaimId::new(rand()), 9, 5)
    };
    store.claim(&queue.key, queue.generation, &request, now()).await.unwrap();
    assert_eq!(target.texts().await, ["a"]);
    store.delete(&queue.key, ids[1], Some(request.id), now()).await.unwrap();
    store.unsubscribe(&queue.key, id, now()).await.unwrap();
    store.end_lease(lease, now()).await.unwrap();
    assert!(matches!(store.ping().await, Err(Error::Full { .. })), "it rejects posts");
}
