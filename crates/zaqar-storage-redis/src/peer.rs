//! Connections to one server: opened on demand, shared by requests, and reopened after they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value, cmd};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clients::{Timeouts, connect, timed_out};
use crate::config::Options;
use crate::envelope::ServerClock;
use crate::error::Failure;
use crate::fair_limiter::FairLimiter;
use crate::sentinel::Sentinels;
use crate::uri::Servers;

/// After a failed attempt to connect, requests fail at once for this long.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Connections for writes that wait for replicas: per server, and per node of a Cluster.
const REPLICA_CONNECTIONS: usize = 32;
const REPLICA_CONNECTIONS_PER_NODE: usize = 16;
/// Requests in flight to a server at most, in total and per project: small ones, and large ones.
const SMALL_IN_FLIGHT: (usize, usize) = (256, 64);
const LARGE_IN_FLIGHT: (usize, usize) = (4, 2);

/// More bytes in a request or an answer are large.
pub(crate) const LARGE_BYTES: usize = 64 << 10;

/// The connections that a request uses: a large answer would delay the answers after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Small requests with small answers.
    Small,
    /// Pages and batches of up to a few MiB.
    Large,
}

/// What a request sends.
pub(crate) enum Commands {
    One(Cmd),
    /// A transaction that reads. Its answer is the list of those of its commands; if one of them
    /// fails, all do.
    Reads(Pipeline),
}

/// Commands to send.
pub(crate) struct Request<'a> {
    /// Builds them, for a connection to a server with this clock.
    pub(crate) commands: &'a mut (dyn FnMut(ServerClock) -> Commands + Send),
    /// The key that decides which node gets the command.
    pub(crate) key: &'a str,
    /// It changes something, with the durability that the options require.
    pub(crate) is_write: bool,
    pub(crate) lane: Lane,
    /// The project on whose behalf it is sent: projects are served in turn.
    pub(crate) project: &'a str,
}

/// Connections to one server, or to the master that Sentinels name.
pub(crate) struct Peer {
    source: Source,
    timeouts: Timeouts,
    small: LaneConnections,
    large: LaneConnections,
    next: AtomicUsize,
    wait: Option<ReplicaWait>,
}

/// Connections that requests share, and the limiter of requests in flight.
struct LaneConnections {
    limiter: Arc<FairLimiter>,
    slots: Vec<Slot>,
}

pub(crate) enum Source {
    Server(Box<Client>),
    Sentinels(Box<Sentinels>),
}

/// Connections for writes that wait for replicas. `WAIT` blocks whatever follows on its connection,
/// so each such write has a connection to itself: a request that times out was not sent yet, or its
/// connection is closed, so it is not executed long after its caller was told that it failed.
struct ReplicaWait {
    replicas: i64,
    timeout: Duration,
    slots: Vec<Slot>,
    permits: Semaphore,
    /// Indexes of the slots that are not in use.
    free: Mutex<Vec<usize>>,
}

/// A slot in exclusive use until this is dropped.
struct ExclusiveSlot<'a> {
    wait: &'a ReplicaWait,
    at: usize,
    _permit: SemaphorePermit<'a>,
}

#[derive(Default)]
struct Slot {
    live: Mutex<Option<LiveConnection>>,
    /// When connecting last failed, and why. The holder of the lock connects.
    failed: tokio::sync::Mutex<Option<(Instant, RedisError)>>,
}

#[derive(Clone)]
struct LiveConnection {
    number: usize,
    connection: MultiplexedConnection,
    clock: ServerClock,
}

impl Peer {
    /// Opens no connection yet.
    pub(crate) fn new(source: Source, options: &Options) -> Self {
        let lane = |(capacity, share)| LaneConnections {
            limiter: FairLimiter::new(capacity, share),
            slots: (0..options.connections.max(1)).map(|_| Slot::default()).collect(),
        };
        Self {
            source,
            timeouts: Timeouts::new(options),
            small: lane(SMALL_IN_FLIGHT),
            large: lane(LARGE_IN_FLIGHT),
            next: AtomicUsize::new(0),
            wait: (options.wait_replicas > 0).then(|| ReplicaWait::new(options)),
        }
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn send(&self, request: &mut Request<'_>) -> Result<Value, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lane = match request.lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        };
        let permit =
            tokio::time::timeout(self.timeouts.answer, lane.limiter.acquire(request.project));
        let _permit = permit.await.map_err(|_| Failure::Retryable(timed_out()))?;
        let Some(wait) = self.wait.as_ref().filter(|_| request.is_write) else {
            let slot = &lane.slots[number % lane.slots.len()];
            return self.send_on(slot, number, request, None).await;
        };
        let own = tokio::time::timeout(self.timeouts.answer, wait.acquire()).await;
        let own = own.map_err(|_| Failure::Retryable(timed_out()))?.map_err(Failure::Retryable)?;
        self.send_on(own.slot(), number, request, Some(wait)).await
    }

    async fn send_on(
        &self,
        slot: &Slot,
        number: usize,
        request: &mut Request<'_>,
        wait: Option<&ReplicaWait>,
    ) -> Result<Value, Failure> {
        let mut live = self.live(slot, number).await.map_err(Failure::of_connect)?;
        let commands = (request.commands)(live.clock);
        let connection = &mut live.connection;
        let executed = async {
            match (commands, wait) {
                (Commands::One(command), Some(wait)) => {
                    execute_and_wait(connection, command, wait).await
                }
                (commands, _) => execute(connection, &commands).await,
            }
        };
        // The client has a timeout of its own; this one also covers the time until the command is
        // sent.
        let executed = tokio::time::timeout(self.timeouts.answer, executed).await;
        let answer = executed.unwrap_or_else(|_| Err(Failure::of_command(timed_out())));
        if answer.as_ref().is_err_and(Failure::ends_connection) {
            slot.end(live.number);
        }
        answer
    }

    /// Closes all connections, so that later requests open new ones.
    pub(crate) fn reset(&self) {
        let waiting = self.wait.iter().flat_map(|wait| &wait.slots);
        for slot in self.small.slots.iter().chain(&self.large.slots).chain(waiting) {
            *slot.lock() = None;
        }
    }

    /// A client of the current server.
    pub(crate) async fn client(&self) -> RedisResult<Client> {
        match &self.source {
            Source::Server(client) => Ok(client.as_ref().clone()),
            Source::Sentinels(sentinels) => sentinels.master(self.timeouts).await,
        }
    }

    async fn live(&self, slot: &Slot, number: usize) -> RedisResult<LiveConnection> {
        if let Some(live) = slot.lock().clone() {
            return Ok(live);
        }
        let mut failed = slot.failed.lock().await;
        if let Some(live) = slot.lock().clone() {
            return Ok(live);
        }
        if let Some((at, error)) = &*failed
            && at.elapsed() < RETRY_DELAY
        {
            return Err(error.clone());
        }
        let made = async {
            let client = self.client().await?;
            connect_and_read_clock(&client, self.timeouts).await
        };
        let made = tokio::time::timeout(self.timeouts.connect, made);
        match made.await.unwrap_or_else(|_| Err(timed_out())) {
            Ok((connection, clock)) => {
                let live = LiveConnection { number, connection, clock };
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

/// Opens a connection and reads the server's clock.
async fn connect_and_read_clock(
    client: &Client,
    timeouts: Timeouts,
) -> RedisResult<(MultiplexedConnection, ServerClock)> {
    let mut made = connect(client, timeouts).await?;
    let asked = Instant::now();
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut made).await?;
    Ok((made, ServerClock { connected: seconds * 1_000_000 + micros, asked }))
}

async fn execute(
    connection: &mut MultiplexedConnection,
    commands: &Commands,
) -> Result<Value, Failure> {
    let answer = match commands {
        Commands::One(command) => connection.req_packed_command(command).await,
        Commands::Reads(all) => {
            // Those of `MULTI` and of each command that is queued come before.
            let answers = connection.req_packed_commands(all, all.len() + 1, 1).await;
            answers.map(|mut answers| answers.pop().unwrap_or_default())
        }
    };
    answer.and_then(Value::extract_error).map_err(Failure::of_command)
}

/// Sends a command and, directly after it on the same connection, `WAIT`, which counts the replicas
/// that have all writes of this connection.
async fn execute_and_wait(
    connection: &mut MultiplexedConnection,
    command: Cmd,
    wait: &ReplicaWait,
) -> Result<Value, Failure> {
    let mut pipeline = redis::pipe();
    let millis = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    pipeline.add_command(command).cmd("WAIT").arg(wait.replicas).arg(millis);
    let answers = connection.req_packed_commands(&pipeline, 0, 2).await;
    let mut answers = answers.map_err(Failure::of_command)?.into_iter();
    let mut next =
        || answers.next().unwrap_or_default().extract_error().map_err(Failure::of_command);
    let answer = next()?;
    // The command was executed even if `WAIT` fails.
    let counted = next().map_err(|failure| {
        if let Failure::Retryable(error) = failure { Failure::Ambiguous(error) } else { failure }
    });
    let replicas = if let Value::Int(replicas) = counted? { replicas } else { 0 };
    if replicas >= wait.replicas { Ok(answer) } else { Err(Failure::UnderReplicated { replicas }) }
}

impl ReplicaWait {
    fn new(options: &Options) -> Self {
        let is_cluster = matches!(options.uri.servers, Servers::Cluster(_));
        let count = options.connections.max(if is_cluster {
            REPLICA_CONNECTIONS_PER_NODE
        } else {
            REPLICA_CONNECTIONS
        });
        Self {
            replicas: options.wait_replicas.into(),
            timeout: options.uri.socket_timeout,
            slots: (0..count).map(|_| Slot::default()).collect(),
            permits: Semaphore::new(count),
            free: Mutex::new((0..count).collect()),
        }
    }

    async fn acquire(&self) -> RedisResult<ExclusiveSlot<'_>> {
        let closed = |_| RedisError::from((ErrorKind::Client, "the connections are closed"));
        let permit = self.permits.acquire().await.map_err(closed)?;
        // The most recently used slot is the most likely to be connected.
        let at = lock(&self.free).pop().unwrap_or_default();
        Ok(ExclusiveSlot { wait: self, at, _permit: permit })
    }
}

impl ExclusiveSlot<'_> {
    fn slot(&self) -> &Slot {
        &self.wait.slots[self.at]
    }
}

impl Drop for ExclusiveSlot<'_> {
    fn drop(&mut self) {
        lock(&self.wait.free).push(self.at);
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<LiveConnection>> {
        lock(&self.live)
    }

    /// Drops a connection unless it was replaced by a newer one.
    fn end(&self, number: usize) {
        let mut live = self.lock();
        if live.as_ref().is_some_and(|live| live.number == number) {
            *live = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds a lock, and every state is valid.
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

    fn ping(_: ServerClock) -> Commands {
        Commands::One(cmd("PING"))
    }

    #[tokio::test]
    async fn large_answers_have_connections_of_their_own() {
        let (peer, mut ping) = (peer().await, ping);
        for _ in 0..4 {
            let request = Request { lane: Lane::Large, ..Request::plain(&mut ping) };
            peer.send(&mut { request }).await.unwrap();
        }
        let count =
            |lane: &LaneConnections| lane.slots.iter().filter(|slot| slot.lock().is_some()).count();
        assert_eq!((count(&peer.small), count(&peer.large)), (0, 2));
    }

    #[tokio::test]
    async fn a_request_waits_only_for_its_own_connection() {
        let (peer, mut ping) = (peer().await, ping);
        let connections = peer.small.slots.len();
        for _ in 0..connections {
            peer.send(&mut Request::plain(&mut ping)).await.unwrap();
        }
        // As while connections that ended are being replaced.
        let _made = peer.small.slots[0].failed.lock().await;
        let _made_too = peer.large.slots[0].failed.lock().await;
        for _ in 0..2 * connections {
            let mut request = Request::plain(&mut ping);
            let sent = tokio::time::timeout(Duration::from_secs(60), peer.send(&mut request));
            sent.await.expect("it does not wait").expect("it is answered");
        }
    }
}
