//! Connections to the servers: made when they are needed, shared by all requests, and made anew when they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clients::{client, cluster, sentinel};
use crate::config::Options;
use crate::error::{Error, Trouble};
use crate::uri::{Servers, Uri};

/// After a connection could not be made, others who want it are told so for this long.
const COOL: Duration = Duration::from_millis(50);
/// Connections of writes that wait for replicas: to a server, and to each node of a Cluster.
const WAITERS: usize = 32;
const NODE_WAITERS: usize = 16;
/// How long making a connection may take at least, whatever `socket_timeout` says: names are looked up, TLS is negotiated.
const MIN_CONNECT: Duration = Duration::from_secs(1);

/// Connections to one server, or to one Cluster.
pub(crate) struct Pool {
    servers: Endpoint,
    /// Used by any number of requests at once.
    shared: Vec<Slot>,
    next: AtomicUsize,
    connect_timeout: Duration,
    answer_timeout: Duration,
    wait: Option<Wait>,
}

/// Writes that wait for replicas. `WAIT` holds up whatever follows on its connection, so each has one to itself: a request that gives up
/// has not been sent, or is cut off, and is not carried out long after its caller was told that it failed.
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

/// A command on its way.
pub(crate) struct Request<'a> {
    pub(crate) command: Cmd,
    /// The key that decides where it goes.
    pub(crate) key: &'a str,
    /// It changes something that has to be as safe as the options ask for.
    pub(crate) is_write: bool,
}

enum Endpoint {
    Single(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster { client: Box<ClusterClient>, nodes: Vec<Client> },
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
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
    connection: Connection,
}

impl Pool {
    /// Connects to nothing yet.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let uri = &options.uri;
        let wait = (options.wait_replicas > 0).then(|| Wait::new(options));
        let answer_timeout = match &wait {
            // Its own answer comes up to this much later.
            Some(wait) => uri.socket_timeout + wait.timeout,
            None => uri.socket_timeout,
        };
        let connect_timeout = uri.socket_timeout.max(MIN_CONNECT);
        Ok(Self {
            servers: Endpoint::new(uri, connect_timeout, answer_timeout)
                .map_err(|source| Error::Connect { source: source.into() })?,
            shared: (0..options.connections.max(1)).map(|_| Slot::default()).collect(),
            next: AtomicUsize::new(0),
            connect_timeout,
            answer_timeout,
            wait,
        })
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Value, Trouble> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(wait) = self.wait.as_ref().filter(|_| request.is_write) else {
            let slot = &self.shared[number % self.shared.len()];
            return self.send_on(slot, number, |mut to| async move { to.ask(request).await }).await;
        };
        let own = tokio::time::timeout(self.answer_timeout, wait.acquire()).await;
        let own = own.map_err(|_| Trouble::NotYet(timed_out()))?.map_err(Trouble::NotYet)?;
        self.send_on(
            own.slot(),
            number,
            |mut to| async move { to.ask_and_wait(request, wait).await },
        )
        .await
    }

    async fn send_on<F>(
        &self,
        slot: &Slot,
        number: usize,
        ask: impl FnOnce(Connection) -> F,
    ) -> Result<Value, Trouble>
    where
        F: Future<Output = Result<Value, Trouble>>,
    {
        let live = self.live(slot, number).await.map_err(Trouble::unconnected)?;
        // The client has a timer of its own; this one also counts the time until the command is on its way.
        let asked = tokio::time::timeout(self.answer_timeout, ask(live.connection.clone())).await;
        let answer = asked.unwrap_or_else(|_| Err(Trouble::of(timed_out())));
        if answer.as_ref().is_err_and(Trouble::ends_connection) {
            slot.end(&live);
        }
        answer
    }

    /// A connection of its own that hears news.
    pub(crate) async fn listen(&self) -> RedisResult<PubSub> {
        let made = tokio::time::timeout(self.connect_timeout, self.servers.listen());
        made.await.unwrap_or_else(|_| Err(timed_out()))
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
        let made = tokio::time::timeout(
            self.connect_timeout,
            self.servers.connect(self.connect_timeout, self.answer_timeout),
        );
        match made.await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(connection) => {
                let live = Live { number, connection };
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
    fn end(&self, ended: &Live) {
        if matches!(ended.connection, Connection::Cluster(_)) {
            // It mends its connections to nodes itself.
            return;
        }
        let mut live = self.lock();
        if live.as_ref().is_some_and(|live| live.number == ended.number) {
            *live = None;
        }
    }
}

impl Connection {
    async fn ask(&mut self, request: Request<'_>) -> Result<Value, Trouble> {
        let Request { command, key, .. } = request;
        let answer = match self {
            Self::Server(connection) => connection.req_packed_command(&command).await,
            Self::Cluster(connection) => {
                connection.route_command(command, RoutingInfo::SingleNode(route(key))).await
            }
        };
        answer.and_then(Value::extract_error).map_err(Trouble::of)
    }

    /// Sends a command and, right behind it on the same connection, `WAIT`: that counts the replicas that have all that this connection
    /// has written.
    async fn ask_and_wait(&mut self, request: Request<'_>, wait: &Wait) -> Result<Value, Trouble> {
        let mut pipeline = redis::pipe();
        let millis = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        pipeline.add_command(request.command).cmd("WAIT").arg(wait.replicas).arg(millis);
        let answers = match self {
            Self::Server(connection) => connection.req_packed_commands(&pipeline, 0, 2).await,
            Self::Cluster(connection) => {
                connection.route_pipeline(pipeline, 0, 2, route(request.key)).await
            }
        };
        let mut answers = answers.map_err(Trouble::of)?.into_iter();
        let mut next = || answers.next().unwrap_or_default().extract_error().map_err(Trouble::of);
        let answer = next()?;
        match next()? {
            Value::Int(replicas) if replicas >= wait.replicas => Ok(answer),
            Value::Int(replicas) => Err(Trouble::Unsafe { replicas }),
            _ => Err(Trouble::Unsafe { replicas: 0 }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held, and any state is right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn route(key: &str) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master))
}

impl Endpoint {
    fn new(uri: &Uri, connect: Duration, answer: Duration) -> RedisResult<Self> {
        match &uri.servers {
            Servers::Single(_) | Servers::Socket(_) => {
                Ok(Self::Single(Box::new(client(uri, &uri.servers)?)))
            }
            Servers::Sentinel { hosts, master, user } => {
                let client = sentinel(uri, hosts, master, user.as_ref())?;
                Ok(Self::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
            }
            Servers::Cluster(hosts) => Ok(Self::Cluster {
                client: Box::new(cluster(uri, hosts, connect, answer)?),
                nodes: hosts
                    .iter()
                    .map(|host| client(uri, &Servers::Single(host.clone())))
                    .collect::<RedisResult<_>>()?,
            }),
        }
    }

    async fn connect(&self, connect: Duration, answer: Duration) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(answer));
        match self {
            Self::Single(client) => {
                let made = client.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(Connection::Server(made))
            }
            Self::Sentinel(sentinel) => {
                let master = sentinel.lock().await.async_get_client().await?;
                let made = master.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(Connection::Server(made))
            }
            Self::Cluster { client, .. } => {
                Ok(Connection::Cluster(client.get_async_connection().await?))
            }
        }
    }

    async fn listen(&self) -> RedisResult<PubSub> {
        match self {
            Self::Single(client) => client.get_async_pubsub().await,
            Self::Sentinel(sentinel) => {
                let master = sentinel.lock().await.async_get_client().await?;
                master.get_async_pubsub().await
            }
            // Every node hears what any of them is told.
            Self::Cluster { nodes, .. } => {
                let mut last = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no nodes"));
                for node in nodes {
                    match node.get_async_pubsub().await {
                        Ok(made) => return Ok(made),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

fn timed_out() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer").into()
}
