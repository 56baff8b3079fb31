//! A server that answers by a script and records its requests.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A recorded request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `METHOD PATH`.
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer: status, header lines, body. With status 0 the request is never answered.
pub(crate) struct Answer(pub(crate) u16, pub(crate) String, pub(crate) String);

impl Answer {
    pub(crate) fn new(status: u16, body: &str) -> Self {
        Self(status, String::new(), body.to_owned())
    }

    pub(crate) fn with(mut self, header: &str) -> Self {
        self.1 += &format!("{header}\r\n");
        self
    }
}

/// The answer to a request; `None` closes the connection without one.
type Script = dyn Fn(usize, &Request) -> Option<Answer> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Request>>>,
    changed: Arc<Notify>,
}

impl Scripted {
    /// Serves a script, which is called with the number of the request, from 0, and the request.
    pub(crate) async fn start(
        script: impl Fn(usize, &Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, asked: Arc::default(), changed: Arc::default() };
        let script: Arc<Script> = Arc::new(script);
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream, Arc::clone(&script)));
            }
        });
        server
    }

    async fn serve(self, stream: TcpStream, script: Arc<Script>) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await {
            let number = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(request.clone());
                asked.len() - 1
            };
            let answer = script(number, &request);
            self.changed.notify_waiters();
            let Some(Answer(status, headers, body)) = answer else { return };
            if status == 0 {
                std::future::pending::<()>().await;
            }
            let length = if status == 204 {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let text = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| request.line).collect()
    }

    /// Waits for a request with this property.
    pub(crate) async fn until(&self, is_it: impl Fn(&Request) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.asked().iter().any(&is_it) {
                return;
            }
            changed.await;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let line = line.trim_end().strip_suffix(" HTTP/1.1")?.to_owned();
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap();
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { line, headers, body: String::from_utf8(body).unwrap() })
}
