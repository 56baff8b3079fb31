//! Runs a load on a store, or checks a store afterwards: the parts of `tools/soak`.
//!
//! `soak load DIRECTORY MODE SEED STEPS` posts, claims and deletes on a few queues with several
//! tasks, `STEPS` steps each, and shuts the store down. Before each request, and after each answer,
//! it appends a line to `acks` in the directory, so that an observer of its writes knows what was
//! acknowledged when.
//!
//! `soak check DIRECTORY` opens the store, prints each message, and then the problems of its
//! file.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deletable, Error, Guarded, Heads, ListQuery, Messages,
    NewMessage, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, MessageId, Payload, ProjectId, QueueKey,
    QueueName, Timestamp, Version,
};
use zaqar_storage_embedded::{Embedded, Options, Sync};

type Failure = Box<dyn std::error::Error + Send + std::marker::Sync>;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const LIFE: Generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
const QUEUES: u64 = 3;
const TASKS: u64 = 6;

/// What must be 0 in every state of the file.
const CHECKS: [(&str, &str); 6] = [
    (
        "states without a body",
        "SELECT count(*) FROM (SELECT position FROM free UNION ALL SELECT position FROM held \
         UNION ALL SELECT position FROM delayed) AS states \
         WHERE NOT EXISTS (SELECT 1 FROM messages WHERE messages.position = states.position)",
    ),
    (
        "messages in two states",
        "SELECT count(*) FROM (SELECT position FROM (SELECT position FROM free UNION ALL \
         SELECT position FROM held UNION ALL SELECT position FROM delayed) \
         GROUP BY position HAVING count(*) > 1)",
    ),
    (
        "bodies that never expire",
        "SELECT count(*) FROM messages \
         WHERE position NOT IN (SELECT position FROM expiry)",
    ),
    (
        "expiry of what is not there",
        "SELECT count(*) FROM expiry WHERE position NOT IN (SELECT position FROM messages)",
    ),
    (
        "wrong counts of a queue",
        "SELECT count(*) FROM heads WHERE free <> (SELECT count(*) FROM free WHERE free.number = heads.number) \
         OR held <> (SELECT count(*) FROM held WHERE held.number = heads.number) \
         OR delayed <> (SELECT count(*) FROM delayed WHERE delayed.number = heads.number)",
    ),
    (
        "positions that would be given again",
        "SELECT count(*) FROM messages WHERE position >= (SELECT position FROM sequence)",
    ),
];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["load", directory, mode, seed, steps] => {
            load(Path::new(directory), mode, seed.parse()?, steps.parse()?).await
        }
        ["check", directory] => check(Path::new(directory)).await,
        _ => {
            Err("soak load DIRECTORY always|interval|never SEED STEPS, or soak check DIRECTORY"
                .into())
        }
    }
}

fn options(directory: &Path, mode: &str) -> Result<Options, Failure> {
    let sync = match mode {
        "always" => Sync::Always,
        "interval" => Sync::Interval(Duration::from_millis(50)),
        "never" => Sync::Never,
        other => return Err(format!("no such mode: {other}").into()),
    };
    Ok(Options { sync, ..Options::new(directory) })
}

fn key(number: u64) -> Result<QueueKey, Failure> {
    let name = QueueName::new(&format!("q{number}"))?;
    Ok(QueueKey { project: ProjectId::new("soak")?, kind: Kind::Queue, name })
}

/// The file of what was asked and acknowledged.
#[derive(Clone)]
struct Acks(Arc<Mutex<File>>);

impl Acks {
    fn open(directory: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().append(true).create(true).open(directory.join("acks"))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// One write, so that a kill leaves whole lines.
    fn tell(&self, line: &str) -> Result<(), Failure> {
        let mut file = self.0.lock().map_err(|_| "another task panicked")?;
        file.write_all(format!("{line}\n").as_bytes()).map_err(Into::into)
    }
}

/// A small generator of numbers that look random.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

async fn load(directory: &Path, mode: &str, seed: u64, steps: u64) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)?;
    let acks = Acks::open(directory)?;
    let store = Embedded::open(options(directory, mode)?)?;
    for queue in 0..QUEUES {
        // A disk that fails now and then fails here, too.
        while let Err(Error::Unavailable { .. }) = store.open(&key(queue)?, LIFE, NOW).await {}
    }
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let worker = Worker {
                store: store.clone(),
                acks: acks.clone(),
                chance: Chance(seed.wrapping_mul(1000).wrapping_add(task)),
                name: format!("{seed}-{task}"),
                made: 0,
            };
            tokio::spawn(worker.run(steps))
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    store.shut_down().await?;
    acks.tell("closed")
}

struct Worker {
    store: Embedded,
    acks: Acks,
    chance: Chance,
    name: String,
    made: u64,
}

impl Worker {
    async fn run(mut self, steps: u64) -> Result<(), Failure> {
        for _ in 0..steps {
            let queue = key(self.chance.below(QUEUES))?;
            let outcome = match self.chance.below(10) {
                0..6 => self.post(&queue).await,
                6..9 => self.claim(&queue).await,
                _ => self.sweep().await,
            };
            match outcome {
                Ok(()) => {}
                // Not acknowledged: it may have been done.
                Err(error) if error.is::<Error>() => self.acks.tell(&format!("failed {error}"))?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn post(&mut self, queue: &QueueKey) -> Result<(), Failure> {
        let mut messages = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..=self.chance.below(3) {
            self.made += 1;
            let body = format!("\"{}-{}\"", self.name, self.made);
            let bytes = usize::try_from(self.chance.below(4000))?;
            keys.push(body.trim_matches('"').to_owned());
            let body = format!("[{body}, \"{}\"]", "x".repeat(bytes));
            messages.push(NewMessage {
                payload: Payload::plain(Bytes::from(body)),
                ttl: 86_400,
                delay: 0,
            });
        }
        self.acks.tell(&format!("posting {}", keys.join(" ")))?;
        let batch = Batch { request: 0, client: ClientId::new("soak"), messages, notify: false };
        match self.store.post(queue, LIFE, batch, NOW).await? {
            Guarded::Done(_) => self.acks.tell(&format!("posted {}", keys.join(" "))),
            other => Err(format!("a queue is lost: {other:?}").into()),
        }
    }

    /// Claims for ever, and deletes most of what it got.
    async fn claim(&mut self, queue: &QueueKey) -> Result<(), Failure> {
        self.made += 1;
        let id = ClaimId::new(u128::from(self.chance.0) << 64 | u128::from(self.made));
        let limit = usize::try_from(1 + self.chance.below(5))?;
        let request = ClaimRequest::new(id, 86_400, limit);
        self.acks.tell(&format!("claiming {id}"))?;
        let claimed = match self.store.claim(queue, LIFE, &request, NOW).await? {
            Guarded::Done(Claimed::Messages { messages, .. }) => messages,
            other => return Err(format!("a queue is lost: {other:?}").into()),
        };
        let keys: Vec<_> = claimed.iter().map(|message| key_of(&message.payload)).collect();
        self.acks.tell(&format!("claimed {id} {}", keys.join(" ")))?;
        let most = usize::try_from(self.chance.below(6))?.min(claimed.len());
        if most == 0 {
            return Ok(());
        }
        let ids: Vec<MessageId> = claimed[..most].iter().map(|message| message.id).collect();
        self.acks.tell(&format!("deleting {}", keys[..most].join(" ")))?;
        self.store.delete_many(queue, &ids, &Deletable::Any, NOW).await?;
        self.acks.tell(&format!("deleted {}", keys[..most].join(" ")))
    }

    async fn sweep(&self) -> Result<(), Failure> {
        self.store.sweep(NOW, 500).await?;
        Ok(())
    }
}

/// What its producer called a message.
fn key_of(payload: &Payload) -> String {
    let text = String::from_utf8_lossy(&payload.bytes);
    text.split('"').nth(1).unwrap_or("none").to_owned()
}

async fn check(directory: &Path) -> Result<(), Failure> {
    let store = Embedded::open(Options::new(directory))?;
    for queue in 0..QUEUES {
        let mut after = None;
        loop {
            let query = ListQuery {
                after,
                limit: 1000,
                hide: None,
                include_claimed: true,
                include_delayed: true,
            };
            let page = Messages::list(&store, &key(queue)?, &query, NOW).await?;
            for message in &page.messages {
                let claim = message.claim.map_or("-".to_owned(), |claim| claim.to_string());
                println!("message {} {claim}", key_of(&message.payload));
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    store.ping().await?;
    zaqar_storage_testkit::sweep(&store, NOW, 500).await;
    store.shut_down().await?;
    check_file(&directory.join("zaqar.db"))
}

fn check_file(file: &PathBuf) -> Result<(), Failure> {
    let conn = Connection::open(file)?;
    let integrity: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if integrity != "ok" {
        println!("bad integrity_check: {integrity}");
    }
    for (what, sql) in CHECKS {
        let count: i64 = conn.query_row(sql, [], |row| row.get(0))?;
        if count != 0 {
            println!("bad {what}: {count}");
        }
    }
    println!("checked");
    Ok(())
}
