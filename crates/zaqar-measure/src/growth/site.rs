//! A server on this machine with its store, and what they hold.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::process::{self, Threads};
use crate::redis::Redis;
use crate::zaqar::{Sender, Target};

/// A server, its process and its store.
#[derive(Debug, Clone)]
pub(super) struct Site {
    url: String,
    pid: u32,
    store: Store,
}

#[derive(Debug, Clone)]
enum Store {
    Embedded { directory: PathBuf },
    Redis(Redis),
}

/// What a server and its store hold, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// The server's resident memory.
    pub(super) server: u64,
    /// What the store's files occupy without their log, or the memory that Redis has allocated.
    pub(super) store: u64,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) server: Duration,
    /// That of a store that is a process of its own.
    pub(super) store: Option<Duration>,
}

impl Spent {
    pub(super) fn add(&mut self, other: Self) {
        self.server += other.server;
        self.store = other.store.map(|store| self.store.unwrap_or_default() + store);
    }
}

/// What the processes have used until a moment.
#[derive(Debug)]
pub(super) struct Used {
    server: Threads,
    store: Option<Threads>,
}

impl Used {
    /// What was spent from `before` until this moment.
    pub(super) fn since(&self, before: &Self) -> Spent {
        let store = self.store.as_ref().zip(before.store.as_ref());
        Spent {
            server: self.server.since(&before.server),
            store: store.map(|(now, before)| now.since(before)),
        }
    }
}

/// Reads `URL,PID,DIRECTORY`.
pub(super) fn embedded(text: &str) -> Result<Site, String> {
    let [url, pid, directory] = parts(text)?;
    let store = Store::Embedded { directory: directory.into() };
    Ok(Site { url: url.to_owned(), pid: number(pid)?, store })
}

/// Reads `URL,PID,PORT,PID`.
pub(super) fn redis(text: &str) -> Result<Site, String> {
    let [url, pid, port, redis] = parts(text)?;
    let store = Store::Redis(Redis { port: number(port)?, pid: number(redis)? });
    Ok(Site { url: url.to_owned(), pid: number(pid)?, store })
}

fn parts<const COUNT: usize>(text: &str) -> Result<[&str; COUNT], String> {
    let parts: Vec<&str> = text.splitn(COUNT, ',').collect();
    parts.try_into().map_err(|_| format!("{text}: {COUNT} parts with commas are needed"))
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

impl Site {
    /// The name of the store.
    pub(super) fn name(&self) -> &'static str {
        match self.store {
            Store::Embedded { .. } => "embedded",
            Store::Redis(_) => "Redis",
        }
    }

    /// Where requests go.
    pub(super) async fn target(&self, sender: &Sender) -> Result<Target, Error> {
        Target::new(&self.url, sender).await
    }

    /// What the server and its store hold now.
    pub(super) fn held(&self) -> Result<Held, Error> {
        let store = match &self.store {
            Store::Embedded { directory } => occupied(directory)?,
            Store::Redis(redis) => redis.used_memory()?,
        };
        Ok(Held { server: process::resident(self.pid)? * 1024, store })
    }

    /// The CPU time that the processes have used until now.
    pub(super) fn used(&self) -> Result<Used, Error> {
        let store = match self.store {
            Store::Embedded { .. } => None,
            Store::Redis(Redis { pid, .. }) => Some(Threads::of(pid)?),
        };
        Ok(Used { server: Threads::of(self.pid)?, store })
    }
}

/// Bytes on the disk of a directory's files. SQLite's log is not counted: what it holds is in the
/// file as well, but for a few MiB, and it is up to 32 MiB long whatever the store holds.
fn occupied(directory: &Path) -> Result<u64, Error> {
    /// What `st_blocks` counts.
    const BLOCK: u64 = 512;
    /// The ends of the names of a log and its index.
    const LOG: [&[u8]; 2] = [b"-wal", b"-shm"];
    let failed = |source| Error::File { path: directory.to_owned(), source };
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if LOG.iter().any(|end| name.as_encoded_bytes().ends_with(end)) {
            continue;
        }
        match entry.metadata() {
            Ok(file) if file.is_dir() => bytes += occupied(&entry.path())?,
            Ok(file) => bytes += file.blocks() * BLOCK,
            // It was removed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_read_from_their_parts() {
        let site = embedded("http://127.0.0.1:8888,7,/a,b").unwrap();
        assert_eq!((site.name(), site.pid), ("embedded", 7));
        let Store::Embedded { directory } = site.store else { panic!("{:?}", site.store) };
        assert_eq!(directory, Path::new("/a,b"));
        let site = redis("http://127.0.0.1:8888,7,6379,8").unwrap();
        let Store::Redis(redis_of_site) = site.store else { panic!("{:?}", site.store) };
        assert_eq!((redis_of_site.port, redis_of_site.pid), (6379, 8));
        assert!(redis("http://127.0.0.1:8888,7,6379").is_err());
        assert!(redis("http://127.0.0.1:8888,7,6379,x").is_err());
        assert!(embedded("http://127.0.0.1:8888").is_err());
    }

    #[test]
    fn files_of_all_directories_are_counted_but_no_log() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let before = occupied(directory.path()).unwrap();
        std::fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::write(below.join("b"), vec![1; 200_000]).unwrap();
        std::fs::write(below.join("b-wal"), vec![1; 400_000]).unwrap();
        let sync = |path: PathBuf| std::fs::File::open(path).unwrap().sync_all().unwrap();
        sync(directory.path().join("a"));
        sync(below.join("b"));
        sync(below.join("b-wal"));
        let bytes = occupied(directory.path()).unwrap() - before;
        assert!((300_000..400_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn time_is_summed_of_both_processes() {
        let of = |server, store: Option<u64>| Spent {
            server: Duration::from_millis(server),
            store: store.map(Duration::from_millis),
        };
        let mut all = Spent::default();
        all.add(of(20, Some(30)));
        all.add(of(10, Some(1)));
        assert_eq!((all.server, all.store), (of(30, None).server, of(0, Some(31)).store));
        let mut all = Spent::default();
        all.add(of(20, None));
        assert_eq!(all.store, None);
    }
}
