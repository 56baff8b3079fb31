//! The opening handshake (RFC 6455, 4.2): an HTTP request of bounded size.

use std::io;

use http::header::ORIGIN;
use http::{HeaderName, HeaderValue, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::server::{create_response, write_response};
use zaqar_transport::linger;

use crate::close::CLOSE_TIMEOUT;

/// Maximum size of the request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum number of header lines.
const MAX_HEADERS: usize = 100;

/// Why a handshake failed. The peer has been answered, if it is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the peer disconnected")]
    Gone(#[from] io::Error),
    #[error("not HTTP")]
    NotHttp,
    #[error("the request is larger than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("not a WebSocket request")]
    NotWebSocket,
    #[error("the origin is not allowed")]
    Origin,
}

/// Answers the handshake. Returns the bytes that the peer sent after it.
///
/// # Errors
/// [`HandshakeError`]; the stream has been closed.
pub(crate) async fn accept<S>(
    stream: &mut S,
    allowed_origins: &[String],
) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answered = answer(stream, allowed_origins).await;
    let (status, text) = match &answered {
        Ok(_) | Err(HandshakeError::Gone(_)) => return answered,
        Err(HandshakeError::NotHttp) => ("400 Bad Request", ""),
        Err(HandshakeError::TooLarge) => ("431 Request Header Fields Too Large", ""),
        Err(HandshakeError::Origin) => ("403 Forbidden", ""),
        Err(HandshakeError::NotWebSocket) => {
            ("426 Upgrade Required", "upgrade: websocket\r\nsec-websocket-version: 13\r\n")
        }
    };
    let head = format!("HTTP/1.1 {status}\r\n{text}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    // Closing with unread bytes would reset the connection, and the peer would lose the answer.
    linger(stream, CLOSE_TIMEOUT).await;
    answered
}

async fn answer<S>(stream: &mut S, allowed_origins: &[String]) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (request, rest) = read(stream).await?;
    let response = create_response(&request).map_err(|_| HandshakeError::NotWebSocket)?;
    if !is_allowed(&request, allowed_origins) {
        return Err(HandshakeError::Origin);
    }
    let mut answer = Vec::with_capacity(256);
    write_response(&mut answer, &response).map_err(|_| HandshakeError::NotWebSocket)?;
    stream.write_all(&answer).await?;
    stream.flush().await?;
    Ok(rest)
}

/// Reads the request, and the bytes after it.
async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Request<()>, Vec<u8>), HandshakeError> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(HandshakeError::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some((request, length)) = parse(&head)? {
            return Ok((request, head.split_off(length)));
        }
        if head.len() > MAX_HEAD {
            return Err(HandshakeError::TooLarge);
        }
    }
}

/// Whether a request may connect: its `Origin` is allowed, or it has none.
fn is_allowed(request: &Request<()>, allowed_origins: &[String]) -> bool {
    let is_origin = |origin: &HeaderValue| {
        allowed_origins.iter().any(|allowed| {
            allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        })
    };
    allowed_origins.is_empty() || request.headers().get(ORIGIN).is_none_or(is_origin)
}

/// The request and its length, once it is complete.
fn parse(head: &[u8]) -> Result<Option<(Request<()>, usize)>, HandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HandshakeError::TooLarge),
        Err(_) => return Err(HandshakeError::NotHttp),
    };
    let mut request = Request::new(());
    let method = parsed.method.unwrap_or_default().as_bytes();
    *request.method_mut() =
        http::Method::from_bytes(method).map_err(|_| HandshakeError::NotHttp)?;
    *request.version_mut() = match parsed.version {
        Some(1) => http::Version::HTTP_11,
        _ => http::Version::HTTP_10,
    };
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    Ok(Some((request, length)))
}
