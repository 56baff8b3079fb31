//! Proxies in front of a server that cut connections at a chosen moment.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const PASS: u8 = 0;
const CUT_ANSWER: u8 = 1;
const CUT_REQUEST: u8 = 2;
const SILENT: u8 = 3;

/// A port that forwards to a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<AtomicU8>,
    /// Whether an answer of the server was dropped.
    has_lost: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let own = listener.local_addr().expect("it has an address").port();
        let (mode, has_lost) = (Arc::new(AtomicU8::new(PASS)), Arc::default());
        let (shared, lost) = (Arc::clone(&mode), Arc::clone(&has_lost));
        let requests_lost: Arc<AtomicBool> = Arc::default();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let lost = [&requests_lost, &lost].map(Arc::clone);
                let mode = || Arc::clone(&shared);
                let [of_requests, of_answers] = lost;
                tokio::spawn(carry(from_client, to_server, mode(), CUT_REQUEST, of_requests));
                tokio::spawn(carry(from_server, to_client, mode(), CUT_ANSWER, of_answers));
            }
        });
        Self { port: own, mode, has_lost }
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Closes the connection of the next answer instead of forwarding the answer.
    pub(crate) fn cut_next_answer(&self) {
        self.mode.store(CUT_ANSWER, Ordering::Release);
    }

    /// Closes the connection of the next request instead of forwarding the request.
    pub(crate) fn cut_next_request(&self) {
        self.mode.store(CUT_REQUEST, Ordering::Release);
    }

    /// Stops forwarding but keeps connections open. A connection that has dropped something never
    /// forwards again.
    pub(crate) fn stop_forwarding(&self) {
        self.mode.store(SILENT, Ordering::Release);
    }

    pub(crate) fn pass(&self) {
        self.mode.store(PASS, Ordering::Release);
    }

    /// Whether an answer was dropped while forwarding was stopped.
    pub(crate) fn has_dropped_an_answer(&self) -> bool {
        self.has_lost.load(Ordering::Acquire)
    }

    /// Whether the requested cut was made.
    pub(crate) fn has_cut(&self) -> bool {
        self.mode.load(Ordering::Acquire) == PASS
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: Arc<AtomicU8>,
    cut: u8,
    has_lost: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut is_lossy = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if mode.compare_exchange(cut, PASS, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // Dropping one half of each closes both connections.
            drop(to.shutdown().await);
            return;
        }
        is_lossy |= mode.load(Ordering::Acquire) == SILENT;
        if is_lossy {
            has_lost.store(true, Ordering::Release);
        } else if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A proxy that holds back or copies single requests, or drops their answers. It acts on the first
/// attempts of scripts that change something.
pub(crate) struct HoldingProxy {
    port: u16,
    shared: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    server: u16,
    /// How many such requests pass before the one that it acts on.
    after: Option<usize>,
    action: Action,
    held: Option<HeldRequest>,
}

/// The action on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Action {
    /// Do not forward it, and close its connection.
    #[default]
    Hold,
    /// Forward it and its answer, and keep a copy.
    Copy,
    /// Forward it, and close its connection before the answer.
    DropAnswer,
}

/// A request that was not forwarded yet, or a copy of one that was.
#[derive(Clone)]
pub(crate) struct HeldRequest {
    server: u16,
    bytes: Vec<u8>,
    /// The digest of the script that it calls.
    pub(crate) digest: String,
}

impl HoldingProxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let shared = Arc::new(Mutex::new(Plan { server, ..Plan::default() }));
        let plan = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let drops_answers = Arc::new(AtomicBool::new(false));
                tokio::spawn(pass_answers(from_server, to_client, Arc::clone(&drops_answers)));
                tokio::spawn(pass_requests(
                    from_client,
                    to_server,
                    Arc::clone(&plan),
                    drops_answers,
                ));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Holds back the request after `n` others, and closes its connection.
    pub(crate) fn hold(&self, n: usize) {
        self.plan().plan(n, Action::Hold);
    }

    /// Forwards the request after `n` others, and keeps a copy.
    pub(crate) fn copy(&self, n: usize) {
        self.plan().plan(n, Action::Copy);
    }

    /// Forwards the request after `n` others, and closes its connection instead of forwarding the
    /// answer.
    pub(crate) fn hide_answer(&self, n: usize) {
        self.plan().plan(n, Action::DropAnswer);
    }

    /// The request that was held back or copied, if it came. The proxy acts on no later request.
    pub(crate) fn take_held(&self) -> Option<HeldRequest> {
        self.plan().after = None;
        self.plan().held.take()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.shared.lock().expect("the lock is not poisoned")
    }
}

impl Plan {
    fn plan(&mut self, after: usize, action: Action) {
        (self.after, self.action) = (Some(after), action);
    }
}

/// The length of the envelope, the last argument of scripts that change something, and the offsets
/// of the deadline in milliseconds and of the attempt.
const ENVELOPE: usize = 49;
const DEADLINE: std::ops::Range<usize> = 8..16;
const ATTEMPT: usize = 36;

impl HeldRequest {
    /// Its deadline, in milliseconds since 1970.
    pub(crate) fn deadline(&self) -> u64 {
        let envelope = &self.bytes[self.bytes.len() - ENVELOPE - 2..];
        u64::from_be_bytes(envelope[DEADLINE].try_into().expect("eight bytes"))
    }

    /// The same request as the repeat that the driver would send next.
    pub(crate) fn repeat(mut self) -> Self {
        let envelope = self.bytes.len() - ENVELOPE - 2;
        self.bytes[envelope + ATTEMPT] = 2;
        self
    }

    /// Sends it to the server. Returns the server's answer.
    pub(crate) async fn send(&self) -> String {
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).await.expect("it connects");
        server.write_all(&self.bytes).await.expect("it is sent");
        let mut answer = vec![0; 4096];
        let length = server.read(&mut answer).await.expect("the server answers");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

/// Forwards answers until the connection ends or answers are to be dropped.
async fn pass_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    drops_answers: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if drops_answers.load(Ordering::Acquire) || to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    drop(to.shutdown().await);
}

async fn pass_requests(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: Arc<Mutex<Plan>>,
    drops_answers: Arc<AtomicBool>,
) {
    let mut from = BufReader::new(from);
    while let Some((bytes, arguments)) = read_request(&mut from).await {
        if is_first_of_script(&arguments) {
            let mut plan = plan.lock().expect("the lock is not poisoned");
            match plan.after {
                Some(0) => {
                    let digest = String::from_utf8_lossy(&arguments[1]).into_owned();
                    let server = plan.server;
                    plan.held = Some(HeldRequest { server, bytes: bytes.clone(), digest });
                    plan.after = None;
                    match plan.action {
                        Action::Hold => return,
                        Action::Copy => {}
                        Action::DropAnswer => drops_answers.store(true, Ordering::Release),
                    }
                }
                Some(n) => plan.after = Some(n - 1),
                None => {}
            }
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Whether the last argument is the envelope of the first attempt of a script that changes
/// something.
fn is_first_of_script(arguments: &[Vec<u8>]) -> bool {
    arguments[0] == b"EVALSHA"
        && arguments.last().is_some_and(|it| it.len() == ENVELOPE && it[ATTEMPT] == 1)
}

/// Reads one request: its bytes, and its arguments.
pub(crate) async fn read_request(
    from: &mut BufReader<OwnedReadHalf>,
) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut bytes = Vec::new();
    let count = read_number(from, &mut bytes).await?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let length = read_number(from, &mut bytes).await?;
        let mut argument = vec![0; length + 2];
        from.read_exact(&mut argument).await.ok()?;
        bytes.extend(&argument);
        argument.truncate(length);
        arguments.push(argument);
    }
    Some((bytes, arguments))
}

/// Reads `*N` or `$N`.
async fn read_number(from: &mut BufReader<OwnedReadHalf>, bytes: &mut Vec<u8>) -> Option<usize> {
    let from_here = bytes.len();
    from.read_until(b'\n', bytes).await.ok()?;
    std::str::from_utf8(bytes.get(from_here + 1..)?).ok()?.trim().parse().ok()
}
