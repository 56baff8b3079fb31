//! Tokens over TCP: who a request is from, whatever its connection sent before.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zaqar_api::{Api, AuthRequest, Authenticator, Identity, Layers, Remembered, TokenError};
use zaqar_core::{ProjectId, Timestamp};
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::{HttpService, Options, Server, ServerOptions};

/// Long enough for a slow machine: what takes longer is lost.
const LONG: Duration = Duration::from_secs(60);

/// Knows the tokens `a`, `b` and `limited`, for the projects of those names; the last one as what
/// may depend on the request. Counts how often it is asked.
#[derive(Default)]
struct Projects(AtomicUsize);

#[async_trait]
impl Authenticator for Projects {
    async fn authenticate(&self, _: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
        Err(TokenError::Invalid)
    }

    fn remembered(&self, auth: AuthRequest<'_>) -> Option<Remembered> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let token = auth.user_token.filter(|token| ["a", "b", "limited"].contains(token))?;
        let project = ProjectId::new(token).unwrap();
        let identity = Arc::new(Identity::new(project, "u", Vec::new(), Timestamp::MAX));
        let until = (token != "limited").then(|| Instant::now() + LONG);
        Some(Remembered { identity, until })
    }

    fn challenge(&self) -> String {
        "Keystone uri=\"http://keystone\"".to_owned()
    }
}

/// Creates a queue, and returns the status.
async fn create(stream: &mut TcpStream, token: &str) -> u16 {
    let request = format!(
        "PUT /v2/queues/q HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n{token}\
         Client-ID: 3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    timeout(LONG, stream.read_exact(&mut vec![0; length])).await.unwrap().unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_request_is_from_its_own_token() {
    let projects = Arc::new(Projects::default());
    let authenticator = Some(Arc::clone(&projects) as Arc<dyn Authenticator>);
    let layers = Layers { authenticator, ..Layers::default() };
    let store = Arc::new(Memory::new());
    let options = zaqar_api::Options { layers, ..Default::default() };
    let service = HttpService::new(Api::new(store.clone(), store, options), Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server { listener: listener.into(), service, options: ServerOptions::default() };
    let stop = CancellationToken::new();
    let running = server.run(stop.clone());
    let serving = tokio::spawn(async move { running.await.unwrap() });
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    // A queue that is new to a project is 201, one that it has 204.
    for (connection, token, status, asked) in [
        (0, "X-Auth-Token: a\r\n", 201, 1),
        (0, "X-Auth-Token: a\r\n", 204, 1),
        (0, "X-Auth-Token: b\r\n", 201, 2),
        (0, "X-Auth-Token: b\r\n", 204, 2),
        (0, "X-Storage-Token: b\r\n", 204, 2),
        (1, "X-Auth-Token: b\r\n", 204, 3),
        (0, "X-Auth-Token: c\r\n", 401, 4),
        (0, "", 401, 5),
        (0, "X-Auth-Token: bb\r\n", 401, 6),
        (0, "X-Auth-Token: b\r\nX-Service-Token: s\r\n", 204, 7),
        (0, "X-Auth-Token: limited\r\n", 201, 8),
        (0, "X-Auth-Token: limited\r\n", 204, 9),
        (0, "X-Auth-Token: a\r\n", 204, 10),
        (0, "X-Auth-Token: a\r\n", 204, 10),
        (1, "X-Auth-Token: b\r\n", 204, 10),
    ] {
        assert_eq!(create(&mut streams[connection], token).await, status, "{token}");
        assert_eq!(projects.0.load(Ordering::Relaxed), asked, "{token}");
    }
    drop(streams);
    stop.cancel();
    serving.await.unwrap();
}
