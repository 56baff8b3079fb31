//! Requests for one queue that wait while another is in flight are sent together, and each gets its
//! own answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use futures_util::FutureExt;
use futures_util::future::join_all;
use zaqar_core::storage::{
    Batch, Claims, Deleted, Error, Guarded, LeaseRequest, Message, Messages, NewMessage,
    NewSubscription, Outbox, Subscriptions, Upkeep,
};
use zaqar_core::{ClaimId, ClientId, Generation, MessageId, SubscriptionId, Version};

use zaqar_storage_redis::Options;

use crate::proxy::{HoldingProxy, Proxy};
use crate::servers::Server;
use crate::support::{Queue, lease_for, message, now, open, options, rand, texts};

const COUNT: usize = 40;

/// The number of script calls so far.
fn calls(server: &Server) -> usize {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// Posts the numbers below `count` concurrently, while the server hangs until all of them wait.
async fn post_together(server: &Server, queue: &Queue) -> Vec<Result<Vec<MessageId>, Error>> {
    server.signal("STOP");
    let posts = join_all((0..COUNT).map(|n| {
        let queue = queue.clone();
        async move { queue.try_post(&[&n.to_string(), &format!("{n}b")]).await }
    }));
    let posts = tokio::spawn(posts);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.signal("CONT");
    posts.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_posts_are_sent_as_one_group() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["first"]).await;
    let before = calls(&server);
    let posted = post_together(&server, &queue).await;
    let calls = calls(&server) - before;
    assert!(calls <= 10, "{calls} calls for {COUNT} posts");
    let all = queue.all().await;
    let mut ids = BTreeSet::new();
    for (n, posted) in posted.into_iter().enumerate() {
        let posted = posted.unwrap();
        let stored: Vec<_> = all.iter().filter(|it| posted.contains(&it.id)).cloned().collect();
        assert_eq!(texts(&stored), [n.to_string(), format!("{n}b")], "its own, together, in order");
        ids.extend(posted);
    }
    assert_eq!((ids.len(), all.len()), (2 * COUNT, 2 * COUNT + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_group_gets_its_own_answer() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let ids = queue.post(&["0", "1", "2", "3", "4", "5"]).await;
    let (claim, held) = queue.try_claim(3).await.unwrap();
    let (other, _) = queue.try_claim(1).await.unwrap();
    assert_eq!(held.len(), 3);
    server.signal("STOP");
    let delete = |at: usize, claim| {
        let queue = queue.clone();
        let id = ids[at];
        tokio::spawn(async move { queue.store.delete(&queue.key, id, claim, now()).await.unwrap() })
    };
    let wrong = Generation { version: Version::new(9), ..queue.generation };
    let stale = {
        let batch = Batch {
            request: rand(),
            client: ClientId::new("me"),
            messages: vec![message("x")],
            notify: true,
        };
        let queue = queue.clone();
        tokio::spawn(async move { queue.store.post(&queue.key, wrong, batch, now()).await })
    };
    let cases = [
        (0, Some(claim), Deleted::Gone),
        (1, None, Deleted::Claimed),
        (2, Some(other), Deleted::WrongClaim),
        (4, None, Deleted::Gone),
        (5, Some(claim), Deleted::NotClaimed),
        (4, None, Deleted::Gone),
    ];
    let deletions: Vec<_> =
        cases.iter().map(|(at, claim, answer)| (delete(*at, *claim), answer)).collect();
    let posted = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.post(&["6"]).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.signal("CONT");
    for (at, (deleted, answer)) in deletions.into_iter().enumerate() {
        assert_eq!(deleted.await.unwrap(), *answer, "case {at}");
    }
    assert_eq!(stale.await.unwrap().unwrap(), Guarded::Stale(queue.generation));
    posted.await.unwrap();
    assert_eq!(queue.texts().await, ["1", "2", "3", "5", "6"]);
}

/// One outbox entry for each post, with its messages.
#[tokio::test(flavor = "multi_thread")]
async fn each_post_of_a_group_has_its_own_outbox_entry() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let new = NewSubscription {
        id: SubscriptionId::new(rand()),
        subscriber: "http://example.org".into(),
        ttl: 600,
        options: "{}".into(),
        confirmed: true,
        lease: None,
    };
    store.subscribe(&queue.key, queue.generation, &new, now()).await.unwrap();
    queue.post(&["first"]).await;
    let posted = post_together(&server, &queue).await;
    let later = now().plus_secs(60);
    let all = LeaseRequest { limit: COUNT + 2, ..lease_for(later) };
    let entries = store.lease(&queue.key, &all, now()).await.unwrap();
    for posted in posted {
        let posted = posted.unwrap();
        let entry = entries.iter().find(|entry| entry.first == posted[0].position);
        let listed: Vec<_> = entry.unwrap().messages.iter().map(|message| message.id).collect();
        assert_eq!(listed, posted);
    }
    assert_eq!(entries.len(), COUNT + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_answer_is_lost_is_stored_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["first"]).await;
    for is_answer in [true, false] {
        let before = queue.all().await.len();
        server.signal("STOP");
        if !is_answer {
            proxy.cut_next_request();
        }
        let posts = join_all((0..COUNT).map(|n| {
            let queue = queue.clone();
            async move { queue.try_post(&[&n.to_string()]).await }
        }));
        let posts = tokio::spawn(posts);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        if is_answer {
            proxy.cut_next_answer();
        }
        server.signal("CONT");
        let posted: BTreeSet<_> =
            posts.await.unwrap().into_iter().flat_map(Result::unwrap).collect();
        assert!(proxy.has_cut());
        let all = queue.all().await;
        assert_eq!((posted.len(), all.len()), (COUNT, before + COUNT));
        assert!(posted.iter().all(|id| all.iter().any(|message| message.id == *id)));
    }
}

/// Every call is held back in turn, so that its repeat arrives first.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_group_does_nothing() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for n in 0..3 {
        proxy.hold(n);
        let posts = (0..COUNT).map(|n| {
            let queue = queue.clone();
            async move { queue.try_post(&[&n.to_string()]).await }
        });
        let posted: Vec<_> = join_all(posts).await.into_iter().map(Result::unwrap).collect();
        if let Some(held) = proxy.take_held() {
            let all = queue.texts().await;
            let answer = held.send().await;
            assert!(answer.starts_with("-ZLATE"), "{answer}");
            assert_eq!(queue.texts().await, all);
        }
        assert_eq!(posted.len(), COUNT);
        for message in queue.all().await {
            let deleted = store.delete(&queue.key, message.id, None, now()).await.unwrap();
            assert_eq!(deleted, Deleted::Gone);
        }
        assert_eq!(queue.texts().await, [""; 0], "round {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_caller_affects_no_other_and_closing_waits_for_requests() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["first"]).await;
    server.signal("STOP");
    let mut posts = Vec::new();
    for n in 0..10 {
        let queue = queue.clone();
        let mut post = Box::pin(async move { queue.try_post(&[&n.to_string()]).await });
        assert!(post.as_mut().now_or_never().is_none(), "it waits for the server");
        posts.push(tokio::spawn(post));
    }
    // Some of those that wait are dropped.
    let given_up = posts.split_off(7);
    given_up.iter().for_each(tokio::task::JoinHandle::abort);
    let closing = {
        let store = store.clone();
        tokio::spawn(async move { store.shut_down().await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!closing.is_finished(), "requests are in flight");
    server.signal("CONT");
    for post in posts {
        post.await.unwrap().expect("it was there before the end");
    }
    closing.await.unwrap().unwrap();
    let left = queue.by(&open(options(&server.uri())).await);
    let stored: BTreeSet<_> = left.texts().await.into_iter().collect();
    assert!((0..7).all(|n| stored.contains(&n.to_string())), "{stored:?}");
    let error = queue.try_post(&["late"]).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

/// Claims two messages each concurrently, while the server hangs until all claims wait.
async fn claim_together(server: &Server, queue: &Queue) -> Vec<(ClaimId, Vec<Message>)> {
    server.signal("STOP");
    let claims = join_all((0..COUNT).map(|_| {
        let queue = queue.clone();
        async move { queue.try_claim(2).await.unwrap() }
    }));
    let claims = tokio::spawn(claims);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.signal("CONT");
    claims.await.unwrap()
}

/// Each message is held by one claim, which lists it; claims that got none hold none.
async fn check_claims(queue: &Queue, claims: &[(ClaimId, Vec<Message>)], held: usize) {
    let ids: BTreeSet<_> =
        claims.iter().flat_map(|(_, held)| held.iter().map(|it| it.id)).collect();
    let all: Vec<_> = claims.iter().flat_map(|(_, held)| held).collect();
    assert_eq!((ids.len(), all.len()), (held, held), "each once");
    for (claim, held) in claims.iter().filter(|(_, held)| !held.is_empty()) {
        assert!(held.len() <= 2, "no more than it asked for");
        assert!(held.iter().all(|it| it.claim == Some(*claim) && it.claim_count == 1), "{held:?}");
        let there = queue.store.claim_get(&queue.key, *claim, now()).await.unwrap().unwrap();
        assert_eq!(&there.messages, held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_claims_are_sent_as_one_group() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let texts: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    queue.post(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    queue.claim(1).await;
    let before = calls(&server);
    let claims = claim_together(&server, &queue).await;
    let calls = calls(&server) - before;
    assert!(calls <= 10, "{calls} calls for {COUNT} claims");
    check_claims(&queue, &claims, COUNT - 1).await;
}

/// If messages have expired, the claims of a group are executed one by one.
#[tokio::test(flavor = "multi_thread")]
async fn claims_outside_the_fast_path_are_executed_one_by_one() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let texts: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    let ids = queue.post(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Some records are deleted. The posts may be in two chunks.
    for chunk in server.cli(&["--scan", "--pattern", "*:b:*"]).lines() {
        for id in &ids[..3] {
            server.cli(&["HDEL", chunk, &(id.position.get() % 256).to_string()]);
        }
    }
    let claims = claim_together(&server, &queue).await;
    check_claims(&queue, &claims, COUNT - 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_whose_answer_is_lost_are_executed_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.claim(1).await;
    let texts: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    queue.post(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // The server must know the script first, and must have nothing else to answer.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    proxy.cut_next_answer();
    let claims = claim_together(&server, &queue).await;
    assert!(proxy.has_cut());
    check_claims(&queue, &claims, COUNT).await;
}

/// Claims of a batch that cannot be made together, where a later step fails: those that were made
/// are returned.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_were_made_are_returned_when_a_later_one_fails() {
    let server = Server::start(&[]);
    let direct = open(options(&server.uri())).await;
    let later = now().plus_secs(7200);
    let mut counts = BTreeSet::new();
    for n in 0..10 {
        let queue = Queue::new(&direct, "q").await;
        let lasting = ["a", "b", "c"].map(|text| NewMessage { ttl: 86_400, ..message(text) });
        queue.try_post_new(lasting.to_vec()).await.unwrap();
        // A claim that has ended by `later`, so that the first step makes one claim only.
        queue.claim(1).await;
        let proxy = HoldingProxy::to(server.port).await;
        let once = Options { max_reconnect_attempts: 0, ..options(&proxy.uri()) };
        let store = open(once).await;
        proxy.hold(n);
        let ids = [rand(), rand(), rand()].map(ClaimId::new);
        let taken = store.claim_each(&queue.key, queue.generation, &ids, 60, later).await;
        let was_held = proxy.take_held().is_some();
        let known = taken.map_or_else(|_| Vec::new(), done);
        let mut made = Vec::new();
        for id in ids {
            let claim = direct.claim_get(&queue.key, id, later).await.unwrap();
            made.extend(claim.into_iter().flat_map(|claim| claim.messages));
        }
        assert_eq!(known, made, "without call {n}");
        if !known.is_empty() {
            counts.insert(known.len());
        }
        if !was_held {
            assert_eq!(counts, BTreeSet::from([1, 3]), "one by itself, and two together");
            return;
        }
    }
    panic!("it has no end");
}

fn done<T: std::fmt::Debug>(guarded: Guarded<T>) -> T {
    match guarded {
        Guarded::Done(done) => done,
        refused @ (Guarded::Absent | Guarded::Stale(_)) => panic!("{refused:?}"),
    }
}
