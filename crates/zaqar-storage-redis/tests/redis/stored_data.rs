//! What a store keeps in Redis, for how long and at what cost, and what it does not touch.

use std::process::Command;

use futures_util::StreamExt;
use zaqar_core::storage::{
    ClaimRequest, Claims, DeadLetters, Heads, Leases, Messages, NewMessage, NewSubscription,
    Outbox, Queues, RecipientQuery, Renewal, SubscriptionChange, Subscriptions, Upkeep,
};
use zaqar_core::{ClaimId, ClientId, LeaseId, SubscriptionId, Timestamp};
use zaqar_storage_redis::{Options, Redis};

use crate::servers::{Cluster, MAJOR, Server, TEST_TIMEOUT};
use crate::support::{
    Queue, full_text, key_of, lease_for, message, now, open, options, rand, short_retry,
};

/// Sweeps, as of some seconds from now, until nothing is left.
async fn sweep(store: &Redis, secs: u64) {
    zaqar_storage_testkit::sweep(store, now().plus_secs(secs), 500).await;
}

fn keys(server: &Server) -> Vec<String> {
    let all = server.cli(&["--scan"]);
    let mut all: Vec<_> = all.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect();
    all.sort();
    all
}

/// Creates a subscription that lives for ten minutes.
async fn subscribe(queue: &Queue, lease: Option<LeaseId>) {
    subscribe_with(queue, lease, "{}".to_owned()).await;
}

async fn subscribe_with(queue: &Queue, lease: Option<LeaseId>, options: String) {
    let id = SubscriptionId::new(rand());
    let subscription = NewSubscription {
        id,
        subscriber: format!("http://example.org/{id}"),
        ttl: 600,
        options,
        confirmed: true,
        lease,
    };
    let made = queue.store.subscribe(&queue.key, queue.generation, &subscription, now()).await;
    made.expect("it answers");
}

/// Creates a lease for ten minutes.
async fn lease(store: &Redis) -> LeaseId {
    let lease = LeaseId::new(rand());
    let kept = store.keep_lease(lease, now().plus_secs(600), now()).await;
    assert_eq!(kept.expect("it answers"), Renewal::Created);
    lease
}

/// Fills a queue with everything that it can hold.
async fn fill(queue: &Queue, target: &Queue, lease: LeaseId) {
    let store = &queue.store;
    subscribe(queue, None).await;
    subscribe(queue, Some(lease)).await;
    for _ in 0..3 {
        queue
            .try_post_new((0..400).map(|n| message(&n.to_string())).collect())
            .await
            .expect("it answers");
    }
    let late = NewMessage { delay: 60, ..message("late") };
    queue.try_post_new(vec![late; 10]).await.expect("it answers");
    queue.claim(300).await;
    let (claim, _) = queue.try_claim(20).await.expect("it answers");
    store.claim_release(&queue.key, claim, now()).await.expect("it answers");
    let rule = DeadLetters {
        max_claim_count: 1,
        target: target.key.clone(),
        generation: target.generation,
        ttl: None,
    };
    let id = ClaimId::new(rand());
    let request =
        ClaimRequest { grace: 60, dead_letters: Some(rule), ..ClaimRequest::new(id, 60, 5) };
    store.claim(&queue.key, queue.generation, &request, now()).await.expect("it answers");
    let leased = store.lease(&queue.key, &lease_for(now().plus_secs(60)), now()).await;
    assert_eq!(leased.expect("it answers").len(), 1, "there is an entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_queue_leaves_no_keys() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let (queue, target) = (Queue::new(&store, "q").await, Queue::new(&store, "dead").await);
    let lease = lease(&store).await;
    fill(&queue, &target, lease).await;
    assert!(keys(&server).len() > 20, "{:?}", keys(&server));
    for queue in [&queue, &target] {
        Heads::close(&store, &queue.key, queue.generation.incarnation).await.unwrap();
    }
    store.end_lease(lease, now()).await.unwrap();
    sweep(&store, 60).await;
    sweep(&store, 3600).await;
    while !store.due_queues(10, now().plus_secs(3600)).await.unwrap().is_empty() {}
    let left = keys(&server);
    let passes = |key: &String| key.contains(":r:") || key == "zq1:layout";
    assert!(left.iter().all(passes), "not even a schedule: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_entries_are_deleted_later() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let lease = lease(&store).await;
    subscribe(&queue, Some(lease)).await;
    for _ in 0..30 {
        queue.post(&["a", "b"]).await;
    }
    let entries = || keys(&server).iter().filter(|key| key.contains(":o")).count();
    assert!(entries() > 30, "{:?}", keys(&server));
    sweep(&store, 40).await;
    assert!(entries() > 30);
    sweep(&store, 61).await;
    assert_eq!(entries(), 0, "{:?}", keys(&server));
    sweep(&store, 601).await;
    let of_leases = |key: &String| key.contains("{a/") && key.contains(":l");
    assert!(!keys(&server).iter().any(of_leases), "{:?}", keys(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_waits_for_pending_subscriptions() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let lease = lease(&store).await;
    subscribe(&queue, Some(lease)).await;
    // The lease has a subscription that does not exist yet.
    let rows = keys(&server).into_iter().find(|key| key.contains("{q/") && key.ends_with(":s"));
    server.cli(&["DEL", &rows.expect("there is a subscription")]);
    store.end_lease(lease, now()).await.unwrap();
    let is_known = || keys(&server).iter().any(|key| key.contains(":li:"));
    sweep(&store, 0).await;
    assert!(is_known(), "{:?}", keys(&server));
    sweep(&store, 31).await;
    assert!(!is_known(), "{:?}", keys(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_frees_memory_and_the_sweep_deletes_the_rest() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for _ in 0..10 {
        let body = format!("\"{}\"", "x".repeat(1000));
        queue.try_post_new((0..200).map(|_| message(&body)).collect()).await.unwrap();
    }
    let chunks = || keys(&server).iter().filter(|key| key.contains(":b:")).count();
    // A chunk has 256 positions, and the first position after a new connection begins another
    // chunk.
    assert!((8..=12).contains(&chunks()), "{}", chunks());
    store.purge(&queue.key, now()).await.unwrap();
    queue.post(&["later"]).await;
    sweep(&store, 31).await;
    assert_eq!(chunks(), 1);
    assert_eq!(queue.texts().await, ["later"]);
    sweep(&store, 3601).await;
    let left = keys(&server);
    let (remembered, rest): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|key| key.contains(":r:"));
    assert!(rest.iter().all(|key| key.ends_with(":h") || key == "zq1:layout"), "{rest:?}");
    for key in remembered {
        let left = server.cli(&["PTTL", &key]).parse::<i64>().unwrap();
        assert!((-2..200_000).contains(&left) && left != -1, "requests are forgotten: {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_incarnation_ignores_the_remains_of_the_last() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.try_post_new((0..700).map(|_| message("old")).collect()).await.unwrap();
    Heads::close(&store, &queue.key, queue.generation.incarnation).await.unwrap();
    let next = Queue { generation: crate::support::generation(), ..queue };
    next.open().await.unwrap();
    next.try_post_new((0..300).map(|_| message("new")).collect()).await.unwrap();
    sweep(&store, 60).await;
    assert_eq!(next.texts().await, vec!["new"; 300]);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_row_leaves_no_keys() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let (key, generation) = (crate::support::key("q"), crate::support::generation());
    let metadata = zaqar_core::Metadata::default();
    let row = zaqar_core::storage::QueueRow { generation, metadata };
    store.create(&key, &row).await.unwrap();
    assert!(store.remove(&key, generation.incarnation).await.unwrap());
    let left = keys(&server);
    assert!(left.iter().all(|key| key.contains(":r:") || key == "zq1:layout"), "{left:?}");
}

/// Commands that the server has executed, including those within scripts.
fn commands(server: &Server) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    // News are published some time after a post.
    let counts = |line: &&str| !line.contains("info") && !line.contains("publish");
    stats.lines().filter(counts).filter_map(calls).sum()
}

/// The periodic work of servers takes a few calls if nothing is due.
#[tokio::test(flavor = "multi_thread")]
async fn polling_an_idle_server_takes_a_few_calls() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    Queue::new(&store, "q").await.post(&["a"]).await;
    let poll = async || {
        store.sweep(now(), 1000).await.unwrap();
        assert_eq!(store.due_queues(1000, now()).await.unwrap(), []);
    };
    // The first calls upload the scripts.
    poll().await;
    let calls = || {
        let stats = server.cli(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.unwrap().split(',').next().unwrap().parse::<u32>().unwrap()
    };
    let before = calls();
    poll().await;
    let calls = calls() - before;
    assert!(calls <= 3, "{calls} calls for leases, sweeps and deliveries");
}

/// Beside 500 webhooks with 60 kB of options each, 30 MB in total.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_reads_nothing_of_other_subscriptions() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let lease = lease(&store).await;
    subscribe(&queue, Some(lease)).await;
    let used = || {
        let stats = server.cli(&["INFO", "stats"]);
        let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        (commands(&server), sent.unwrap().trim().parse::<u64>().unwrap())
    };
    let push = async || {
        let before = used();
        let found = store.leased_subscriptions(&queue.key, lease, None, 1000, now()).await.unwrap();
        assert_eq!(found.len(), 1);
        let after = used();
        (after.0 - before.0, after.1 - before.1)
    };
    // The first call uploads the script.
    push().await;
    let alone = push().await;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
    for _ in 0..500 {
        subscribe_with(&queue, None, text.clone()).await;
    }
    let beside = push().await;
    assert_eq!(beside.0, alone.0, "commands");
    // The output of `INFO` itself varies by some digits.
    assert!(beside.1 < alone.1 + 1000, "{beside:?} and {alone:?} alone");
}

/// The number of commands for one post, claim, page and deletion.
async fn cost(server: &Server, queue: &Queue) -> u64 {
    let before = commands(server);
    let ids = queue.post(&["a", "b"]).await;
    let (claim, taken) = queue.try_claim(2).await.expect("it answers");
    assert_eq!(taken.len(), 2);
    queue.store.delete(&queue.key, taken[0].id, Some(claim), now()).await.expect("it answers");
    let query = zaqar_core::storage::ListQuery {
        after: None,
        limit: 2,
        hide: None,
        include_claimed: false,
        include_delayed: false,
    };
    let page = Messages::list(&queue.store, &queue.key, &query, now()).await.expect("it answers");
    assert!(!page.messages.is_empty() || !ids.is_empty());
    commands(server) - before
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_or_claimed_messages_cost_no_commands() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let empty = Queue::new(&store, "q").await;
    empty.post(&["x", "x", "x", "x"]).await;
    cost(&server, &empty).await;
    let least = cost(&server, &empty).await;
    let full = Queue::new(&store, "q").await;
    for _ in 0..20 {
        full.try_post_new((0..500).map(|_| message("x")).collect()).await.unwrap();
    }
    let late = NewMessage { delay: 600, ..message("late") };
    full.try_post_new(vec![late; 2000]).await.unwrap();
    full.claim(4000).await;
    cost(&server, &full).await;
    let most = cost(&server, &full).await;
    assert!(most <= least + 4, "{most} commands with thousands claimed, {least} without");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_of_the_smallest_messages_is_stored_whole() {
    let (server, cluster) = (Server::start(&[]), Cluster::start());
    for uri in [server.uri(), cluster.uri()] {
        let store = open(options(&uri)).await;
        let mut queue = Queue::new(&store, "q").await;
        queue.key = key_of(&format!("{{}}{}", "☃".repeat(254)), "q");
        queue.open().await.unwrap();
        // 256 KiB of `{"body":1},`.
        let count = 256 * 1024 / 11;
        let ids = queue.try_post_new(vec![message("1"); count]).await.unwrap();
        assert_eq!(ids.len(), count);
        let stats = store.stats(&queue.key, now()).await.unwrap().unwrap();
        assert_eq!(stats.free, count as u64);
        let all: Vec<_> = queue.all().await.iter().map(|message| message.id).collect();
        assert!(all == ids);
        assert_eq!(Messages::get(&store, &queue.key, &ids, now()).await.unwrap().len(), count);
        assert_eq!(queue.claim(count).await.len(), count);
        let any = zaqar_core::storage::Deletable::Any;
        store.delete_many(&queue.key, &ids, &any, now()).await.unwrap();
        assert_eq!(queue.texts().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_original_is_not_changed() {
    let allow: &[_] = if *MAJOR < 7 { &[] } else { &["--enable-debug-command", "local"] };
    let server = Server::start(allow);
    server.cli(&["ZADD", "msgset_index", "1", "p.q.messages", "1", "p.r.messages"]);
    server.cli(&["ZADD", "p.q.messages", "1", "3381af92", "2", "4381af92"]);
    server.cli(&["HSET", "3381af92", "t", "300"]);
    server.cli(&["ZADD", "p.queues_set", "1", "p.q"]);
    let before = server.cli(&["DEBUG", "DIGEST"]);
    let store = open(options(&server.uri())).await;
    let queue = Queue { key: key_of("p", "q"), ..Queue::new(&store, "other").await };
    assert_eq!(store.generation(&queue.key).await.unwrap(), None);
    assert_eq!(store.count(&queue.key.project, queue.key.kind).await.unwrap(), 0);
    queue.open().await.unwrap();
    queue.post(&["ours"]).await;
    assert_eq!(queue.texts().await, ["ours"]);
    server.cli(&[
        "EVAL",
        "for _, k in ipairs(redis.call('KEYS', 'zq1:*')) do redis.call('DEL', k) end",
        "0",
    ]);
    assert_eq!(server.cli(&["DEBUG", "DIGEST"]), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_waiting_message_is_bounded() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["1"]).await;
    let used = || server.info("used_memory").parse::<u64>().unwrap();
    const COUNT: u64 = 20_000;
    for (size, most) in [(100, 220), (1024, 1400)] {
        let before = used();
        let body = format!("\"{}\"", "x".repeat(size - 2));
        for _ in 0..COUNT / 100 {
            queue.try_post_new((0..100).map(|_| message(&body)).collect()).await.unwrap();
        }
        let each = (used() - before) / COUNT;
        println!("a waiting message of {size} bytes takes {each} bytes");
        assert!(each < most, "{each} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_with_other_prefixes_share_nothing() {
    let server = Server::start(&[]);
    let one = open(options(&server.uri())).await;
    let two = open(Options { prefix: "two".to_owned(), ..options(&server.uri()) }).await;
    let queue = Queue::new(&one, "q").await;
    queue.post(&["a"]).await;
    assert_eq!(two.generation(&queue.key).await.unwrap(), None);
    let keys = keys(&server);
    assert!(keys.iter().all(|key| key.starts_with("zq1:") || key == "two:layout"), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_keeps_the_latest_time_of_all_servers() {
    let server = Server::start(&[]);
    let (early, late) = (open(options(&server.uri())).await, open(options(&server.uri())).await);
    let queue = Queue::new(&early, "q").await;
    let now = now();
    let ahead = now.plus_secs(30);
    let batch = |text: &str| zaqar_core::storage::Batch {
        request: rand(),
        client: ClientId::new("me"),
        messages: vec![message(text)],
        notify: true,
    };
    late.post(&queue.key, queue.generation, batch("a"), ahead).await.unwrap();
    early.post(&queue.key, queue.generation, batch("b"), now).await.unwrap();
    let created: Vec<Timestamp> = queue.all().await.iter().map(|it| it.created).collect();
    assert_eq!(created, [ahead, ahead], "time does not go back for a queue");
}

/// Makes a certificate authority and a certificate for 127.0.0.1.
fn certificates(dir: &std::path::Path) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
            -keyout own.key -out own.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > extensions
        openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile extensions -out own.pem";
    let made =
        Command::new("sh").args(["-ec", script]).current_dir(dir).output().expect("sh starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ca, own, key) = (file("ca.pem"), file("own.pem"), file("own.key"));
    let tls_port = zaqar_storage_testkit::free_port().to_string();
    let server = Server::start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &own,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
    ]);
    let at = |options: &str| format!("rediss://localhost:{tls_port}?{options}");
    let mutual = at(&format!("ssl_ca_certs={ca}&ssl_certfile={own}&ssl_keyfile={key}"));
    let store = open(options(&mutual)).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    assert_eq!(queue.texts().await, ["a"]);
    assert!(
        Redis::open(short_retry(&at(&format!("ssl_ca_certs={ca}")))).await.is_err(),
        "it wants to know us"
    );
    server.cli(&["CONFIG", "SET", "tls-auth-clients", "no"]);
    queue.by(&open(options(&at(&format!("ssl_ca_certs={ca}")))).await).post(&["b"]).await;
    let error =
        Redis::open(short_retry(&at(""))).await.expect_err("the system does not know our CA");
    assert!(full_text(&error).to_lowercase().contains("certificate"), "{}", full_text(&error));
    tokio::time::timeout(
        TEST_TIMEOUT,
        Redis::open(short_retry(&format!("redis://localhost:{tls_port}"))),
    )
    .await
    .expect("a bounded wait")
    .expect_err("no server that speaks plainly");
}

/// A post to a queue with 10 000 subscriptions costs the commands of one with a single one.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_costs_the_same_with_many_subscriptions() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let post = async || {
        let before = commands(&server);
        queue.post(&["a", "b"]).await;
        let posted = commands(&server) - before;
        let lease = lease_for(now().plus_secs(60));
        let entry = store.lease(&queue.key, &lease, now()).await.unwrap().remove(0);
        let first = entry.messages[0].id.position;
        store.settle(&queue.key, queue.generation.incarnation, &[first]).await.unwrap();
        posted
    };
    subscribe(&queue, None).await;
    // The first one uploads the script, and begins the queue's entries.
    post().await;
    let with_one = post().await;
    let many = (1..10_000).map(|_| subscribe(&queue, None));
    let mut many = futures_util::stream::iter(many).buffer_unordered(64);
    while many.next().await.is_some() {}
    assert_eq!(post().await, with_one);
}

/// 300 webhooks with 60 kB of options each, 18 MB in total, none of them confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_reads_no_options_of_its_recipients() {
    const ALL: usize = 300;
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
    for _ in 0..ALL {
        subscribe_with(&queue, None, text.clone()).await;
    }
    let read = async |confirmed_only| {
        let query = RecipientQuery { after: None, limit: ALL, confirmed_only };
        store.recipients(&queue.key, &query, now()).await.unwrap()
    };
    let all = read(false).await;
    assert_eq!(all.len(), ALL);
    for id in &all[1..] {
        let change = SubscriptionChange { confirmed: Some(false), ..Default::default() };
        store.change_subscription(&queue.key, *id, &change, now()).await.unwrap();
    }
    let output = || {
        let stats = server.cli(&["INFO", "stats"]);
        let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        sent.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = output();
    assert_eq!(read(true).await, all[..1]);
    let sent = output() - before;
    // Most of it is the answer to `INFO` itself.
    assert!(sent < 10_000, "{sent} bytes for one id");
    // What the server looks through for it is small too.
    for key in keys(&server).iter().filter(|key| key.ends_with(":s")) {
        for row in server.cli(&["HVALS", key]).lines() {
            assert!(row.len() < 200, "a row of {} bytes", row.len());
        }
    }
    let found = store.subscription(&queue.key, all[7], now()).await.unwrap().unwrap();
    assert_eq!((found.options, found.confirmed), (text, false));
    store.unsubscribe(&queue.key, all[7], now()).await.unwrap();
    let large: Vec<_> = keys(&server).into_iter().filter(|key| key.ends_with(":so")).collect();
    assert_eq!(server.cli(&["HLEN", &large[0]]).trim(), (ALL - 1).to_string());
    store.unsubscribe_all(&queue.key, now()).await.unwrap();
    assert!(!keys(&server).iter().any(|key| key.ends_with(":so")));
}
