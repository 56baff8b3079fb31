//! Requests of each kind over HTTP and WebSocket. `tools/instructions` counts their instructions
//! under callgrind. Everything runs in one thread, on the in-memory store.
//!
//! The count covers [`measured`], from the bytes of a request to those of its answer; [`counted`]
//! marks the end of one kind of request. The tool knows both names.

#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::HttpService;
use zaqar_transport_ws::WsService;

const CLIENT: &str = "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1";

/// Requests of each kind that are not counted, so that caches and buffers are warm.
const WARM_UP: usize = 20;

/// Longer than any measurement, so that no ping or timeout interferes.
const LONG: Duration = Duration::from_secs(86_400);

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(1, |number| number.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (http, ws) = runtime.block_on(serve());
    let mut http = Client::Http(Bytes::new(runtime.block_on(TcpStream::connect(http)).unwrap()));
    let mut ws = Client::Ws(runtime.block_on(open(ws)));
    for client in [&mut http, &mut ws] {
        for kind in ["post", "post 10", "list 10", "get", "claim", "delete"] {
            let requests = Requests::new(client.is_http(), kind);
            for round in 0..WARM_UP + rounds {
                let before = requests.before(&runtime, client);
                let request = requests.request(&before);
                if round < WARM_UP {
                    client.document(&runtime, &request);
                } else {
                    measured(&runtime, client, &request);
                }
            }
            counted();
            println!("{} {kind}", if client.is_http() { "HTTP" } else { "WebSocket" });
        }
    }
}

#[inline(never)]
fn measured(runtime: &Runtime, client: &mut Client, request: &[u8]) {
    runtime.block_on(client.ask(request));
}

#[inline(never)]
fn counted() {
    std::hint::black_box(());
}

/// Both transports, on ports of their own.
async fn serve() -> (std::net::SocketAddr, std::net::SocketAddr) {
    let store = Arc::new(Memory::new());
    let api = Api::new(store.clone(), store, zaqar_api::Options::default());
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (http, ws) = (listen().await, listen().await);
    let addresses = (http.local_addr().unwrap(), ws.local_addr().unwrap());
    let service = HttpService::new(api.clone(), zaqar_transport_http::Options::default());
    let options = zaqar_transport_http::ServerOptions {
        header_timeout: LONG,
        ..zaqar_transport_http::ServerOptions::default()
    };
    let server = zaqar_transport_http::Server { listener: http.into(), service, options };
    tokio::spawn(server.run(CancellationToken::new()));
    let options = zaqar_transport_ws::Options {
        ping_interval: LONG,
        idle_timeout: LONG,
        send_timeout: LONG,
        ..zaqar_transport_ws::Options::default()
    };
    let service = WsService::new(api, options);
    let options = zaqar_transport_ws::ServerOptions::default();
    let server = zaqar_transport_ws::Server { listener: ws.into(), service, options };
    tokio::spawn(server.run(CancellationToken::new()));
    addresses
}

async fn open(address: std::net::SocketAddr) -> Bytes {
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async("ws://localhost/", stream).await.unwrap();
    Bytes::new(socket.into_inner())
}

/// A connection that is read as cheaply as possible, because the client's instructions are counted
/// too.
struct Bytes {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Bytes {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::with_capacity(1 << 16) }
    }
}

enum Client {
    Http(Bytes),
    Ws(Bytes),
}

impl Client {
    fn is_http(&self) -> bool {
        matches!(self, Self::Http(_))
    }

    /// Sends a request and returns the whole answer.
    async fn ask(&mut self, request: &[u8]) -> &[u8] {
        let is_http = self.is_http();
        let (Self::Http(bytes) | Self::Ws(bytes)) = self;
        bytes.read.clear();
        bytes.stream.write_all(request).await.unwrap();
        loop {
            let read = bytes.stream.read_buf(&mut bytes.read).await.unwrap();
            assert!(read > 0, "the server closed the connection");
            let length = if is_http { http_length(&bytes.read) } else { ws_length(&bytes.read) };
            if length == Some(bytes.read.len()) {
                break;
            }
        }
        &bytes.read
    }

    /// The document of a successful answer.
    fn document(&mut self, runtime: &Runtime, request: &[u8]) -> serde_json::Value {
        let is_http = self.is_http();
        let answer = runtime.block_on(self.ask(request));
        let start = if is_http { find(answer, b"\r\n\r\n").unwrap() + 4 } else { ws_head(answer) };
        if is_http {
            assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(answer));
            return serde_json::from_slice(&answer[start..]).unwrap_or_default();
        }
        let document: serde_json::Value = serde_json::from_slice(&answer[start..]).unwrap();
        let status = document["headers"]["status"].as_u64().unwrap();
        assert!((200..300).contains(&status), "{document}");
        document["body"].clone()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The length of a whole answer; `None` until its head has arrived.
fn http_length(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let name = b"content-length: ";
    let Some(start) = find(&bytes[..head], name) else { return Some(head) };
    let digits = bytes[start + name.len()..head].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

/// Bytes of the head of a frame from the server.
fn ws_head(bytes: &[u8]) -> usize {
    match bytes[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    }
}

fn ws_length(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < 10 {
        return None;
    }
    let length = match bytes[1] {
        127 => u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize,
        126 => usize::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap())),
        length => usize::from(length),
    };
    Some(ws_head(bytes) + length)
}

/// The requests of one kind, in the bytes of one wire.
struct Requests {
    is_http: bool,
    kind: &'static str,
    queue: String,
}

impl Requests {
    fn new(is_http: bool, kind: &'static str) -> Self {
        Self { is_http, kind, queue: format!("{}-{is_http}", kind.replace(' ', "-")) }
    }

    /// Prepares the request; returns the id that it refers to, if it needs one.
    fn before(&self, runtime: &Runtime, client: &mut Client) -> String {
        let posted = match self.kind {
            "post" | "post 10" => return String::new(),
            "list 10" => 10,
            _ => 1,
        };
        // The same backlog each time: a queue with exactly these messages.
        client.document(runtime, &self.write("DELETE", "", "queue_delete", serde_json::json!({})));
        let answer = client.document(runtime, &self.post(posted));
        if self.kind == "claim" {
            return String::new();
        }
        let id = answer["resources"][0].as_str().or(answer["message_ids"][0].as_str()).unwrap();
        id.rsplit('/').next().unwrap().to_owned()
    }

    fn request(&self, id: &str) -> Vec<u8> {
        match self.kind {
            "post" => self.post(1),
            "post 10" => self.post(10),
            "list 10" => {
                let body = serde_json::json!({"echo": true, "limit": 10});
                self.write("GET", "/messages?echo=true&limit=10", "message_list", body)
            }
            "claim" => {
                let body = serde_json::json!({"ttl": 300, "grace": 60, "limit": 1});
                self.write("POST", "/claims?limit=1", "claim_create", body)
            }
            kind => {
                let (method, action) = match kind {
                    "get" => ("GET", "message_get"),
                    _ => ("DELETE", "message_delete"),
                };
                let body = serde_json::json!({"message_id": id});
                self.write(method, &format!("/messages/{id}"), action, body)
            }
        }
    }

    fn post(&self, count: usize) -> Vec<u8> {
        let message = serde_json::json!({"ttl": 300, "body": "x".repeat(1000)});
        let body = serde_json::json!({"messages": vec![message; count]});
        self.write("POST", "/messages", "message_post", body)
    }

    fn write(&self, method: &str, path: &str, action: &str, body: serde_json::Value) -> Vec<u8> {
        let queue = &self.queue;
        if self.is_http {
            let body = if method == "POST" { body.to_string() } else { String::new() };
            return format!(
                "{method} /v2/queues/{queue}{path} HTTP/1.1\r\nHost: localhost\r\n\
                 Client-ID: {CLIENT}\r\nX-Project-ID: p\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes();
        }
        let mut body = body;
        body["queue_name"] = queue.as_str().into();
        let headers = serde_json::json!({"Client-ID": CLIENT, "X-Project-ID": "p"});
        let request = serde_json::json!({"action": action, "headers": headers, "body": body});
        frame(&request.to_string())
    }
}

/// A text frame with a mask of zeros, which changes nothing.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length as u8),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}
