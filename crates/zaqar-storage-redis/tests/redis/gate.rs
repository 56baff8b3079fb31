//! A proxy that forwards one call of a script at a time, each when the test allows it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::proxy::read_request;

/// A port that forwards to a server.
pub(crate) struct Gate {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// Calls that may pass.
    allowed: Semaphore,
    /// Calls that wait.
    waiting: watch::Sender<usize>,
    calls: Mutex<Vec<Call>>,
}

/// A call of a script, or a read of hashes, that has passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    /// Bytes of the request, and of answers until the next call.
    pub(crate) request: usize,
    pub(crate) answer: usize,
}

impl Gate {
    /// A gate that lets nothing pass.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let (allowed, waiting) = (Semaphore::new(0), watch::Sender::new(0));
        let shared = Arc::new(Shared { allowed, waiting, calls: Mutex::default() });
        let all = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass_answers(from_server, to_client, Arc::clone(&all)));
                tokio::spawn(pass_calls(from_client, to_server, Arc::clone(&all)));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until a call waits.
    pub(crate) async fn until_waiting(&self) {
        let mut waiting = self.shared.waiting.subscribe();
        waiting.wait_for(|count| *count > 0).await.expect("the gate exists");
    }

    /// Lets one call pass.
    pub(crate) fn allow_one(&self) {
        // In this order, so that `until_waiting` does not see the call that passes now.
        self.shared.waiting.send_modify(|count| *count = count.saturating_sub(1));
        self.shared.allowed.add_permits(1);
    }

    /// Lets everything pass.
    pub(crate) fn open(&self) {
        self.shared.allowed.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// The calls that have passed.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().expect("the lock is not poisoned").clone()
    }
}

async fn pass_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(last) = shared.calls.lock().expect("the lock is not poisoned").last_mut() {
            last.answer += length;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn pass_calls(from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut from = BufReader::new(from);
    while let Some((bytes, arguments)) = read_request(&mut from).await {
        // Scripts are loaded when they are called first.
        if arguments[0] == b"EVALSHA" || arguments[0] == b"EVAL" {
            shared.waiting.send_modify(|count| *count += 1);
            let Ok(permit) = shared.allowed.acquire().await else { return };
            permit.forget();
        }
        // Plain commands read messages, too: see `src/direct.rs`.
        if [b"EVALSHA".as_slice(), b"EVAL", b"HMGET"].contains(&arguments[0].as_slice()) {
            let call = Call { request: bytes.len(), answer: 0 };
            shared.calls.lock().expect("the lock is not poisoned").push(call);
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
