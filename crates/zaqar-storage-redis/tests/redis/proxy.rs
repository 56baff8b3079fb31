//! A proxy in front of a server, which cuts connections at the worst moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const PASS: u8 = 0;
const CUT_ANSWER: u8 = 1;
const CUT_REQUEST: u8 = 2;
const SILENT: u8 = 3;

/// A port that leads to a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let own = listener.local_addr().expect("it has an address").port();
        let mode = Arc::new(AtomicU8::new(PASS));
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, Arc::clone(&shared), CUT_REQUEST));
                tokio::spawn(carry(from_server, to_client, Arc::clone(&shared), CUT_ANSWER));
            }
        });
        Self { port: own, mode }
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the connection that the next answer comes on, instead of passing the answer on.
    pub(crate) fn cut_next_answer(&self) {
        self.mode.store(CUT_ANSWER, Ordering::Release);
    }

    /// Ends the connection that the next request comes on, instead of passing the request on.
    pub(crate) fn cut_next_request(&self) {
        self.mode.store(CUT_REQUEST, Ordering::Release);
    }

    /// Passes nothing on, and keeps connections open. One that has lost something never passes anything again.
    pub(crate) fn be_silent(&self) {
        self.mode.store(SILENT, Ordering::Release);
    }

    pub(crate) fn pass(&self) {
        self.mode.store(PASS, Ordering::Release);
    }

    /// Whether the cut that was asked for was made.
    pub(crate) fn has_cut(&self) -> bool {
        self.mode.load(Ordering::Acquire) == PASS
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: Arc<AtomicU8>, cut: u8) {
    let mut buffer = vec![0; 64 << 10];
    let mut is_lossy = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if mode.compare_exchange(cut, PASS, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // Dropping one half of each ends both connections.
            drop(to.shutdown().await);
            return;
        }
        is_lossy |= mode.load(Ordering::Acquire) == SILENT;
        if !is_lossy && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
