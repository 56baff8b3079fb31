//! The kit on one server with a store of the older layout, and stores that are raised from it.

use std::sync::LazyLock;

use zaqar_core::storage::{Deletable, Deleted, Messages, PopQuery, Upkeep};

use crate::servers::Server;
use crate::support::{Prefixes, Queue, message, now, open, options, texts};

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(&[]));

zaqar_storage_testkit::behaviour!(Prefixes(format!("{}?layout=2", SERVER.uri())));

fn layout(server: &Server) -> String {
    server.cli(&["GET", "zq1:layout"])
}

/// The members of the index of expiry that are for one message each.
fn own_entries(server: &Server, queue: &Queue) -> usize {
    let key = format!("zq1:{{q/{}/{}}}:x", queue.key.project.as_str(), queue.key.name);
    server.cli(&["ZRANGE", &key, "0", "-1"]).lines().filter(|it| it.parse::<u64>().is_ok()).count()
}

/// Servers of the release before and of this one share a store until the option raises it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_keeps_its_layout_until_the_uri_raises_it() {
    let server = Server::start(&[]);
    let (plain, raised) = (server.uri(), format!("{}?layout=3", server.uri()));
    open(options(&format!("{plain}?layout=2"))).await;
    assert_eq!(layout(&server), "2");
    let before = open(options(&plain)).await;
    let queue = Queue::new(&before, "q").await;
    queue.post(&["0", "1"]).await;
    queue.try_post_new(vec![message("large"); 300]).await.unwrap();
    assert_eq!((layout(&server).as_str(), own_entries(&server, &queue)), ("2", 302));
    // A flush deletes the mark as well; the next sweep writes it again, as it was.
    server.cli(&["DEL", "zq1:layout"]);
    before.sweep(now(), 10).await.unwrap();
    assert_eq!(layout(&server), "2");
    let after = open(options(&raised)).await;
    assert_eq!(layout(&server), "3");
    queue.by(&after).post(&["2"]).await;
    queue.by(&after).try_post_new(vec![message("large"); 300]).await.unwrap();
    assert_eq!(own_entries(&server, &queue), 302, "later messages share entries");
    // One that was opened before goes on, and one without the option uses the layout that is there.
    queue.post(&["3"]).await;
    assert_eq!(own_entries(&server, &queue), 303);
    let next = queue.by(&open(options(&plain)).await);
    next.post(&["4"]).await;
    assert_eq!((layout(&server).as_str(), own_entries(&server, &queue)), ("3", 303));
    open(options(&format!("{plain}?layout=2"))).await;
    assert_eq!(layout(&server), "3", "no store is lowered");
    assert_eq!((next.all().await.len(), queue.all().await.len()), (605, 605));
}

/// Messages of both layouts, in one queue and one chunk: all operations handle them alike.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_both_layouts_are_handled_alike() {
    let server = Server::start(&[]);
    let old = open(options(&format!("{}?layout=2", server.uri()))).await;
    let new = open(options(&format!("{}?layout=3", server.uri()))).await;
    let old = Queue::new(&old, "q").await;
    let new = old.by(&new);
    let (mut ids, mut expected) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let queue = if n % 2 == 0 { &old } else { &new };
        ids.extend(queue.post(&[&n.to_string()]).await);
        expected.push(n.to_string());
    }
    for queue in [&old, &new] {
        assert_eq!(queue.texts().await, expected);
        let found = Messages::get(&queue.store, &queue.key, &ids, now()).await.unwrap();
        assert_eq!(texts(&found), expected);
    }
    let (claim, held) = old.try_claim(4).await.unwrap();
    assert_eq!(texts(&held), expected[..4]);
    for held in &held {
        let deleted = new.store.delete(&new.key, held.id, Some(claim), now()).await.unwrap();
        assert_eq!(deleted, Deleted::Gone);
    }
    old.store.delete_many(&old.key, &ids[4..6], &Deletable::Any, now()).await.unwrap();
    let query = PopQuery { limit: 2, after: None, keys: Vec::new() };
    let popped = old.store.pop(&old.key, &query, now()).await.unwrap();
    assert_eq!(texts(&popped.messages), expected[6..8]);
    assert_eq!(new.texts().await, expected[8..]);
    let almost = now().plus_secs(3500);
    assert_eq!(new.store.stats(&new.key, almost).await.unwrap().unwrap().free, 12);
    let later = now().plus_secs(3601);
    zaqar_storage_testkit::sweep(&new.store, later, 100).await;
    assert_eq!(new.store.stats(&new.key, later).await.unwrap().unwrap().free, 0);
    let left = server.cli(&["--scan", "--pattern", "*:b:*"]);
    assert_eq!(left, "", "no record is left");
}
