//! Counts what posts write to the disk.
//!
//! `written DIRECTORY POSTERS MESSAGES [BYTES]` creates a store in a new directory and posts so
//! many messages of 1 KiB, or of so many bytes, one at a time by each poster. It prints, per
//! message, the KiB that the process has written according to `/proc/self/io` and its write calls,
//! and the latencies. `write_bytes` counts pages that become dirty, so the
//! directory must be on a disk.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zaqar_core::storage::{Batch, Guarded, Heads, Messages, NewMessage, Upkeep};
use zaqar_core::{
    ClientId, Clock, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey, QueueName,
    SystemClock, Version,
};
use zaqar_storage_embedded::{Embedded, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const LIFE: Generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (directory, posters, messages, bytes) = match arguments[..] {
        [directory, posters, messages] => (directory, posters, messages, "1024"),
        [directory, posters, messages, bytes] => (directory, posters, messages, bytes),
        _ => return Err("written DIRECTORY POSTERS MESSAGES [BYTES]".into()),
    };
    let load =
        Load { posters: posters.parse()?, messages: messages.parse()?, bytes: bytes.parse()? };
    load.run(Path::new(directory)).await
}

struct Load {
    posters: usize,
    messages: usize,
    bytes: usize,
}

impl Load {
    async fn run(&self, directory: &Path) -> Result<(), Failure> {
        let store = Embedded::open(Options::new(directory))?;
        let project = ProjectId::new("p")?;
        let key = QueueKey { project, kind: Kind::Queue, name: QueueName::new("q")? };
        store.open(&key, LIFE, SystemClock.now()).await?;
        let (before, began) = (Io::read()?, Instant::now());
        let each = self.messages / self.posters;
        let posters: Vec<_> = (0..self.posters)
            .map(|_| tokio::spawn(post(store.clone(), key.clone(), each, self.bytes)))
            .collect();
        let mut latencies = Vec::new();
        for poster in posters {
            latencies.extend(poster.await??);
        }
        let (io, elapsed) = (Io::read()?.since(&before), began.elapsed());
        let count = (each * self.posters) as f64;
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_micros();
        println!(
            "{} posters, {count} messages: {:.2} KiB written and {:.2} write calls per message; \
             {:.0} messages/s, p50 {} p99 {} p99.9 {} us",
            self.posters,
            io.written as f64 / 1024.0 / count,
            io.calls as f64 / count,
            count / elapsed.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
        );
        store.shut_down().await.map_err(Into::into)
    }
}

async fn post(
    store: Embedded,
    key: QueueKey,
    count: usize,
    bytes: usize,
) -> Result<Vec<Duration>, Failure> {
    let payload = Payload::plain(Bytes::from(vec![b'1'; bytes]));
    let messages = vec![NewMessage { payload, ttl: 3600, delay: 0 }];
    let client = ClientId::new("11111111-2222-3333-4444-555555555555");
    let batch = Batch { request: 0, client, messages, notify: true };
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        match store.post(&key, LIFE, batch.clone(), SystemClock.now()).await? {
            Guarded::Done(_) => latencies.push(began.elapsed()),
            gone @ (Guarded::Absent | Guarded::Stale(_)) => {
                return Err(format!("the queue is gone: {gone:?}").into());
            }
        }
    }
    Ok(latencies)
}

/// What this process has written.
struct Io {
    written: u64,
    calls: u64,
}

impl Io {
    fn read() -> Result<Self, Failure> {
        let text = std::fs::read_to_string("/proc/self/io")?;
        let number = |name: &str| -> Result<u64, Failure> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.ok_or("/proc/self/io has no such line")?.trim().parse()?)
        };
        Ok(Self { written: number("write_bytes:")?, calls: number("syscw:")? })
    }

    const fn since(&self, before: &Self) -> Self {
        Self { written: self.written - before.written, calls: self.calls - before.calls }
    }
}
