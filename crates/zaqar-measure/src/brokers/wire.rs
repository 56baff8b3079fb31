//! One TCP connection to a broker: sends finished bytes, and reads until a parser has what it
//! wants.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::error::Error;
use crate::http;

/// The longest line that a broker may send, in bytes: NATS introduces itself with one of about a
/// kilobyte.
const LONGEST_LINE: usize = 64 * 1024;

/// A connection and what was read of it but not yet parsed.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = http::connect(address).await?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(64 * 1024) })
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await.map_err(|source| Error::Connection { source })
    }

    /// Reads until `parse` finds something at the start of what was read. `parse` removes what it
    /// returns from the buffer; it returns `None`, and removes nothing, when bytes are missing.
    pub(super) async fn next<T>(
        &mut self,
        parse: impl Fn(&mut BytesMut) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        loop {
            if let Some(found) = parse(&mut self.buffer)? {
                return Ok(found);
            }
            if http::read(&mut self.stream, &mut self.buffer).await? == 0 {
                return Err(Error::Truncated);
            }
        }
    }
}

/// The length of the first line, without its CR LF; `None` while its end is missing.
pub(super) fn line_length(buffer: &[u8]) -> Result<Option<usize>, Error> {
    let end = memchr::memmem::find(buffer, b"\r\n");
    if end.is_none() && buffer.len() > LONGEST_LINE {
        return Err(unreadable(format!("a line is longer than {LONGEST_LINE} bytes")));
    }
    Ok(end)
}

/// A word of a line as a number.
pub(super) fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, Error> {
    let word = word.unwrap_or_default();
    word.parse().map_err(|_| unreadable(format!("a number is missing: {word:?}")))
}

/// A line as text.
pub(super) fn text(line: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(line).map_err(|_| unreadable("a line is not UTF-8".to_owned()))
}

/// An answer that does not follow the protocol, or that reports an error.
pub(super) fn unreadable(reason: String) -> Error {
    Error::Answer { reason }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::limit;

    /// What a scripted broker does: waits for exactly these bytes, sends these, or closes.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::brokers) enum Script<'a> {
        Expects(&'a [u8]),
        Sends(&'a [u8]),
        Closes,
    }

    /// Runs a client against a broker that follows a script; it sends its bytes one at a time, so
    /// that every frame is split over reads.
    pub(in crate::brokers) fn converse<T>(
        script: &[Script<'_>],
        client: impl AsyncFnOnce(SocketAddr) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = limit::listen(0).await.unwrap();
            let address = listener.local_addr().unwrap();
            let broker = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                for step in script {
                    match step {
                        Script::Expects(expected) => {
                            let mut seen = vec![0; expected.len()];
                            stream.read_exact(&mut seen).await.unwrap();
                            let show = String::from_utf8_lossy;
                            assert_eq!(show(&seen), show(expected));
                        }
                        Script::Sends(bytes) => {
                            for byte in *bytes {
                                stream.write_all(&[*byte]).await.unwrap();
                                tokio::task::yield_now().await;
                            }
                        }
                        Script::Closes => stream.shutdown().await.unwrap(),
                    }
                }
                // Stays open until the client has ended.
                stream
            };
            tokio::join!(broker, client(address)).1
        })
    }

    /// Parses each beginning of some bytes: nothing may be found, or removed, before the end.
    pub(in crate::brokers) fn parse_split<T>(
        bytes: &[u8],
        parse: impl Fn(&mut BytesMut) -> Result<Option<T>, Error>,
    ) -> T {
        for end in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..end]);
            assert!(parse(&mut buffer).unwrap().is_none(), "found something in {end} bytes");
            assert_eq!(buffer.len(), end, "removed something of {end} bytes");
        }
        // What follows is left there.
        let mut buffer = BytesMut::from(bytes);
        buffer.extend_from_slice(b"rest");
        let found = parse(&mut buffer).unwrap().expect("it is complete");
        assert_eq!(&buffer[..], b"rest");
        found
    }

    #[test]
    fn a_line_has_a_bound() {
        assert_eq!(line_length(b"OK\r\nmore").unwrap(), Some(2));
        assert_eq!(line_length(b"OK\r").unwrap(), None);
        assert!(line_length(&vec![b'x'; LONGEST_LINE + 1]).is_err());
    }

    #[test]
    fn a_closed_connection_is_an_error() {
        let ended = converse(&[Script::Sends(b"half"), Script::Closes], async |address| {
            Wire::open(address).await?.next(|_| Ok(None::<()>)).await
        });
        assert!(matches!(ended, Err(Error::Truncated)), "{ended:?}");
    }
}
