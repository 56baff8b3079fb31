//! One HTTP/1.1 connection as a closed loop uses it: write a finished request, read the whole
//! answer.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Error;

/// The longest answer that is read, in bytes: twenty messages of the largest size fit many times.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Header lines of an answer at most.
const MAX_HEADERS: usize = 64;

/// A connection that opens itself again when the server closed it after an answer.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: BytesMut,
}

/// An answer; it lives until the next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// Whether the status is 2xx.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The answer as an error to `what`.
    pub(crate) fn refused(&self, what: &'static str) -> Error {
        let shown = &self.body[..self.body.len().min(300)];
        Error::Refused {
            what,
            status: self.status,
            body: String::from_utf8_lossy(shown).into_owned(),
        }
    }
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = Some(connect(address).await?);
        Ok(Self { address, stream, buffer: BytesMut::with_capacity(64 * 1024) })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, Error> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address).await?,
        };
        self.buffer.clear();
        stream.write_all(request).await.map_err(|source| Error::Connection { source })?;
        let head = loop {
            if read(&mut stream, &mut self.buffer).await? == 0 {
                return Err(Error::Truncated);
            }
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
        };
        let end = match head.body {
            Length::Known(length) => head.length + length,
            Length::UntilClose => usize::MAX,
        };
        while self.buffer.len() < end {
            if read(&mut stream, &mut self.buffer).await? > 0 {
                continue;
            }
            if head.body == Length::UntilClose {
                break;
            }
            return Err(Error::Truncated);
        }
        if head.keep_alive {
            self.stream = Some(stream);
        }
        let end = end.min(self.buffer.len());
        Ok(Answer { status: head.status, body: &self.buffer[head.length..end] })
    }

    /// [`Self::exchange`], where any status but 2xx is an error.
    pub(crate) async fn expect(
        &mut self,
        what: &'static str,
        request: &[u8],
    ) -> Result<Answer<'_>, Error> {
        let answer = self.exchange(request).await?;
        if answer.is_success() { Ok(answer) } else { Err(answer.refused(what)) }
    }
}

/// Connects, without Nagle's delays.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let failed = |source| Error::Connect { address: address.to_string(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// Reads more into a buffer; 0 bytes are the end.
pub(crate) async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<usize, Error> {
    if buffer.len() > MAX_ANSWER {
        return Err(Error::Answer { reason: format!("longer than {MAX_ANSWER} bytes") });
    }
    buffer.reserve(16 * 1024);
    stream.read_buf(buffer).await.map_err(|source| Error::Connection { source })
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of the head.
    length: usize,
    body: Length,
    keep_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(usize),
    UntilClose,
}

impl Head {
    /// Reads a head; `None` while it is not complete.
    fn parse(buffer: &[u8]) -> Result<Option<Self>, Error> {
        let unreadable = |reason: String| Error::Answer { reason };
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let status = response.code.unwrap_or_default();
        let mut content_length = None;
        let mut keep_alive = response.version == Some(1);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = String::from_utf8_lossy(header.value);
                let bytes = text.trim().parse().map_err(|_| unreadable(text.into_owned()))?;
                content_length = Some(bytes);
            } else if header.name.eq_ignore_ascii_case("connection") {
                keep_alive = !header.value.eq_ignore_ascii_case(b"close")
                    && (keep_alive || header.value.eq_ignore_ascii_case(b"keep-alive"));
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(unreadable("it is chunked".to_owned()));
            }
        }
        let body = match content_length {
            _ if status == 204 || status == 304 => Length::Known(0),
            Some(length) => Length::Known(length),
            None => Length::UntilClose,
        };
        // Such an answer ends with its connection, whatever the server says.
        let keep_alive = keep_alive && body != Length::UntilClose;
        Ok(Some(Self { status, length, body, keep_alive }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn reads_what_servers_send() {
        let kept = head("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabc");
        assert_eq!((kept.status, kept.body, kept.keep_alive), (200, Length::Known(12), true));
        assert_eq!(kept.length, 39);
        let closed = head("HTTP/1.1 201 Created\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n");
        assert!(!closed.keep_alive);
        let old = head("HTTP/1.0 200 OK\r\n\r\n");
        assert_eq!((old.body, old.keep_alive), (Length::UntilClose, false));
        let old = head("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n");
        assert!(old.keep_alive);
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").body, Length::Known(0));
    }

    #[test]
    fn waits_for_a_whole_head_and_refuses_others() {
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nConte").unwrap(), None);
        assert!(Head::parse(b"SMTP ready\r\n\r\n").is_err());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
