//! The server over TCP: handshakes, the limit of connections, shutdown.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use zaqar_transport_ws::{Options, Server, ServerOptions, WsService};

use crate::support::{LONG, api, default_headers};

struct Running {
    port: u16,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), zaqar_transport::ServeError>>,
}

async fn start(options: Options, max_connections: usize) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = WsService::new(api(), options);
    let options = ServerOptions { max_connections, ..ServerOptions::default() };
    let server = Server { listener: listener.into(), service, options };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server.run(shutdown.clone()));
    Running { port, shutdown, task }
}

impl Running {
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn connect(&self) -> WebSocketStream<TcpStream> {
        tokio_tungstenite::client_async("ws://localhost/", self.tcp().await).await.unwrap().0
    }

    /// Sends raw bytes and returns the response, which ends when the server closes.
    async fn response_to(&self, bytes: &[u8]) -> String {
        let mut stream = self.tcp().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(LONG, read).await.expect("the server does not close").unwrap();
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn an_invalid_handshake_is_answered_with_its_status() {
    let options = Options { handshake_timeout: Duration::from_secs(1), ..Options::default() };
    let server = start(options, 10).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n", "y".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    for (bytes, start) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("POST / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n", "HTTP/1.1 426 "),
        ("\x16\x03\x01 nonsense\r\n\r\n", "HTTP/1.1 400 "),
        (long.as_str(), "HTTP/1.1 431 "),
        (many.as_str(), "HTTP/1.1 431 "),
        // Half a request and then nothing.
        ("GET / HTTP/1.1\r\nhost: x\r\n", ""),
    ] {
        let answer = server.response_to(bytes.as_bytes()).await;
        assert!(answer.starts_with(start) && answer.is_empty() == start.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn only_allowed_origins_connect() {
    let allowed_origins = vec!["https://a.example".to_owned()];
    let restricted = start(Options { allowed_origins, ..Options::default() }, 10).await;
    let open = start(Options::default(), 10).await;
    let connects = async |server: &Running, origin: Option<&str>| {
        let mut request = "ws://localhost/".into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        match tokio_tungstenite::client_async(request, server.tcp().await).await {
            Ok(_) => true,
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                assert_eq!(response.status(), 403);
                false
            }
            Err(other) => panic!("{other}"),
        }
    };
    for (origin, is_allowed) in [
        (None, true),
        (Some("https://a.example"), true),
        (Some("HTTPS://A.example"), true),
        (Some("https://a.example.evil.example"), false),
        (Some("http://a.example"), false),
        (Some("null"), false),
    ] {
        assert_eq!(connects(&restricted, origin).await, is_allowed, "{origin:?}");
        assert!(connects(&open, origin).await, "{origin:?}");
    }
}

#[tokio::test]
async fn frames_may_follow_the_handshake_at_once() {
    let server = start(Options::default(), 10).await;
    let mut stream = server.tcp().await;
    let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // A masked text frame of `{}`, with a mask of zeros.
    let frame = b"\x81\x82\0\0\0\0{}";
    stream.write_all(&[head.as_bytes(), frame].concat()).await.unwrap();
    let mut answer = Vec::new();
    let answered = async {
        while !String::from_utf8_lossy(&answer).contains("is not a valid action") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(LONG, answered).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    // RFC 6455, 1.3.
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
}

#[tokio::test]
async fn connections_past_the_limit_are_503_until_one_closes() {
    let server = start(Options::default(), 2).await;
    let mut first = server.connect().await;
    let _second = server.connect().await;
    assert!(server.response_to(b"GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
    first.close(None).await.unwrap();
    while let Some(Ok(_)) = first.next().await {}
    let again = async {
        loop {
            let stream = server.tcp().await;
            if tokio_tungstenite::client_async("ws://localhost/", stream).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, again).await.expect("the closed connection still counts");
}

#[tokio::test]
async fn shutdown_closes_every_connection_and_returns() {
    let server = start(Options::default(), 10).await;
    let mut socket = server.connect().await;
    let request = json!({ "action": "queue_list", "headers": default_headers() });
    socket.send(Message::text(request.to_string())).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    // An unfinished handshake does not delay shutdown.
    let _half = server.tcp().await;
    server.shutdown.cancel();
    let code = match tokio::time::timeout(LONG, socket.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(code, 1001);
    while let Some(Ok(_)) = socket.next().await {}
    let ended = tokio::time::timeout(LONG, server.task).await.expect("the server does not return");
    ended.unwrap().unwrap();
}
