//! The server over TCP: unread request bodies, peers that do not read, memory, shutdown.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_core::{Limits, MemoryBounds, MemoryBudget};
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::{HttpService, Options, Server, ServerOptions};

/// Bounds every wait; long enough for a slow machine.
const LONG: Duration = Duration::from_secs(60);

const IDENTITY: &str =
    "Client-ID: 3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1\r\nX-Project-ID: p\r\nHost: h\r\n";

struct Running {
    address: SocketAddr,
    memory: MemoryBudget,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn start(bounds: MemoryBounds, header_timeout: Duration) -> Running {
    let memory = MemoryBudget::new(bounds);
    let store = Arc::new(Memory::new());
    let limits = Limits { max_messages_post_size: 8 << 20, ..Limits::default() };
    let options = zaqar_api::Options { limits, memory: memory.clone(), ..Default::default() };
    let api = Api::new(store.clone(), store, options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions { header_timeout, memory: memory.clone(), ..Default::default() };
    let service = HttpService::new(api, Options::default());
    let server = Server { listener: listener.into(), service, options };
    let stop = CancellationToken::new();
    let running = server.run(stop.clone());
    let serving = tokio::spawn(async move { running.await.unwrap() });
    Running { address, memory, stop, serving }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Posts one message with a body of this many bytes.
    async fn post(&self, bytes: usize) {
        let body = format!(r#"{{"messages":[{{"body":"{}","ttl":300}}]}}"#, "x".repeat(bytes));
        let mut stream = self.connect().await;
        let request = request("POST", "/v2/queues/q/messages", "", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.unwrap().status, 201);
    }
}

fn request(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\n{IDENTITY}{headers}Content-Length: {length}\r\n\r\n")
}

struct Answer {
    status: u16,
    closes: bool,
}

/// Reads one response with its body.
async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.unwrap().ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    timeout(LONG, stream.read_exact(&mut vec![0; length])).await.unwrap().ok()?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answer { status, closes: head.contains("connection: close") })
}

/// Requests that are answered before their body is read.
const ANSWERED_BEFORE_BODY: [(&str, &str, &str, u16); 9] = [
    ("POST", "/nowhere", "", 404),
    ("PUT", "/v2/queues", "", 405),
    ("POST", "/v2/queues/q/messages", "Accept: text/html\r\n", 406),
    ("POST", "/v2/queues/q/messages", "X-Project-ID: q\r\n", 400),
    ("POST", "/v2/queues/b@d/messages", "", 400),
    ("GET", "/v2/queues", "", 200),
    ("DELETE", "/v2/queues/q", "", 204),
    ("OPTIONS", "/v2/queues/q", "", 200),
    ("GET", "/", "", 300),
];

#[tokio::test]
async fn an_unread_body_does_not_break_later_requests() {
    let server = start(MemoryBounds::UNLIMITED, LONG).await;
    for (method, path, headers, status) in ANSWERED_BEFORE_BODY {
        for length in [2, 30_000, 1 << 20] {
            let mut stream = server.connect().await;
            for round in 0..30 {
                let head = request(method, path, headers, length);
                stream.write_all(head.as_bytes()).await.unwrap();
                // The server may respond and close the connection while this is being sent.
                let sent = stream.write_all(&vec![b'x'; length]).await;
                let answered = answer(&mut stream).await;
                let about = format!("{method} {path} with {length} bytes, round {round}");
                let answered = answered.unwrap_or_else(|| panic!("{about}: no response, {sent:?}"));
                assert_eq!(answered.status, status, "{about}");
                if answered.closes {
                    assert!(length > 256 << 10, "{about}: a small body closes the connection");
                    stream = server.connect().await;
                } else {
                    sent.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn an_unfinished_head_does_not_delay_shutdown() {
    let server = start(MemoryBounds::UNLIMITED, LONG).await;
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    server.post(10).await;
    server.stop.cancel();
    let start = Instant::now();
    server.serving.await.unwrap();
    // Less than the grace period of 30 s and the header timeout of 60 s.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Whether a request is answered that is sent when the server has just begun to stop: on a
/// connection that has had one, or on a new one. The server closes them after a while.
async fn is_answered_at_the_stop(is_new: bool) -> bool {
    let server = start(MemoryBounds::UNLIMITED, LONG).await;
    let get = request("GET", "/v2/ping", "", 0);
    let mut stream = server.connect().await;
    if !is_new {
        stream.write_all(get.as_bytes()).await.unwrap();
        assert!(!answer(&mut stream).await.unwrap().closes);
    }
    // Connections are accepted in turn.
    server.post(10).await;
    server.stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // The server may have closed it.
    let _ = stream.write_all(get.as_bytes()).await;
    let answered = answer(&mut stream).await;
    timeout(LONG, server.serving).await.unwrap().unwrap();
    answered.is_some_and(|answered| answered.status == 204 && answered.closes)
}

#[tokio::test]
async fn what_is_sent_as_the_server_stops_is_answered() {
    for is_new in [true, false] {
        // A machine that stands still for longer than the server waits fails one of them.
        let mut is_answered = false;
        for _ in 0..10 {
            is_answered = is_answered || is_answered_at_the_stop(is_new).await;
        }
        assert!(is_answered, "new: {is_new}");
    }
}

async fn client_with_window_zero(
    server: &Running,
) -> (h2::client::SendRequest<bytes::Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0).initial_max_send_streams(1000);
    let (send, connection) = builder.handshake(server.connect().await).await.unwrap();
    (send, tokio::spawn(connection))
}

fn list() -> http::Request<()> {
    http::Request::get("http://h/v2/queues/q/messages?echo=true")
        .header("Client-ID", "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1")
        .header("X-Project-ID", "p")
        .body(())
        .unwrap()
}

/// Ten HTTP/2 connections with window 0 send 256 lists each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_stay_within_the_memory_bounds() {
    const CONNECTION: usize = 4 << 20;
    let bounds = MemoryBounds { process: 32 << 20, connection: CONNECTION, project: 24 << 20 };
    let server = start(bounds, LONG).await;
    server.post(500_000).await;
    let mut open = Vec::new();
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..10 {
        let (mut send, connection) = client_with_window_zero(&server).await;
        let mut responses = Vec::new();
        for _ in 0..256 {
            send = timeout(LONG, send.ready()).await.unwrap().unwrap();
            responses.push(send.send_request(list(), true).unwrap().0);
        }
        for response in responses {
            let response = timeout(LONG, response).await.unwrap().unwrap();
            match response.status().as_u16() {
                200 => accepted += 1,
                503 => rejected += 1,
                other => panic!("{other}"),
            }
            assert!(server.memory.in_use() <= bounds.process);
            open.push(response);
        }
        // The connections stay open until the test ends.
        std::mem::forget((send, connection));
    }
    assert!(accepted > 0 && accepted < 10 * (CONNECTION / 500_000) + 10, "{accepted}");
    assert!(rejected > 2000, "{rejected}");
}

/// 40 HTTP/2 connections with window 0 send 200 requests each, with small answers. Over the budget
/// they are told 503, and over the bound of such answers their connections are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_rejections_are_bounded_for_the_process() {
    const BUDGET: usize = 4 << 20;
    /// Each is charged 2 KiB, of a 64th of the budget.
    const MAX_REJECTED: usize = BUDGET / 64 / 2048;
    let bounds = MemoryBounds { process: BUDGET, ..MemoryBounds::UNLIMITED };
    let server = start(bounds, LONG).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(client_with_window_zero(&server).await);
    }
    let (mut served, mut closed, mut open) = (0, 0, Vec::new());
    for (send, connection) in clients {
        let mut responses = Vec::new();
        for _ in 0..200 {
            let ready = timeout(LONG, send.clone().ready()).await.unwrap();
            let request = http::Request::get("http://h/v2/nowhere").body(()).unwrap();
            // Of a closed connection neither is possible.
            let Ok(Ok((response, _))) = ready.map(|mut send| send.send_request(request, true))
            else {
                break;
            };
            responses.push(response);
        }
        let (mut rejected, mut is_closed) = (0, false);
        for response in responses {
            match timeout(LONG, response).await.unwrap() {
                Ok(response) => {
                    let is_rejection = response.status() == 503;
                    assert!(is_rejection || response.status() == 404);
                    (served, rejected) =
                        (served + usize::from(!is_rejection), rejected + usize::from(is_rejection));
                    open.push(response);
                }
                Err(_) => is_closed = true,
            }
            assert!(server.memory.in_use() <= BUDGET);
        }
        assert!(rejected <= MAX_REJECTED, "{rejected} of one connection");
        closed += usize::from(is_closed);
        // The others stay open until the test ends.
        std::mem::forget((send, connection));
    }
    assert!(closed > 0 && served > 500, "{closed} closed, {served} served");
}

#[tokio::test]
async fn a_peer_that_answers_pings_but_reads_nothing_is_closed() {
    let server = start(MemoryBounds::UNLIMITED, Duration::from_secs(1)).await;
    server.post(20_000).await;
    let (mut send, connection) = client_with_window_zero(&server).await;
    send = send.ready().await.unwrap();
    let (response, _) = send.send_request(list(), true).unwrap();
    let response = timeout(LONG, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    // It is closed although this client reads frames and answers pings all the time.
    let ended = timeout(LONG, connection).await;
    assert!(ended.is_ok(), "the connection is still open");
    drop(response);
}

/// 120 HTTP/1 connections send an unfinished body each.
#[tokio::test]
async fn unfinished_bodies_stay_within_the_budget() {
    const BUDGET: usize = 16 << 20;
    let bounds = MemoryBounds { process: BUDGET, ..MemoryBounds::UNLIMITED };
    let server = start(bounds, LONG).await;
    let mut open = Vec::new();
    for _ in 0..120 {
        let mut stream = server.connect().await;
        let head = request("POST", "/v2/queues/q/messages", "", 4 << 20);
        let sent = stream.write_all(head.as_bytes()).await;
        // The server may have closed the connection already.
        if sent.is_ok() {
            let _ = timeout(LONG, stream.write_all(&vec![b' '; 400_000])).await.unwrap();
        }
        assert!(server.memory.in_use() <= BUDGET);
        open.push(stream);
    }
    while server.memory.refused() == 0 {
        tokio::task::yield_now().await;
    }
    // A rejected request gets a response.
    let mut rejected = 0;
    for stream in &mut open {
        if let Ok(first) = timeout(Duration::from_millis(100), stream.read_u8()).await {
            assert_eq!(first.unwrap(), b'H');
            rejected += 1;
        }
    }
    assert!(rejected >= 120 - BUDGET / 400_000, "{rejected}");
    drop(open);
    while server.memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
    server.post(10).await;
}
