//! Fresh messages, which have no entry in the index of free messages: see `src/lua/fresh.lua`.

use zaqar_core::storage::{
    ClaimRequest, Claimed, Claims, ContentsMark, Deletable, Guarded, ListQuery, Messages, MoveId,
    Moves, NewMessage, PopQuery, Skipped,
};
use zaqar_core::{ClaimId, KeyId, MessageId, Position, Timestamp};
use zaqar_storage_redis::Redis;

use crate::servers::Server;
use crate::support::{Queue, head, message, now, open, options, rand, texts};

/// Chunks that one script looks at: see `MAX_CHUNKS`.
const CHUNKS: usize = 32;
/// Positions of one chunk.
const CHUNK: usize = 256;

fn key_of(queue: &Queue, end: &str) -> String {
    let head = head(queue);
    format!("{}{end}", &head[..head.len() - 1])
}

fn members(server: &Server, queue: &Queue, end: &str) -> usize {
    server.cli(&["ZCARD", &key_of(queue, end)]).parse().expect("a number")
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn delayed(text: &str) -> NewMessage {
    NewMessage { delay: 600, ..message(text) }
}

async fn post_numbers(queue: &Queue, range: std::ops::Range<usize>) -> Vec<MessageId> {
    queue.try_post_new(range.map(|n| message(&n.to_string())).collect()).await.expect("stored")
}

async fn pop(queue: &Queue, limit: usize) -> Vec<String> {
    let query = PopQuery { limit, after: None, keys: Vec::new() };
    texts(&queue.store.pop(&queue.key, &query, now()).await.expect("it answers").messages)
}

/// Pops without keys, in slices. Returns what was popped, and where the next slice begins.
async fn pop_slice(queue: &Queue, after: Option<Position>) -> (Vec<String>, Skipped) {
    let query = PopQuery { limit: 1, after, keys: Vec::new() };
    let page = queue.store.pop(&queue.key, &query, now()).await.expect("it answers");
    (texts(&page.messages), page.skipped)
}

/// As [`pop_slice`], for a claim.
async fn claim_slice(queue: &Queue, after: Option<Position>) -> (Vec<String>, Skipped) {
    let keys = Some(Vec::new());
    let request = ClaimRequest { after, keys, ..ClaimRequest::new(ClaimId::new(rand()), 60, 1) };
    let claimed = queue.store.claim(&queue.key, queue.generation, &request, now()).await;
    let Guarded::Done(Claimed::Messages { messages, skipped, .. }) = claimed.expect("it answers")
    else {
        panic!("the queue has the generation that is assumed");
    };
    (texts(&messages), skipped)
}

/// A page of free messages.
async fn free(queue: &Queue, limit: usize) -> Vec<String> {
    let (include_claimed, include_delayed) = (false, false);
    let query = ListQuery { after: None, limit, hide: None, include_claimed, include_delayed };
    texts(
        &Messages::list(&queue.store, &queue.key, &query, now())
            .await
            .expect("it answers")
            .messages,
    )
}

/// The number of free messages by its statistics, which are the same in the volume of all queues.
async fn count(queue: &Queue, at: Timestamp) -> u64 {
    let stats = queue.store.stats(&queue.key, at).await.expect("it answers").expect("its head");
    let volume = queue.store.volume().await.expect("it answers").expect("it counts");
    assert_eq!((volume.free, volume.claimed), (stats.free + stats.delayed, stats.claimed));
    stats.free
}

/// Commands within scripts.
fn commands(server: &Server) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    stats.lines().filter(|line| !line.contains("info")).filter_map(calls).sum()
}

/// More bytes of messages that are not fresh than one call reads, after one that cannot be
/// decrypted and keeps the cursor where it is.
#[tokio::test(flavor = "multi_thread")]
async fn slices_continue_among_delayed_messages() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let mut sealed = message("sealed");
    sealed.payload.sealed_with = Some(KeyId("lost".to_owned()));
    queue.try_post_new(vec![sealed]).await.expect("stored");
    let large = "x".repeat(64 << 10);
    for _ in 0..10 {
        queue.try_post_new(vec![delayed(&large); 4]).await.expect("stored");
    }
    queue.post(&["popped", "claimed"]).await;
    let (mut claimed, mut popped, mut after) = (Vec::new(), Vec::new(), None);
    for _ in 0..10 {
        let (found, skipped) = pop_slice(&queue, after).await;
        popped.extend(found);
        after = skipped.next;
        if after.is_none() {
            break;
        }
    }
    for _ in 0..10 {
        let (found, skipped) = claim_slice(&queue, after).await;
        claimed.extend(found);
        after = skipped.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((claimed, popped), (vec!["claimed".to_owned()], vec!["popped".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_messages_have_no_entries() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    post_numbers(&queue, 0..40).await;
    post_numbers(&queue, 40..600).await;
    assert_eq!((members(&server, &queue, "f"), count(&queue, now()).await), (0, 600));
    let (claim, held) = queue.try_claim(300).await.expect("it answers");
    assert_eq!(texts(&held), numbers(0..300));
    assert_eq!((members(&server, &queue, "f"), count(&queue, now()).await), (0, 300));
    store.claim_release(&queue.key, claim, now()).await.expect("it answers");
    assert_eq!((members(&server, &queue, "f"), count(&queue, now()).await), (300, 600));
    assert_eq!(texts(&queue.claim(600).await), numbers(0..600));
    assert_eq!(members(&server, &queue, "f"), 0);
    assert!(members(&server, &queue, "q") <= 1, "the open chunk at most");
}

/// Messages that came back, whose delay ended and that were never claimed, oldest first.
#[tokio::test(flavor = "multi_thread")]
async fn all_free_messages_are_taken_in_order() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    for take in ["claim", "pop", "list"] {
        let queue = Queue::new(&store, "q").await;
        for n in 0..30 {
            let new = if n % 3 == 1 { delayed(&n.to_string()) } else { message(&n.to_string()) };
            queue.try_post_new(vec![new]).await.expect("stored");
        }
        let (claim, held) = queue.try_claim(5).await.expect("it answers");
        assert_eq!(texts(&held), ["0", "2", "3", "5", "6"]);
        let later = now().plus_secs(601);
        assert_eq!(count(&queue, later).await, 25, "the delays have ended");
        store.claim_release(&queue.key, claim, later).await.expect("it answers");
        match take {
            "claim" => {
                let mut taken = texts(&queue.claim(4).await);
                for limit in [1, 7, 100] {
                    taken.extend(texts(&queue.claim(limit).await));
                }
                assert_eq!(taken, numbers(0..30));
            }
            "pop" => {
                assert_eq!([pop(&queue, 4).await, pop(&queue, 100).await].concat(), numbers(0..30));
            }
            _ => assert_eq!(free(&queue, 100).await, numbers(0..30)),
        }
        queue.store.purge(&queue.key, now()).await.expect("it answers");
    }
}

/// Each count after each kind of change, in one chunk.
#[tokio::test(flavor = "multi_thread")]
async fn counts_follow_all_changes() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let ids = post_numbers(&queue, 0..20).await;
    let same = [ids[3], ids[3]];
    let deletions = same.map(|id| store.delete(&queue.key, id, None, now()));
    futures_util::future::join_all(deletions).await;
    assert_eq!(count(&queue, now()).await, 19, "one was deleted, twice at once");
    store.delete_many(&queue.key, &ids[5..8], &Deletable::Any, now()).await.expect("it answers");
    assert_eq!(count(&queue, now()).await, 16);
    assert_eq!(pop(&queue, 2).await, ["0", "1"]);
    assert_eq!(count(&queue, now()).await, 14);
    assert_eq!(texts(&queue.claim(3).await), ["2", "4", "8"]);
    assert_eq!(count(&queue, now()).await, 11);
    queue.try_post_new(vec![delayed("delayed"), message("20")]).await.expect("stored");
    assert_eq!(count(&queue, now()).await, 12);
    queue.try_post_new(vec![NewMessage { ttl: 60, ..message("short") }]).await.expect("stored");
    assert_eq!((count(&queue, now()).await, count(&queue, now().plus_secs(61)).await), (13, 12));
    store.purge(&queue.key, now()).await.expect("it answers");
    assert_eq!(count(&queue, now()).await, 0);
    post_numbers(&queue, 0..3).await;
    assert_eq!((count(&queue, now()).await, free(&queue, 9).await), (3, numbers(0..3)));
    assert_eq!(texts(&queue.claim(9).await), numbers(0..3));
}

/// Chunks that still have a message, but no free one, are passed over for good: by many calls of a
/// script, none of which looks at many.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_passed_over_once() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let mut ids = Vec::new();
    for n in 0..2 * CHUNKS + 10 {
        let mut chunk = vec![message("deleted"); CHUNK];
        chunk[n] = delayed("delayed");
        ids.extend(queue.try_post_new(chunk).await.expect("stored"));
    }
    let first = ids[0].position.get();
    ids.retain(|id| !(id.position.get() - first).is_multiple_of(CHUNK as u64 + 1));
    for some in ids.chunks(1000) {
        store.delete_many(&queue.key, some, &Deletable::Any, now()).await.expect("it answers");
    }
    assert_eq!(count(&queue, now()).await, 0);
    queue.post(&["live"]).await;
    let stats = store.stats(&queue.key, now()).await.expect("it answers").expect("its head");
    assert_eq!((stats.free, stats.delayed as usize), (1, 2 * CHUNKS + 10));
    server.cli(&["CONFIG", "RESETSTAT"]);
    assert_eq!(free(&queue, 1).await.len() + free(&queue, 1).await.len(), 2);
    assert_eq!(texts(&queue.claim(1).await), ["live"]);
    let looked = commands(&server);
    assert!(looked < 10 * CHUNKS as u64 * 2, "{looked} commands");
    queue.post(&["next"]).await;
    let before = commands(&server);
    assert_eq!(texts(&queue.claim(1).await), ["next"]);
    assert!(commands(&server) - before < 25, "{} commands", commands(&server) - before);
}

/// Large messages that are not fresh are passed over in parts, of which no caller notices anything.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_are_passed_over() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for _ in 0..12 {
        queue.try_post_new(vec![delayed(&"x".repeat(256 << 10))]).await.expect("stored");
    }
    queue.post(&["0", "1", "2"]).await;
    // The first fresh one is behind them again.
    server.cli(&["HSET", &head(&queue), "q", "0", "h", "0"]);
    let last = server.cli(&["HGET", &head(&queue), "p"]).parse::<u64>().expect("a number");
    server.cli(&["HSET", &head(&queue), "h", &(last + 1 - 3).to_string()]);
    assert_eq!(free(&queue, 2).await, numbers(0..2));
    assert_eq!(texts(&queue.claim(1).await), ["0"]);
    assert_eq!(pop(&queue, 9).await, ["1", "2"]);
    assert_eq!(count(&queue, now()).await, 0);
}

/// As the one before, for ten times as many chunks than one call looks at, all of which are empty.
#[tokio::test(flavor = "multi_thread")]
async fn empty_chunks_are_not_looked_at() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for _ in 0..CHUNKS {
        let ids = queue.try_post_new(vec![message("deleted"); 2 * CHUNK]).await.expect("stored");
        store.delete_many(&queue.key, &ids, &Deletable::Any, now()).await.expect("it answers");
    }
    queue.post(&["live"]).await;
    let before = commands(&server);
    assert_eq!(texts(&queue.claim(1).await), ["live"]);
    assert!(commands(&server) - before < 40, "{} commands", commands(&server) - before);
    assert!(members(&server, &queue, "q") <= 1, "the open chunk at most");
}

/// A queue that moves between stores keeps which messages are free, and in which order.
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_queue_has_the_same_free_messages() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let (source, target): (Redis, Redis) =
        (open(options(&from.uri())).await, open(options(&to.uri())).await);
    let queue = Queue::new(&source, "q").await;
    post_numbers(&queue, 0..400).await;
    let (claim, _) = queue.try_claim(3).await.expect("it answers");
    queue.claim(2).await;
    source.claim_release(&queue.key, claim, now()).await.expect("it answers");
    queue.try_post_new(vec![delayed("delayed"), message("400")]).await.expect("stored");
    let id = MoveId::new(rand());
    let frozen = source.freeze(&queue.key, id, now()).await.unwrap().expect("it is there");
    target.receive(&queue.key, id, frozen, now()).await.unwrap();
    let mut mark = Some(ContentsMark::START);
    while let Some(next) = mark {
        let part = source.export(&queue.key, id, next, 100, now()).await.unwrap().unwrap();
        // The second call repeats the first.
        for _ in 0..2 {
            assert!(target.import(&queue.key, id, &part.contents, now()).await.unwrap());
        }
        mark = part.next;
    }
    target.thaw(&queue.key, id).await.unwrap();
    let moved = queue.by(&target);
    assert_eq!((count(&moved, now()).await, members(&to, &queue, "f")), (399, 3));
    moved.post(&["401"]).await;
    let expected = [numbers(0..3), numbers(5..402)].concat();
    assert_eq!(texts(&moved.claim(1000).await), expected);
    assert_eq!(count(&moved, now()).await, 0);
}

/// Servers that use the older layout and this one post to the queue by turns.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_both_layouts_are_taken_in_order() {
    let server = Server::start(&[]);
    let old = open(options(&format!("{}?layout=2", server.uri()))).await;
    let queue = Queue::new(&old, "q").await;
    post_numbers(&queue, 0..300).await;
    let new = queue.by(&open(options(&format!("{}?layout=3", server.uri()))).await);
    for n in 300..330 {
        let by = if n % 2 == 0 { &queue } else { &new };
        by.post(&[&n.to_string()]).await;
        assert_eq!(count(&new, now()).await as usize, n + 1);
    }
    assert_eq!(members(&server, &queue, "f"), 315);
    assert_eq!(free(&new, 400).await, numbers(0..330));
    let mut taken = texts(&queue.claim(299).await);
    taken.extend(pop(&new, 3).await);
    for limit in [1, 2, 10, 100] {
        taken.extend(texts(&new.claim(limit).await));
    }
    assert_eq!((taken, count(&new, now()).await), (numbers(0..330), 0));
}

/// A page can be read while the server is full, although the cursor cannot be moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_lists_what_is_behind_deleted_messages() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let ids = post_numbers(&queue, 0..20).await;
    store.delete_many(&queue.key, &ids[..10], &Deletable::Any, now()).await.expect("it answers");
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!((free(&queue, 5).await, count(&queue, now()).await), (numbers(10..15), 10));
    assert_eq!(texts(&queue.claim(5).await), numbers(10..15));
    assert_eq!(count(&queue, now()).await, 5);
}
