//! From a listener to one task a connection, and to the end of all of them.

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

/// Connections that are being rejected with 503 at once. More than these are closed unanswered.
const REJECTED_AT_ONCE: usize = 1024;

/// How long a rejected peer's request is waited for: some clients ignore an answer that comes
/// before they have asked.
const REJECT_AFTER: Duration = Duration::from_millis(200);

/// How long a rejected peer may take to leave.
const REJECT_LIMIT: Duration = Duration::from_secs(1);

/// Between two attempts to accept while that fails.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The bounds of [`serve`].
#[derive(Debug, Clone)]
pub struct AcceptOptions {
    /// Connections at once. One more is rejected with 503.
    pub max_connections: usize,
    /// How long connections may take to end when the server stops.
    pub grace: Duration,
    /// Each connection is charged to it for as long as it is open.
    pub memory: MemoryBudget,
    /// Counts connections.
    pub counts: ConnectionCounts,
    /// What connections begin with. Handshakes have 10 s, and at most half of `max_connections` are
    /// under way at once: one more is closed.
    pub tls: Option<Arc<Tls>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream; of TCP without Nagle's delay.
    pub stream: Stream,
    /// Whom to charge for what the connection keeps.
    pub holder: Holder,
    /// When it fires, the connection finishes its open requests and ends.
    pub shutdown: CancellationToken,
}

/// One wire.
pub trait Protocol: Send + Sync + 'static {
    /// Its name in the log.
    const NAME: &'static str;

    /// Bytes that an idle connection occupies: its task, its buffers, its state.
    const CONNECTION_BYTES: usize;

    /// Serves a connection until it ends.
    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static;
}

/// Why no more connections can be accepted. Those that were have been served to their end.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot accept connections any more")]
pub struct ServeError {
    /// [`Protocol::NAME`].
    pub name: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Serves connections until `shutdown`; then accepts no more, waits for the open ones for
/// [`AcceptOptions::grace`], cuts off the rest, and returns. A connection that panics is logged as
/// an error and ends alone. A failure to accept is retried, and logged when it begins, every few
/// seconds with the number of failures, and when it ends.
///
/// # Errors
/// [`ServeError`] when the listener itself is broken, after the same end as for a shutdown.
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
    // Fires for connections when the listener breaks, too.
    let ending = shutdown.child_token();
    let watching = server.options.tls.clone().map(|tls| tokio::spawn(tls.watch(ending.clone())));
    let accepted = server.accept_all(&listener, &ending).await;
    if let Some(Err(error)) = listener.path().map(std::fs::remove_file) {
        debug!(%error, "the socket's file cannot be removed");
    }
    drop(listener);
    ending.cancel();
    drop(watching);
    info!(transport = P::NAME, "no more connections are accepted");
    server.drain().await;
    accepted.map_err(|source| ServeError { name: P::NAME, source })
}

struct Server<P> {
    protocol: Arc<P>,
    options: AcceptOptions,
    /// One permit each for the handshakes under way.
    handshakes: Arc<Semaphore>,
    connections: JoinSet<()>,
    rejected: JoinSet<()>,
}

impl<P: Protocol> Server<P> {
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
                    report::<P>(ended);
                    continue;
                }
                Some(ended) = self.rejected.join_next() => {
                    report::<P>(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    if let Some(failures) = log.success() {
                        info!(transport = P::NAME, failures, "connections are accepted again");
                    }
                    self.admit(stream, shutdown);
                }
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    if let Some(failures) = log.failure() {
                        warn!(transport = P::NAME, %error, failures, "accept failed; it is retried");
                    }
                    // Out of file descriptors, most often: the next attempt would fail as fast.
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
                debug!(transport = P::NAME, %why, "a connection is rejected");
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
            return debug!(transport = P::NAME, "too many handshakes: a connection is closed");
        };
        let open = self.options.counts.accept();
        let (tls, protocol) = (Arc::clone(tls), Arc::clone(&self.protocol));
        self.connections.spawn(async move {
            // Boxed: it must not weigh on the connection for life.
            let shaking = Box::pin(shake_hands(stream, &tls, handshake, &shutdown));
            if let Some(stream) = shaking.await {
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
                report::<P>(ended);
            }
        };
        if timeout(self.options.grace, ended).await.is_err() {
            let open = self.connections.len();
            warn!(
                transport = P::NAME,
                open, "connections are cut off: the grace of the stop is over"
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

/// Says aloud what would otherwise be seen by the peer alone.
fn report<P: Protocol>(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(transport = P::NAME, %error, "a connection panicked");
    }
}

/// Whether accepting on this listener cannot succeed any more: it is no open listening socket.
/// Everything else (descriptors, memory, a peer or network that is gone) can pass.
fn is_fatal(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    const ENOTSOCK: i32 = 88;
    const EOPNOTSUPP: i32 = 95;
    matches!(error.raw_os_error(), Some(EBADF | EINVAL | ENOTSOCK | EOPNOTSUPP))
}

/// The stream within TLS; `None` when the peer does not get there, or the server stops before.
async fn shake_hands(
    stream: Stream,
    tls: &Tls,
    _place: OwnedSemaphorePermit,
    shutdown: &CancellationToken,
) -> Option<Stream> {
    // A socket in the file system is within the machine.
    let Stream::Tcp(stream) = stream else { return Some(stream) };
    let shaken = tokio::select! {
        shaken = tls.accept(stream) => shaken,
        () = shutdown.cancelled() => return None,
    };
    match shaken {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(error) => {
            debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

/// Tells a peer that the server takes no more connections.
async fn reject(mut stream: Stream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    let asked = timeout(REJECT_AFTER, stream.read(&mut [0; 1024])).await;
    let answered = timeout(REJECT_LIMIT, stream.write_all(ANSWER)).await;
    if matches!(asked, Ok(Err(_))) || !matches!(answered, Ok(Ok(()))) {
        return debug!("a rejected peer went away");
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

    /// Echoes one byte; `p` panics, `h` holds on whatever happens.
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
        let options =
            AcceptOptions { max_connections, grace, memory, counts: counts.clone(), tls: None };
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
    async fn one_connection_more_than_the_limit_is_told_503() {
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
    async fn a_panic_ends_one_connection_and_its_place_is_free_again() {
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
    async fn a_connection_that_does_not_end_is_cut_off_after_the_grace() {
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
    async fn a_socket_in_the_file_system_is_served_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zaqar.sock");
        // What a killed process leaves behind.
        drop(Listener::bind_unix(&path).await.unwrap());
        let listener = Listener::bind_unix(&path).await.unwrap();
        let taken = Listener::bind_unix(&path).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let (stop, memory) = (CancellationToken::new(), MemoryBudget::default());
        let grace = Duration::from_millis(100);
        let options = AcceptOptions {
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
