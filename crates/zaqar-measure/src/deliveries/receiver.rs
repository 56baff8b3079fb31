//! Endpoints of webhooks: each answers 204 and notes when which message came, or is dead.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::Error;

/// Before the number of a message in its body.
pub(super) const NUMBER: &str = "\"n\":";
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const LENGTH: &[u8] = b"content-length: ";

/// Endpoints on ports of the loopback address, served by a thread of their own.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The last endpoint answers nothing.
    is_dead: AtomicBool,
    received: Mutex<Vec<Receipt>>,
}

/// A message that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    pub(super) number: usize,
    pub(super) at: Instant,
}

impl Receiver {
    /// Serves so many endpoints until the process ends.
    pub(super) fn start(endpoints: usize) -> Result<Self, Error> {
        let failed = |source| Error::Serve { source };
        let bind = |_| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = (0..endpoints).map(bind).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let addresses = listeners.iter().map(std::net::TcpListener::local_addr);
        let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                for (at, listener) in listeners.into_iter().enumerate() {
                    let shared = Arc::clone(&of_thread);
                    tokio::spawn(accept(listener, at + 1 == endpoints, shared));
                }
                std::future::pending::<()>().await;
            });
        });
        Ok(Self { addresses, shared })
    }

    /// From now on the last endpoint takes requests and answers none.
    pub(super) fn kill_last(&self) {
        self.shared.is_dead.store(true, Ordering::Release);
    }

    /// How many messages came since the last [`Receiver::take`].
    pub(super) fn count(&self) -> usize {
        self.shared.received().len()
    }

    /// What came since then.
    pub(super) fn take(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.shared.received())
    }
}

impl Shared {
    fn received(&self) -> std::sync::MutexGuard<'_, Vec<Receipt>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: std::net::TcpListener, is_last: bool, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let served = serve(stream, is_last, &shared).await;
            if let Err(error) = served {
                eprintln!("a webhook's connection ended: {error}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream, is_last: bool, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some((length, number)) = request(&buffer) {
            buffer.advance(length);
            if is_last && shared.is_dead.load(Ordering::Acquire) {
                continue;
            }
            // The bare client's messages have no number that counts.
            if let Some(number) = number {
                shared.received().push(Receipt { number, at: Instant::now() });
            }
            stream.write_all(ANSWER).await?;
        }
    }
    Ok(())
}

/// The length of a request that is complete, and the number of its message.
fn request(buffer: &[u8]) -> Option<(usize, Option<usize>)> {
    let head = memmem::find(buffer, b"\r\n\r\n")? + 4;
    let lower = buffer[..head].to_ascii_lowercase();
    let length = memmem::find(&lower, LENGTH).map(|at| digits(&lower[at + LENGTH.len()..]));
    let end = head + length.unwrap_or(Some(0))?;
    let body = buffer.get(head..end)?;
    let number = memmem::find(body, NUMBER.as_bytes());
    Some((end, number.and_then(|at| digits(&body[at + NUMBER.len()..]))))
}

fn digits(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_it_is_complete() {
        let text = b"POST / HTTP/1.1\r\nContent-Length: 16\r\n\r\n{\"body\":{\"n\":42}GET";
        let end = text.len() - 3;
        assert_eq!(request(text), Some((end, Some(42))));
        assert_eq!(request(&text[..end]), Some((end, Some(42))));
        assert_eq!(request(&text[..end - 1]), None);
        assert_eq!(request(b"POST / HTTP/1.1\r\n"), None);
        assert_eq!(request(b"GET / HTTP/1.1\r\n\r\n"), Some((18, None)));
    }
}
