//! A benchmark of the store against the bare driver, which sends the same commands, in the same run
//! on the same server.
//!
//! `cargo run --release -p zaqar-storage-mongo --example figures -- mongodb://127.0.0.1:27017/ 200`
//!
//! The last argument is the number of rounds. The compatible server of the tests reads a whole
//! queue before it sorts it: use 50 rounds there. At the end 1, 8, 32 and 128 posters post to one
//! queue for some seconds each, through the store and then through the driver.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use mongodb::bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use mongodb::options::{Acknowledgment, WriteConcern};
use mongodb::{Client, Database};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Guarded, Heads, Messages, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey,
    QueueName, SystemClock, Version,
};
use zaqar_storage_mongo::{Mongo, Options};

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: u32 = 200;
const BODY: &[u8] = &[b'1'; 1000];
/// How many post to one queue at once, and for how long.
const POSTERS: [usize; 4] = [1, 8, 32, 128];
const POSTING: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Outcome<()> {
    let uri = std::env::args().nth(1).ok_or("the server's URI is missing")?;
    let rounds = std::env::args().nth(2).map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let name = format!("figures_{:016x}", rand::random::<u64>());
    let store = Mongo::open(Options::new(&uri, &name)).await?;
    let raw = raw(&uri, &name).await?;
    println!(
        "{rounds} sequential requests, alternating between store and driver; bodies of 1 kB; milliseconds per request"
    );
    println!("{:24} {:>8} {:>8} {:>6}", "", "store", "driver", "ratio");
    let queue = Queue::open(&store).await?;
    for count in [1, 10] {
        let what = format!("post of {count}");
        let theirs = async |_| raw_post(&raw, count).await;
        compare(rounds, &what, async |_| queue.post(count).await, theirs).await?;
    }
    let theirs = async |round| raw_claim_and_delete(&raw, round, 10).await;
    compare(rounds, "claim of 10, 10 deletes", async |_| queue.claim_and_delete(10).await, theirs)
        .await?;
    println!("\n{POSTING:?} of posts of one message to one queue; posts per second");
    println!("{:24} {:>8} {:>8} {:>6}", "posters", "store", "driver", "ratio");
    for posters in POSTERS {
        let ours = rate(posters, async || queue.post(1).await).await?;
        let theirs = rate(posters, async || raw_post(&raw, 1).await).await?;
        println!("{posters:<24} {ours:8.0} {theirs:8.0} {:6.2}", ours / theirs);
    }
    raw.drop().await?;
    let client = raw.client();
    client.database(&format!("{name}_server")).drop().await?;
    Ok(())
}

/// Times alternating rounds of both, so that other load slows both down; prints the averages and
/// their ratio.
async fn compare(
    rounds: u32,
    what: &str,
    ours: impl AsyncFn(u32) -> Outcome<()>,
    theirs: impl AsyncFn(u32) -> Outcome<()>,
) -> Outcome<()> {
    let (mut our_time, mut their_time) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        our_time += timed(ours(round)).await?;
        their_time += timed(theirs(round)).await?;
    }
    let millis = |time: Duration| time.as_secs_f64() * 1000.0 / f64::from(rounds);
    let (ours, theirs) = (millis(our_time), millis(their_time));
    println!("{what:24} {ours:8.2} {theirs:8.2} {:6.2}", ours / theirs);
    Ok(())
}

/// The rate of posts of concurrent posters.
async fn rate(posters: usize, post: impl AsyncFn() -> Outcome<()>) -> Outcome<f64> {
    let start = Instant::now();
    let posted = try_join_all((0..posters).map(async |_| {
        let mut posted = 0_u32;
        while start.elapsed() < POSTING {
            post().await?;
            posted += 1;
        }
        Ok::<_, Box<dyn Error>>(posted)
    }))
    .await?;
    Ok(f64::from(posted.iter().sum::<u32>()) / start.elapsed().as_secs_f64())
}

async fn timed(work: impl Future<Output = Outcome<()>>) -> Outcome<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

struct Queue<'a> {
    store: &'a Mongo,
    key: QueueKey,
    generation: Generation,
    clock: SystemClock,
}

impl<'a> Queue<'a> {
    async fn open(store: &'a Mongo) -> Outcome<Self> {
        let key = QueueKey {
            project: ProjectId::new("figures")?,
            kind: Kind::Queue,
            name: QueueName::new("q")?,
        };
        let generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
        let clock = SystemClock;
        Heads::open(store, &key, generation, clock.now()).await?;
        Ok(Self { store, key, generation, clock })
    }

    async fn post(&self, count: usize) -> Outcome<()> {
        let payload = Payload::plain(Bytes::from_static(BODY));
        let batch = Batch {
            request: rand::random(),
            client: ClientId::new("c"),
            messages: vec![NewMessage { payload, ttl: 3600, delay: 0 }; count],
            notify: true,
        };
        let now = self.clock.now();
        match self.store.post(&self.key, self.generation, batch, now).await? {
            Guarded::Done(_) => Ok(()),
            refused => Err(format!("{refused:?}").into()),
        }
    }

    async fn claim_and_delete(&self, limit: usize) -> Outcome<()> {
        let id = ClaimId::new(rand::random());
        let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 300, limit) };
        let now = self.clock.now();
        let claimed = self.store.claim(&self.key, self.generation, &request, now).await?;
        let Guarded::Done(Claimed::Messages { messages, .. }) = claimed else {
            return Err("the queue has changed".into());
        };
        for message in messages {
            self.store.delete(&self.key, message.id, Some(id), now).await?;
        }
        Ok(())
    }
}

/// A database with the same indexes on messages.
async fn raw(uri: &str, name: &str) -> Outcome<Database> {
    let client = Client::with_uri_str(uri).await?;
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let options = mongodb::options::DatabaseOptions::builder().write_concern(majority).build();
    let db = client.database_with_options(&format!("{name}_raw"), options);
    let indexes = client
        .database(&format!("{name}_server"))
        .run_command(doc! { "listIndexes": "queue_messages" })
        .await?;
    let indexes = indexes.get_document("cursor")?.get_array("firstBatch")?;
    let own: Vec<_> = indexes
        .iter()
        .filter_map(|index| index.as_document().cloned())
        .filter(|index| index.get_str("name").is_ok_and(|name| name != "_id_"))
        .map(|mut index| {
            index.remove("ns");
            index
        })
        .collect();
    db.run_command(doc! { "createIndexes": "messages", "indexes": own }).await?;
    let head = doc! { "_id": "q", "next": 1_i64, "turn": 0_i64, "todo": [] };
    db.collection::<Document>("heads").insert_one(head).await?;
    Ok(db)
}

fn binary(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

async fn raw_post(db: &Database, count: usize) -> Outcome<()> {
    let (messages, heads) =
        (db.collection::<Document>("messages"), db.collection::<Document>("heads"));
    let post: [u8; 16] = rand::random();
    let id = |i: usize| binary(&[post.as_slice(), &i.to_be_bytes()].concat());
    let documents = (0..count).map(|i| {
        doc! {
            "_id": id(i), "i": i64::try_from(i).unwrap_or(0), "l": 3600_i64, "u": "c",
            "b": binary(BODY), "x": DateTime::from_millis(1 << 41),
        }
    });
    messages.insert_many(documents).ordered(false).await?;
    let step = doc! { "op": binary(&post), "first": "$next" };
    let change = vec![doc! { "$set": {
        "next": { "$add": ["$next", i64::try_from(count)?] },
        "todo": { "$concatArrays": ["$todo", [step]] },
    } }];
    let head = heads.find_one_and_update(doc! { "_id": "q" }, change).await?;
    let first = head.ok_or("the head is missing")?.get_i64("next")?;
    let ids: Vec<_> = (0..count).map(id).collect();
    let change = vec![
        doc! { "$set": {
            "h": 7_i64, "n": { "$add": [first, "$i"] }, "s": 0, "q": 0_i64, "k": 0,
            "a": DateTime::from_millis(1 << 41),
        } },
        doc! { "$unset": "i" },
    ];
    messages.update_many(doc! { "_id": { "$in": ids }, "h": { "$exists": false } }, change).await?;
    let done = doc! { "$pull": { "todo": { "op": binary(&post) } } };
    heads.update_one(doc! { "_id": "q" }, done).await?;
    Ok(())
}

async fn raw_claim_and_delete(db: &Database, round: u32, limit: usize) -> Outcome<()> {
    use futures_util::TryStreamExt;
    let (messages, heads) =
        (db.collection::<Document>("messages"), db.collection::<Document>("heads"));
    let claims = db.collection::<Document>("claims");
    let queue = doc! { "_id": "q" };
    heads.find_one(queue.clone()).await?;
    let free = doc! { "h": 7_i64, "s": 0, "n": { "$lt": i64::MAX } };
    let limit = i64::try_from(limit)?;
    let found: Vec<Document> =
        messages.find(free).sort(doc! { "n": 1 }).limit(limit).await?.try_collect().await?;
    let claim = i64::from(round);
    claims.insert_one(doc! { "_id": claim }).await?;
    let step = doc! { "$inc": { "turn": 1_i64 }, "$push": { "todo": { "op": claim } } };
    heads.find_one_and_update(queue.clone(), step).await?;
    let positions: Vec<_> = found.iter().filter_map(|message| message.get_i64("n").ok()).collect();
    let held = doc! { "$set": { "s": 1, "c": claim, "q": claim }, "$inc": { "k": 1 } };
    let (of_claim, live) = (doc! { "_id": claim }, doc! { "$set": { "live": true } });
    let filter = doc! { "h": 7_i64, "n": { "$in": &positions } };
    futures_util::try_join!(async { claims.update_one(of_claim, live).await }, async {
        messages.update_many(filter, held).await
    })?;
    let done = doc! { "$pull": { "todo": { "op": claim } } };
    heads.update_one(queue.clone(), done).await?;
    for position in positions {
        heads.find_one(queue.clone()).await?;
        messages.delete_one(doc! { "h": 7_i64, "n": position, "s": 1, "c": claim }).await?;
    }
    Ok(())
}
