//! Connections to one server: made when they are needed, shared by requests, and made anew when
//! they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clients::{Timeouts, connect, timed_out};
use crate::config::Options;
use crate::envelope::ServerClock;
use crate::error::Trouble;
use crate::sentinel::Sentinels;
use crate::turns::Scheduler;
use crate::uri::Servers;

/// After a connection could not be made, others who want it are told so for this long.
const COOL: Duration = Duration::from_millis(50);
/// Connections of writes that wait for replicas: to a server, and to each node of a Cluster.
const WAITERS: usize = 32;
const NODE_WAITERS: usize = 16;
/// Requests in flight to a server at most, and of one project: quick ones, and large ones.
const QUICK: (usize, usize) = (256, 64);
const LARGE: (usize, usize) = (4, 2);

/// Which connections a request takes: large answers would hold up what follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Small requests with small answers.
    Quick,
    /// Pages and batches of up to some MiB.
    Large,
}

/// A command on its way.
pub(crate) struct Request<'a> {
    /// Makes the command, for a connection to a server with this clock.
    pub(crate) command: &'a mut (dyn FnMut(ServerClock) -> Cmd + Send),
    /// The key that decides where it goes.
    pub(crate) key: &'a str,
    /// It changes something that has to be as safe as the options ask for.
    pub(crate) is_write: bool,
    pub(crate) lane: Lane,
    /// On whose behalf: projects are served in turn.
    pub(crate) project: &'a str,
}

/// Connections to one server, or to whichever server Sentinels name.
pub(crate) struct Peer {
    source: Source,
    timeouts: Timeouts,
    quick: Road,
    large: Road,
    next: AtomicUsize,
    wait: Option<Wait>,
}

/// Connections that requests share, and whose turn it is.
struct Road {
    turns: Arc<Scheduler>,
    slots: Vec<Slot>,
}

pub(crate) enum Source {
    Server(Box<Client>),
    Sentinels(Box<Sentinels>),
}

/// Writes that wait for replicas. `WAIT` holds up whatever follows on its connection, so each has
/// one to itself: a request that gives up has not been sent, or is cut off, and is not carried out
/// long after its caller was told that it failed.
struct Wait {
    replicas: i64,
    timeout: Duration,
    slots: Vec<Slot>,
    permits: Semaphore,
    /// The slots that nobody uses.
    free: Mutex<Vec<usize>>,
}

/// A slot that nobody else uses until this is dropped.
struct Exclusive<'a> {
    wait: &'a Wait,
    at: usize,
    _permit: SemaphorePermit<'a>,
}

#[derive(Default)]
struct Slot {
    live: Mutex<Option<Live>>,
    /// When a connection could last not be made, and why. Whoever holds the lock makes one.
    failed: tokio::sync::Mutex<Option<(Instant, RedisError)>>,
}

#[derive(Clone)]
struct Live {
    number: usize,
    connection: MultiplexedConnection,
    clock: ServerClock,
}

impl Peer {
    /// Connects to nothing yet.
    pub(crate) fn new(source: Source, options: &Options) -> Self {
        let road = |(capacity, share)| Road {
            turns: Scheduler::new(capacity, share),
            slots: (0..options.connections.max(1)).map(|_| Slot::default()).collect(),
        };
        Self {
            source,
            timeouts: Timeouts::new(options),
            quick: road(QUICK),
            large: road(LARGE),
            next: AtomicUsize::new(0),
            wait: (options.wait_replicas > 0).then(|| Wait::new(options)),
        }
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn send(&self, request: &mut Request<'_>) -> Result<Value, Trouble> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let road = match request.lane {
            Lane::Quick => &self.quick,
            Lane::Large => &self.large,
        };
        let turn = tokio::time::timeout(self.timeouts.answer, road.turns.enter(request.project));
        let _turn = turn.await.map_err(|_| Trouble::NotYet(timed_out()))?;
        let Some(wait) = self.wait.as_ref().filter(|_| request.is_write) else {
            let slot = &road.slots[number % road.slots.len()];
            return self.send_on(slot, number, request, None).await;
        };
        let own = tokio::time::timeout(self.timeouts.answer, wait.acquire()).await;
        let own = own.map_err(|_| Trouble::NotYet(timed_out()))?.map_err(Trouble::NotYet)?;
        self.send_on(own.slot(), number, request, Some(wait)).await
    }

    async fn send_on(
        &self,
        slot: &Slot,
        number: usize,
        request: &mut Request<'_>,
        wait: Option<&Wait>,
    ) -> Result<Value, Trouble> {
        let mut live = self.live(slot, number).await.map_err(Trouble::unconnected)?;
        let command = (request.command)(live.clock);
        let ask = async {
            match wait {
                Some(wait) => ask_and_wait(&mut live.connection, command, wait).await,
                None => ask(&mut live.connection, &command).await,
            }
        };
        // The client has a timer of its own; this one also counts the time until the command is on
        // its way.
        let asked = tokio::time::timeout(self.timeouts.answer, ask).await;
        let answer = asked.unwrap_or_else(|_| Err(Trouble::of(timed_out())));
        if answer.as_ref().is_err_and(Trouble::ends_connection) {
            slot.end(live.number);
        }
        answer
    }

    /// Ends all connections, so that later requests make new ones.
    pub(crate) fn reset(&self) {
        let waiting = self.wait.iter().flat_map(|wait| &wait.slots);
        for slot in self.quick.slots.iter().chain(&self.large.slots).chain(waiting) {
            *slot.lock() = None;
        }
    }

    /// A client of the server, as it is now.
    pub(crate) async fn client(&self) -> RedisResult<Client> {
        match &self.source {
            Source::Server(client) => Ok(client.as_ref().clone()),
            Source::Sentinels(sentinels) => sentinels.master(self.timeouts).await,
        }
    }

    async fn live(&self, slot: &Slot, number: usize) -> RedisResult<Live> {
        if let Some(live) = slot.lock().clone() {
            return Ok(live);
        }
        let mut failed = slot.failed.lock().await;
        if let Some(live) = slot.lock().clone() {
            return Ok(live);
        }
        if let Some((at, error)) = &*failed
            && at.elapsed() < COOL
        {
            return Err(error.clone());
        }
        let made = async {
            let client = self.client().await?;
            connect_and_ask(&client, self.timeouts).await
        };
        let made = tokio::time::timeout(self.timeouts.connect, made);
        match made.await.unwrap_or_else(|_| Err(timed_out())) {
            Ok((connection, clock)) => {
                let live = Live { number, connection, clock };
                *slot.lock() = Some(live.clone());
                *failed = None;
                Ok(live)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// Makes a connection and reads the server's clock.
async fn connect_and_ask(
    client: &Client,
    timeouts: Timeouts,
) -> RedisResult<(MultiplexedConnection, ServerClock)> {
    let mut made = connect(client, timeouts).await?;
    let asked = Instant::now();
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut made).await?;
    Ok((made, ServerClock { connected: seconds * 1_000_000 + micros, asked }))
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, Trouble> {
    let answer = connection.req_packed_command(command).await;
    answer.and_then(Value::extract_error).map_err(Trouble::of)
}

/// Sends a command and, right behind it on the same connection, `WAIT`: that counts the replicas
/// that have all that this connection has written.
async fn ask_and_wait(
    connection: &mut MultiplexedConnection,
    command: Cmd,
    wait: &Wait,
) -> Result<Value, Trouble> {
    let mut pipeline = redis::pipe();
    let millis = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    pipeline.add_command(command).cmd("WAIT").arg(wait.replicas).arg(millis);
    let answers = connection.req_packed_commands(&pipeline, 0, 2).await;
    let mut answers = answers.map_err(Trouble::of)?.into_iter();
    let mut next = || answers.next().unwrap_or_default().extract_error().map_err(Trouble::of);
    let answer = next()?;
    // The command was carried out, whatever keeps the server from counting.
    let counted = next().map_err(|trouble| {
        if let Trouble::NotYet(error) = trouble { Trouble::Unknown(error) } else { trouble }
    });
    let replicas = if let Value::Int(replicas) = counted? { replicas } else { 0 };
    if replicas >= wait.replicas { Ok(answer) } else { Err(Trouble::Unsafe { replicas }) }
}

impl Wait {
    fn new(options: &Options) -> Self {
        let is_cluster = matches!(options.uri.servers, Servers::Cluster(_));
        let count = options.connections.max(if is_cluster { NODE_WAITERS } else { WAITERS });
        Self {
            replicas: options.wait_replicas.into(),
            timeout: options.uri.socket_timeout,
            slots: (0..count).map(|_| Slot::default()).collect(),
            permits: Semaphore::new(count),
            free: Mutex::new((0..count).collect()),
        }
    }

    async fn acquire(&self) -> RedisResult<Exclusive<'_>> {
        let closed = |_| RedisError::from((ErrorKind::Client, "the connections are closed"));
        let permit = self.permits.acquire().await.map_err(closed)?;
        // The one used last is the one most likely to be connected.
        let at = lock(&self.free).pop().unwrap_or_default();
        Ok(Exclusive { wait: self, at, _permit: permit })
    }
}

impl Exclusive<'_> {
    fn slot(&self) -> &Slot {
        &self.wait.slots[self.at]
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        lock(&self.wait.free).push(self.at);
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        lock(&self.live)
    }

    /// Ends a connection, unless there is a newer one.
    fn end(&self, number: usize) {
        let mut live = self.lock();
        if live.as_ref().is_some_and(|live| live.number == number) {
            *live = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held, and any state is right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::client;
    use crate::fake_node;

    async fn peer() -> Peer {
        let options = Options::new("redis://127.0.0.1:1?socket_timeout=600").unwrap();
        let server = Servers::Single(fake_node::start("", Duration::ZERO).await);
        let client = client(&options.uri, &server).unwrap();
        Peer::new(Source::Server(Box::new(client)), &options)
    }

    fn ping(_: ServerClock) -> Cmd {
        cmd("PING")
    }

    #[tokio::test]
    async fn large_answers_have_connections_of_their_own() {
        let (peer, mut ping) = (peer().await, ping);
        for _ in 0..4 {
            let request = Request { lane: Lane::Large, ..Request::plain(&mut ping) };
            peer.send(&mut { request }).await.unwrap();
        }
        let count = |road: &Road| road.slots.iter().filter(|slot| slot.lock().is_some()).count();
        assert_eq!((count(&peer.quick), count(&peer.large)), (0, 2));
    }

    #[tokio::test]
    async fn a_request_waits_for_no_connection_but_its_own() {
        let (peer, mut ping) = (peer().await, ping);
        let connections = peer.quick.slots.len();
        for _ in 0..connections {
            peer.send(&mut Request::plain(&mut ping)).await.unwrap();
        }
        // As while connections are made in the place of those that have ended.
        let _made = peer.quick.slots[0].failed.lock().await;
        let _made_too = peer.large.slots[0].failed.lock().await;
        for _ in 0..2 * connections {
            let mut request = Request::plain(&mut ping);
            let sent = tokio::time::timeout(Duration::from_secs(60), peer.send(&mut request));
            sent.await.expect("it waits for nobody").expect("it is answered");
        }
    }
}
