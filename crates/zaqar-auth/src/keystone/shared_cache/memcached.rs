//! A memcached server: `get` and `set` of its text protocol, bounded in connections, time and size.
//!
//! The clients there are read answers of any size, and leave connections, time-outs and servers
//! that are away to their callers; this is all that is asked of the protocol.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use zaqar_core::StateLog;

use super::{MemcachedServer, SharedCacheOptions};

/// Bytes of an entry, at most: what python-memcached and servers take.
const MAX_ENTRY: usize = 1024 * 1024;
/// How long a request waits for a free connection: behind a burst Keystone is asked instead.
const CONNECTION_WAIT: Duration = Duration::from_millis(250);
/// At most one line about a server that is away in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of a line of an answer, at most.
const MAX_LINE: u64 = 512;

/// A server, and connections to it.
pub(super) struct Memcached {
    server: MemcachedServer,
    timeout: Duration,
    dead_for: Duration,
    unused_for: Duration,
    permits: Semaphore,
    /// With the time since when each is idle.
    idle: Mutex<Vec<(Connection, Instant)>>,
    /// Left alone until then. Behind that time one request is let through, which moves it on for as
    /// long as that request may take; the first answer ends it.
    away_until: Mutex<Option<Instant>>,
    /// Requests that failed.
    failures: AtomicU64,
    pub(super) log: StateLog,
}

type Connection = BufReader<Box<dyn Stream>>;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// The server answered.
    Answered(T),
    /// The server was not asked: no connection was free, or the entry is too large.
    NotAsked,
    /// It did not answer as it should, and is left alone.
    Failed(Error),
}

/// Why a server did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It does not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// It cannot be reached, or the connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is asked.
#[derive(Clone, Copy)]
enum Request<'a> {
    Get { key: &'a str },
    Set { key: &'a str, entry: &'a [u8], seconds: u64 },
}

impl fmt::Display for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            MemcachedServer::Tcp(host, port) => write!(f, "{host}:{port}"),
            MemcachedServer::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memcached({self})")
    }
}

impl Memcached {
    pub(super) fn new(server: &MemcachedServer, options: &SharedCacheOptions) -> Self {
        Self {
            server: server.clone(),
            timeout: options.timeout,
            dead_for: options.dead_for,
            unused_for: options.unused_for,
            permits: Semaphore::new(options.connections),
            idle: Mutex::default(),
            away_until: Mutex::default(),
            failures: AtomicU64::default(),
            log: StateLog::with_interval(LOG_INTERVAL),
        }
    }

    /// Whether a request may be made now. Of those behind the time for which the server was left
    /// alone, one.
    pub(super) fn may_ask(&self) -> bool {
        let mut away_until = lock(&self.away_until);
        let Some(until) = *away_until else { return true };
        let now = Instant::now();
        if now < until {
            return false;
        }
        *away_until = Some(now + CONNECTION_WAIT + self.timeout);
        true
    }

    /// The entry of a key.
    pub(super) async fn get(&self, key: &str) -> Outcome<Option<Vec<u8>>> {
        self.ask(Request::Get { key }).await
    }

    /// Stores an entry for some seconds. One that is too large is not stored.
    pub(super) async fn set(
        &self,
        key: &str,
        entry: &[u8],
        seconds: u64,
    ) -> Outcome<Option<Vec<u8>>> {
        if entry.len() > MAX_ENTRY {
            return Outcome::NotAsked;
        }
        self.ask(Request::Set { key, entry, seconds }).await
    }

    async fn ask(&self, request: Request<'_>) -> Outcome<Option<Vec<u8>>> {
        let failures = self.failures.load(Ordering::Relaxed);
        // A server whose connections are all in use is not away.
        let Ok(Ok(_permit)) = timeout(CONNECTION_WAIT, self.permits.acquire()).await else {
            return Outcome::NotAsked;
        };
        if self.failures.load(Ordering::Relaxed) != failures {
            return Outcome::NotAsked;
        }
        let answer = timeout(self.timeout, self.ask_on_a_connection(request)).await;
        match answer.unwrap_or(Err(Error::TimedOut)) {
            Ok(answer) => {
                *lock(&self.away_until) = None;
                Outcome::Answered(answer)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                *lock(&self.away_until) = Some(Instant::now() + self.dead_for);
                lock(&self.idle).clear();
                Outcome::Failed(error)
            }
        }
    }

    async fn ask_on_a_connection(&self, request: Request<'_>) -> Result<Option<Vec<u8>>, Error> {
        // The server may have closed one that waited.
        if let Some(connection) = self.idle_connection()
            && let Ok(answer) = self.exchange(connection, request).await
        {
            return Ok(answer);
        }
        let connection = BufReader::new(self.connect().await?);
        Ok(self.exchange(connection, request).await?)
    }

    /// The connection that was used last. Those that are idle for too long are closed.
    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.retain(|(_, since)| since.elapsed() < self.unused_for);
        Some(idle.pop()?.0)
    }

    /// Keeps all connections in use.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.permits.acquire().await.unwrap()
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.server {
            MemcachedServer::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            MemcachedServer::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// Keeps the connection only behind a whole answer.
    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<'_>,
    ) -> io::Result<Option<Vec<u8>>> {
        connection.write_all(&request.bytes()).await?;
        let found = match request {
            Request::Get { key } => entry(&mut connection, key).await?,
            Request::Set { .. } => {
                let said = line(&mut connection).await?;
                if said != "STORED" {
                    return refused(&said);
                }
                None
            }
        };
        lock(&self.idle).push((connection, Instant::now()));
        Ok(found)
    }
}

impl Request<'_> {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Get { key } => format!("get {key}\r\n").into_bytes(),
            Self::Set { key, entry, seconds } => {
                let head = format!("set {key} 0 {seconds} {}\r\n", entry.len());
                [head.as_bytes(), entry, b"\r\n"].concat()
            }
        }
    }
}

async fn entry(connection: &mut Connection, key: &str) -> io::Result<Option<Vec<u8>>> {
    let said = line(connection).await?;
    if said == "END" {
        return Ok(None);
    }
    let words: Vec<&str> = said.split(' ').collect();
    let ["VALUE", named, _flags, length] = words[..] else { return refused(&said) };
    let length = length.parse().ok().filter(|length| named == key && *length <= MAX_ENTRY);
    let Some(length) = length else { return Err(unreadable()) };
    let mut entry = vec![0; length + 2];
    connection.read_exact(&mut entry).await?;
    if line(connection).await? != "END" {
        return Err(unreadable());
    }
    entry.truncate(length);
    Ok(Some(entry))
}

/// A line without its end.
async fn line(connection: &mut Connection) -> io::Result<String> {
    let mut line = Vec::new();
    connection.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    let line = line.strip_suffix(b"\r\n").ok_or_else(unreadable)?;
    String::from_utf8(line.to_vec()).map_err(|_| unreadable())
}

/// A server that refuses a request, for want of memory or for its size, is there all the same; what
/// else it says, and what is left of the request, is not looked at.
fn refused(said: &str) -> io::Result<Option<Vec<u8>>> {
    if said.starts_with("SERVER_ERROR") || said.starts_with("NOT_STORED") {
        Ok(None)
    } else {
        Err(unreadable())
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that is none of memcached's")
}

/// No code panics while it holds this lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
