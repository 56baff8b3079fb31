//! A receiver that a test scripts byte by byte, so that it can send what hyper would not.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zaqar_core::{ProjectId, Timestamp};
use zaqar_notify::address::Networks;
use zaqar_notify::http::{Options, WebhookClient};
use zaqar_notify::outcome::{Answer, Attempt};
use zaqar_notify::target::Target;

/// When requests are made: Sunday, 29 November 2026, 05:00:00.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_928_400_000);

/// A listener on loopback whose connections are served by one function.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Serves connection number 0, 1, … with `serve`.
    pub(crate) async fn start<F, S>(serve: S) -> Self
    where
        S: Fn(usize, TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(number, stream));
            }
        });
        Self { address, connections, task }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn target(&self) -> Target {
        Target::parse(&format!("http://{}/hook", self.address)).unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request: its head, and the body of its Content-Length.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        read.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some(head) = text.find("\r\n\r\n") else { continue };
        let length = text.to_lowercase();
        let length = length.split("content-length: ").nth(1).expect("a length");
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if read.len() >= head + 4 + length {
            return Some(text);
        }
    }
}

/// Answers each request of a connection with the same bytes.
pub(crate) async fn answer_all(mut stream: TcpStream, answer: &'static str) {
    while read_request(&mut stream).await.is_some() {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub(crate) fn options() -> Options {
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    Options { networks: Networks::allowing(loopback), ..Options::default() }
}

pub(crate) fn client() -> WebhookClient {
    WebhookClient::new(&options()).unwrap()
}

pub(crate) async fn post(client: &WebhookClient, target: &Target) -> Attempt {
    post_for(&project("p"), client, target).await
}

pub(crate) async fn post_for(
    project: &ProjectId,
    client: &WebhookClient,
    target: &Target,
) -> Attempt {
    client.post(project, target, HeaderMap::new(), Bytes::from_static(b"{}"), None, NOW).await
}

pub(crate) fn project(name: &str) -> ProjectId {
    ProjectId::new(name).unwrap()
}

pub(crate) fn answered(attempt: Attempt) -> Answer {
    match attempt {
        Attempt::Answered(answer) => answer,
        Attempt::Failed(failure) => panic!("{failure:?}"),
    }
}

/// Resolves every name to the same addresses.
pub(crate) struct Fixed(pub(crate) Vec<IpAddr>);

#[async_trait::async_trait]
impl zaqar_notify::http::Resolve for Fixed {
    async fn resolve(&self, _: &ProjectId, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(self.0.clone())
    }
}
