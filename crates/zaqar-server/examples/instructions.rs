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
use zaqar_api::{Api, Layers};
use zaqar_auth::keystone::{Credential, Name, Options, Scope};
use zaqar_auth::policy::Files;
use zaqar_auth::{Keystone, Permissions};
use zaqar_core::{Secret, SystemClock};
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::HttpService;
use zaqar_transport_ws::WsService;

const CLIENT: &str = "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1";

/// As long as those of Fernet.
const TOKEN: &str = "gAAAAABn0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0u1v2w3x4y5z6a7b8c9d0e1f2g3h4i5j6k7l8m9n0o\
    1p2q3r4s5t6u7v8w9x0y1z2a3b4c5d6e7f8g9h0i1j2k3l4m5n6o7p8q9r0s1t2u3v4w5x6y7z8a9b0";

/// Requests of each kind that are not counted: caches fill, and buffers grow.
const WARM_UP: usize = 20;

/// Longer than any measurement, so that no ping or timeout interferes.
const LONG: Duration = Duration::from_secs(86_400);

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(1, |number| number.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = |layers| {
        runtime.block_on(async {
            let (http, ws) = serve(layers).await;
            let http = Client::Http(Bytes::new(TcpStream::connect(http).await.unwrap()));
            (http, Client::Ws(self::open(ws).await))
        })
    };
    let (mut http, mut ws) = open(Layers::default());
    let (mut http_with_token, mut ws_with_token) = open(runtime.block_on(identity_and_policy()));
    authenticate(&runtime, &mut ws_with_token);
    let kinds = &["post", "post 10", "list 10", "get", "claim", "delete"][..];
    let with_token = &["get with a token"][..];
    for (client, kinds) in [
        (&mut http, kinds),
        (&mut http_with_token, with_token),
        (&mut ws, kinds),
        (&mut ws_with_token, with_token),
    ] {
        for kind in kinds {
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

/// A token that Keystone is asked about once, and a rule that looks at the caller and its target.
async fn identity_and_policy() -> Layers {
    let keystone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", keystone.local_addr().unwrap());
    tokio::spawn(answer_tokens(keystone));
    let name = |name: &str| Name::Name(name.to_owned());
    let credential = Credential::Password {
        user: name("zaqar"),
        domain: name("Default"),
        password: Secret::new("password".to_owned()),
        scope: Scope::Unscoped,
    };
    let options = Options { cached_for: LONG, ..Options::new(&url, credential) };
    let keystone = Keystone::new(options, Arc::new(SystemClock)).unwrap();
    let dir = std::env::temp_dir().join(format!("zaqar-instructions-{}", std::process::id()));
    let rule = "messages:get: role:admin or (role:member and project_id:%(project_id)s)\n";
    std::fs::write(&dir, rule).unwrap();
    let files = Files {
        file: Some(dir.clone()),
        dirs: Vec::new(),
        default_rule: "default".to_owned(),
        enforce_scope: true,
        enforce_new_defaults: true,
    };
    let policy = Permissions::load(files).unwrap();
    std::fs::remove_file(dir).unwrap();
    Layers {
        authenticator: Some(Arc::new(keystone)),
        policy: Some(Arc::new(policy)),
        ..Layers::default()
    }
}

/// A Keystone that knows one caller, whatever it is asked.
async fn answer_tokens(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let document = serde_json::json!({"token": {
            "user": {"id": "u", "name": "ann", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"name": "reader"}, {"name": "member"}],
            "expires_at": "2999-01-01T00:00:00Z",
        }})
        .to_string();
        // 201 to whoever asks for a token, whose request has a document.
        let status = if OWN_TOKEN.set(()).is_ok() { "201 Created" } else { "200 OK" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nX-Subject-Token: own\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{document}",
            document.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Set when the server has a token of its own.
static OWN_TOKEN: std::sync::OnceLock<()> = std::sync::OnceLock::new();

/// Both transports, on ports of their own.
async fn serve(layers: Layers) -> (std::net::SocketAddr, std::net::SocketAddr) {
    let store = Arc::new(Memory::new());
    let options = zaqar_api::Options { layers, ..zaqar_api::Options::default() };
    let api = Api::new(store.clone(), store, options);
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
        unused_timeout: LONG,
        send_timeout: LONG,
        ..zaqar_transport_ws::Options::default()
    };
    let service = WsService::new(api, options);
    let options = zaqar_transport_ws::ServerOptions::default();
    let server = zaqar_transport_ws::Server { listener: ws.into(), service, options };
    tokio::spawn(server.run(CancellationToken::new()));
    addresses
}

fn authenticate(runtime: &Runtime, client: &mut Client) {
    let headers =
        serde_json::json!({"Client-ID": CLIENT, "X-Project-ID": "p", "X-Auth-Token": TOKEN});
    let request = serde_json::json!({"action": "authenticate", "headers": headers});
    client.document(runtime, &frame(&request.to_string()));
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
        // With a token and without, the path is as long.
        let name = kind.trim_end_matches(" with a token").replace(' ', "-");
        Self { is_http, kind, queue: format!("{name}-{is_http}") }
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
                    "delete" => ("DELETE", "message_delete"),
                    _ => ("GET", "message_get"),
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
            let token = match self.kind.ends_with("token") {
                true => format!("X-Auth-Token: {TOKEN}\r\n"),
                false => String::new(),
            };
            return format!(
                "{method} /v2/queues/{queue}{path} HTTP/1.1\r\nHost: localhost\r\n\
                 Client-ID: {CLIENT}\r\nX-Project-ID: p\r\n{token}Content-Type: application/json\r\n\
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
