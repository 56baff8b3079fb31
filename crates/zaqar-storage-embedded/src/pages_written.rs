//! Tests of how many pages a transaction writes to the log: that is what a post costs the disk.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use zaqar_core::storage::{Batch, Claimed, Claims, Guarded, Heads, Messages, NewMessage};
use zaqar_core::{ClaimId, ClientId, Payload};

use crate::testing::{generation, hold, key, request, time};
use crate::{Embedded, Options, Sync};

/// A post of one message of 1 KiB, with a client's name as long as real ones.
fn post() -> Batch {
    let payload = Payload::plain(Bytes::from(vec![b'1'; 1024]));
    let messages = vec![NewMessage { payload, ttl: 3600, delay: 0 }];
    let client = ClientId::new("11111111-2222-3333-4444-555555555555");
    Batch { request: 0, client, messages, notify: true }
}

/// Pages that transactions have written to the log.
struct Counter<'s> {
    store: &'s Embedded,
    in_log: u32,
}

impl<'s> Counter<'s> {
    fn new(store: &'s Embedded) -> Self {
        Self { store, in_log: store.health().log_pages() }
    }

    /// Pages since the last call, during which one transaction was committed.
    fn count(&mut self) -> u32 {
        let before = std::mem::replace(&mut self.in_log, self.store.health().log_pages());
        // Less than before: the log was restarted.
        self.in_log.checked_sub(before).unwrap_or(self.in_log)
    }
}

async fn open() -> (Embedded, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: Sync::Never, ..Options::new(directory.path()) };
    let store = Embedded::open(options).unwrap();
    store.open(&key("q"), generation(), time(0)).await.unwrap();
    (store, directory)
}

/// The mean number of pages that a transaction of so many posts writes.
async fn pages_of_posts(together: usize, transactions: u32) -> f64 {
    let (store, _directory) = open().await;
    let q = key("q");
    let (mut counter, mut pages) = (Counter::new(&store), 0);
    for round in 0..transactions {
        let now = time(u64::from(round) / 100);
        let held = hold(&store);
        let mut posts: Vec<_> =
            (0..together).map(|_| store.post(&q, generation(), post(), now)).collect();
        // Each is sent when it is first polled.
        poll_fn(|context| {
            assert!(posts.iter_mut().all(|post| post.as_mut().poll(context).is_pending()));
            Poll::Ready(())
        })
        .await;
        drop(held);
        for post in posts {
            post.await.unwrap();
        }
        pages += counter.count();
    }
    f64::from(pages) / f64::from(transactions)
}

/// KiB that a number of pages takes in the log.
fn kib(pages: f64) -> f64 {
    pages * crate::schema::frame_bytes(4096) as f64 / 1024.0
}

/// A message is 1 KiB, so this is how often its bytes are written, besides the copy into the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_posts_writes_few_pages() {
    const BOUNDS: [(usize, u32, f64); 3] = [(1, 2000, 16.9), (8, 500, 4.8), (32, 200, 2.6)];
    for (together, transactions, most) in BOUNDS {
        let pages = pages_of_posts(together, transactions).await;
        let written = kib(pages) / together as f64;
        assert!(
            written <= most,
            "{together} posts in a transaction: {pages} pages, {written} KiB per message"
        );
    }
}

/// Pages of a post, a claim of it, and its deletion, in a transaction each.
#[tokio::test]
async fn a_post_with_its_claim_and_deletion_writes_few_pages() {
    const ROUNDS: u32 = 2000;
    const BOUNDS: [f64; 3] = [17.3, 22.0, 8.1];
    let (store, _directory) = open().await;
    let q = key("q");
    let (mut counter, mut pages) = (Counter::new(&store), [0; 3]);
    for round in 0..ROUNDS {
        let now = time(u64::from(round) / 100);
        store.post(&q, generation(), post(), now).await.unwrap();
        pages[0] += counter.count();
        let number = u128::from(round) + 1;
        let claimed = store.claim(&q, generation(), &request(number, 600), now).await.unwrap();
        pages[1] += counter.count();
        let Guarded::Done(Claimed::Messages { messages, .. }) = claimed else { panic!() };
        let claim = Some(ClaimId::new(number));
        store.delete(&q, messages[0].id, claim, now).await.unwrap();
        pages[2] += counter.count();
    }
    let written = pages.map(|pages| kib(f64::from(pages) / f64::from(ROUNDS)));
    assert!(written.iter().zip(BOUNDS).all(|(written, most)| *written <= most), "{written:?} KiB");
}
