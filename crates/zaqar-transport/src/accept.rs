//! Accepts connections, runs one task for each, and drains them on shutdown.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use zaqar_core::{Holder, MemoryBudget, OverBudget, Permit, StateLog};

use crate::counts::ConnectionCounts;
use crate::linger;
use crate::stream::{Listener, Stream};
use crate::tls::{TLS_BYTES, Tls};

/// At most this many connections are being rejected with 503 at a time. Others are closed without
/// an answer.
const REJECTED_AT_ONCE: usize = 1024;

/// How long to wait for the request of a rejected peer: some clients ignore an answer that arrives
/// before they have sent a request.
const REJECT_AFTER: Duration = Duration::from_millis(200);

/// How long a rejected peer may take to read the answer and to close the connection.
const REJECT_LIMIT: Duration = Duration::from_secs(1);

/// The delay before accepting is retried after a failure.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The bounds of [`serve`].
#[derive(Debug, Clone)]
pub struct AcceptOptions {
    /// The listener's name in logs; [`Protocol::NAME`] without one.
    pub name: Option<&'static str>,
    /// Maximum number of open connections. Further ones are rejected with 503.
    pub max_connections: usize,
    /// How long connections may take to close when the server stops.
    pub grace: Duration,
    /// Each connection is charged to it for as long as it is open.
    pub memory: MemoryBudget,
    /// Counts connections.
    pub counts: ConnectionCounts,
    /// TLS for all connections, or plain text. A handshake may take 10 s, and at most half of
    /// `max_connections` handshakes are in progress at a time: further connections are closed.
    pub tls: Option<Arc<Tls>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream. TCP streams have `TCP_NODELAY` set.
    pub stream: Stream,
    /// Holds the memory that the connection occupies.
    pub holder: Holder,
    /// When it is cancelled, the connection finishes its open requests and closes.
    pub shutdown: CancellationToken,
}

/// A protocol that is served over connections.
pub trait Protocol: Send + Sync + 'static {
    /// The name used in logs.
    const NAME: &'static str;

    /// Bytes that an idle connection occupies: its task, its buffers, its state.
    const CONNECTION_BYTES: usize;

    /// Serves a connection until it closes.
    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static;
}

/// No more connections can be accepted. The connections that were accepted have been drained.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot accept connections any more")]
pub struct ServeError {
    /// [`Protocol::NAME`].
    pub name: &'static str,
    /// The operating system's error.
    #[source]
    pub source: io::Error,
}

/// Serves connections until `shutdown`; then accepts no more, waits up to [`AcceptOptions::grace`]
/// for the open ones, aborts the rest, and returns. A panic closes its own connection only and is
/// logged as an error. A failure to accept is retried; it is logged when the failures begin, every
/// few seconds with their number, and when accepting works again.
///
/// # Errors
/// [`ServeError`] when the listener itself is broken, after connections were drained as for a
/// shutdown.
pub async fn serve<P: Protocol>(
    listener: impl Into<Listener>,
    protocol: P,
    options: AcceptOptions,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let listener = listener.into();
    let mut server = Server {
        protocol: Arc::new(protocol),
        handshakes: Arc::new(Semaphore::new(options.max_connections.div_ceil(2))),
        options,
        connections: JoinSet::new(),
        rejected: JoinSet::new(),
    };
    // Also cancelled when the listener breaks.
    let stopping = shutdown.child_token();
    let reloading = server.options.tls.clone().map(|tls| tokio::spawn(tls.watch(stopping.clone())));
    let accepted = server.accept_all(&listener, &stopping).await;
    if let Some(Err(error)) = listener.path().map(std::fs::remove_file) {
        debug!(%error, "cannot remove the socket file");
    }
    drop(listener);
    stopping.cancel();
    drop(reloading);
    let name = server.name();
    info!(transport = name, "stopped accepting connections");
    server.drain().await;
    accepted.map_err(|source| ServeError { name, source })
}

struct Server<P> {
    protocol: Arc<P>,
    options: AcceptOptions,
    /// Limits the TLS handshakes in progress.
    handshakes: Arc<Semaphore>,
    connections: JoinSet<()>,
    rejected: JoinSet<()>,
}

impl<P: Protocol> Server<P> {
    fn name(&self) -> &'static str {
        self.options.name.unwrap_or(P::NAME)
    }

    async fn accept_all(
        &mut self,
        listener: &Listener,
        shutdown: &CancellationToken,
    ) -> io::Result<()> {
        let log = StateLog::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = self.connections.join_next() => {
                    log_panic::<P>(ended);
                    continue;
                }
                Some(ended) = self.rejected.join_next() => {
                    log_panic::<P>(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    if let Some(failures) = log.success() {
                        info!(transport = self.name(), failures, "accepting connections again");
                    }
                    self.admit(stream, shutdown);
                }
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    if let Some(failures) = log.failure() {
                        warn!(transport = self.name(), %error, failures, "accept failed, retrying");
                    }
                    // Usually the process is out of file descriptors, and an immediate retry would
                    // fail again.
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn admit(&mut self, stream: Stream, shutdown: &CancellationToken) {
        let holder = self.options.memory.connection();
        let permit = match self.admission(&holder) {
            Ok(permit) => permit,
            Err(why) => {
                debug!(transport = self.name(), %why, "connection rejected");
                self.options.counts.reject();
                // A peer that speaks TLS could not read the answer.
                if self.options.tls.is_none() && self.rejected.len() < REJECTED_AT_ONCE {
                    self.rejected.spawn(reject(stream));
                }
                return;
            }
        };
        let shutdown = shutdown.clone();
        let Some(tls) = &self.options.tls else {
            let serving = self.protocol.serve(Connection { stream, holder, shutdown });
            let open = self.options.counts.accept();
            self.connections.spawn(async move {
                serving.await;
                drop((permit, open));
            });
            return;
        };
        let Ok(handshake) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            self.options.counts.reject();
            return debug!(transport = self.name(), "too many TLS handshakes, connection closed");
        };
        let open = self.options.counts.accept();
        let (tls, protocol) = (Arc::clone(tls), Arc::clone(&self.protocol));
        self.connections.spawn(async move {
            // Boxed, so that the handshake's state does not enlarge the connection's task.
            let handshaking = Box::pin(handshake_tls(stream, &tls, handshake, &shutdown));
            if let Some(stream) = handshaking.await {
                protocol.serve(Connection { stream, holder, shutdown }).await;
            }
            drop((permit, open));
        });
    }

    fn admission(&self, holder: &Holder) -> Result<Permit, Rejected> {
        let max = self.options.max_connections;
        if self.connections.len() >= max {
            return Err(Rejected::Connections { max });
        }
        let tls = if self.options.tls.is_some() { TLS_BYTES } else { 0 };
        Ok(holder.try_acquire(P::CONNECTION_BYTES + tls)?)
    }

    async fn drain(&mut self) {
        let ended = async {
            while let Some(ended) = self.connections.join_next().await {
                log_panic::<P>(ended);
            }
        };
        if timeout(self.options.grace, ended).await.is_err() {
            let open = self.connections.len();
            warn!(
                transport = self.name(),
                open, "grace period has passed, open connections are aborted"
            );
        }
        self.connections.shutdown().await;
        self.rejected.shutdown().await;
    }
}

/// Why a connection is rejected.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("{max} connections are open, which is the limit")]
    Connections { max: usize },
    #[error(transparent)]
    Memory(#[from] OverBudget),
}

/// Logs a panic, which otherwise only the peer would notice.
fn log_panic<P: Protocol>(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(transport = P::NAME, %error, "connection panicked");
    }
}

/// Whether accepting on this listener can never succeed again: it is not an open listening socket.
/// Every other error (no descriptors, no memory, a peer or network that is gone) may be temporary.
fn is_fatal(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    const ENOTSOCK: i32 = 88;
    const EOPNOTSUPP: i32 = 95;
    matches!(error.raw_os_error(), Some(EBADF | EINVAL | ENOTSOCK | EOPNOTSUPP))
}

/// The stream after the TLS handshake; `None` when the handshake fails or the server stops first.
async fn handshake_tls(
    stream: Stream,
    tls: &Tls,
    _permit: OwnedSemaphorePermit,
    shutdown: &CancellationToken,
) -> Option<Stream> {
    // Unix sockets stay within the machine and need no TLS.
    let Stream::Tcp(stream) = stream else { return Some(stream) };
    let outcome = tokio::select! {
        outcome = tls.accept(stream) => outcome,
        () = shutdown.cancelled() => return None,
    };
    match outcome {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(error) => {
            debug!(%error, "TLS handshake failed");
            None
        }
    }
}

/// Answers 503 to a peer that exceeds the limit of connections or the memory budget, and closes.
async fn reject(mut stream: Stream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    let asked = timeout(REJECT_AFTER, stream.read(&mut [0; 1024])).await;
    let answered = timeout(REJECT_LIMIT, stream.write_all(ANSWER)).await;
    if matches!(asked, Ok(Err(_))) || !matches!(answered, Ok(Ok(()))) {
        return debug!("rejected peer disconnected before it was answered");
    }
    linger(&mut stream, REJECT_LIMIT).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::{TcpListener, TcpStream};
    use zaqar_core::MemoryBounds;

    use super::*;
    use crate::tls::TlsFiles;

    /// Echoes one byte; `p` panics, `h` hangs forever.
    #[derive(Clone, Default)]
    struct Echo {
        served: Arc<AtomicUsize>,
    }

    impl Protocol for Echo {
        const NAME: &'static str = "echo";
        const CONNECTION_BYTES: usize = 100;

        fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
            let served = Arc::clone(&self.served);
            async move {
                let Connection { mut stream, shutdown, .. } = connection;
                loop {
                    let byte = tokio::select! {
                        byte = stream.read_u8() => byte,
                        () = shutdown.cancelled() => return,
                    };
                    served.fetch_add(1, Ordering::Relaxed);
                    match byte {
                        Ok(b'p') => panic!("as asked"),
                        Ok(b'h') => std::future::pending().await,
                        Ok(byte) => stream.write_all(&[byte]).await.unwrap(),
                        Err(_) => return,
                    }
                }
            }
        }
    }

    struct Running {
        address: std::net::SocketAddr,
        stop: CancellationToken,
        serving: tokio::task::JoinHandle<Result<(), ServeError>>,
        counts: ConnectionCounts,
    }

    async fn start(max_connections: usize, memory: MemoryBudget) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let grace = Duration::from_millis(100);
        let counts = ConnectionCounts::default();
        let options = AcceptOptions {
            name: None,
            max_connections,
            grace,
            memory,
            counts: counts.clone(),
            tls: None,
        };
        let serving = tokio::spawn(serve(listener, Echo::default(), options, stop.clone()));
        Running { address, stop, serving, counts }
    }

    impl Running {
        async fn ask(&self, byte: u8) -> (TcpStream, Option<u8>) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(&[byte]).await.unwrap();
            let answer = stream.read_u8().await.ok();
            (stream, answer)
        }

        async fn end(self) -> Result<(), ServeError> {
            self.stop.cancel();
            self.serving.await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_connection_past_the_limit_is_answered_503() {
        let server = start(1, MemoryBudget::default()).await;
        let (first, answer) = server.ask(b'a').await;
        assert_eq!(answer, Some(b'a'));
        let mut second = TcpStream::connect(server.address).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"));
        let counts = server.counts.clone();
        assert_eq!((counts.open(), counts.accepted(), counts.rejected()), (1, 1, 1));
        drop(first);
        server.end().await.unwrap();
        assert_eq!((counts.open(), counts.accepted(), counts.rejected()), (0, 1, 1));
    }

    #[tokio::test]
    async fn connections_are_charged_to_the_budget_while_they_are_open() {
        let bounds = MemoryBounds { process: 150, ..MemoryBounds::UNLIMITED };
        let budget = MemoryBudget::new(bounds);
        let server = start(10, budget.clone()).await;
        let (_first, _) = server.ask(b'a').await;
        assert_eq!(budget.in_use(), 100);
        assert_eq!(server.ask(b'b').await.1, Some(b'H'), "HTTP's 503");
        server.end().await.unwrap();
        assert_eq!((budget.in_use(), budget.refused()), (0, 1));
    }

    #[tokio::test]
    async fn a_panic_closes_one_connection_and_frees_its_slot() {
        let budget = MemoryBudget::default();
        let server = start(2, budget.clone()).await;
        let (_other, _) = server.ask(b'a').await;
        for _ in 0..4 {
            let (_, answer) = server.ask(b'p').await;
            assert_eq!(answer, None);
            while budget.in_use() > 100 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(server.ask(b'b').await.1, Some(b'b'));
        server.end().await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_does_not_close_is_aborted_after_the_grace_period() {
        let budget = MemoryBudget::default();
        let server = start(2, budget.clone()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"h").await.unwrap();
        while budget.in_use() == 0 {
            tokio::task::yield_now().await;
        }
        server.end().await.unwrap();
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn a_unix_socket_is_served_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zaqar.sock");
        // What a killed process leaves behind.
        drop(Listener::bind_unix(&path).await.unwrap());
        let listener = Listener::bind_unix(&path).await.unwrap();
        let taken = Listener::bind_unix(&path).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        // What is no socket is never replaced.
        let other = directory.path().join("zaqar.conf");
        std::fs::write(&other, "precious").unwrap();
        let refused = Listener::bind_unix(&other).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
        let (stop, memory) = (CancellationToken::new(), MemoryBudget::default());
        let grace = Duration::from_millis(100);
        let options = AcceptOptions {
            name: None,
            max_connections: 2,
            grace,
            memory,
            counts: ConnectionCounts::default(),
            tls: None,
        };
        let serving = tokio::spawn(serve(listener, Echo::default(), options, stop.clone()));
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn handshakes_take_half_of_the_connections() {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = TlsFiles {
            certificate: file("cert.pem", key.cert.pem()),
            key: file("key.pem", key.signing_key.serialize_pem()),
            client_authorities: None,
        };
        let tls = Some(Arc::new(Tls::load(files, &[]).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, memory) = (CancellationToken::new(), MemoryBudget::default());
        let grace = Duration::from_millis(100);
        let options = AcceptOptions {
            name: None,
            max_connections: 4,
            grace,
            memory,
            counts: ConnectionCounts::default(),
            tls,
        };
        let serving = tokio::spawn(serve(listener, Echo::default(), options, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let closed = silent[2].read(&mut [0]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "the third is closed: {closed:?}");
        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn only_a_broken_listener_is_fatal() {
        let error = io::Error::from_raw_os_error;
        assert!(is_fatal(&error(9)) && is_fatal(&error(22)));
        for passing in [24, 23, 12, 103, 104, 113, 1, 4, 11] {
            assert!(!is_fatal(&error(passing)), "{passing}");
        }
    }
}
