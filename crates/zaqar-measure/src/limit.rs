//! The limits: a hyper server that answers from memory, and one that appends and syncs before.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::zaqar::{self, BODY, PAGE};

/// Requests that one write and sync takes at most.
const GROUP: usize = 256;
/// Bytes that a change without a body appends, such as a claim or a deletion.
const RECORD: usize = 64;
/// Ids, made up, of the length that zaqar-server's have.
const ID: &str = "6a5536f8eadf15d90000000000000001";
const CLAIM: &str = "1c7dd21fbf58445852fc95be67aea3b3";
const REQUEST_ID: &str = "req-a6c2c5be-1c97-422c-93dc-c002bb5a93cb";

/// What a limit does before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Nothing
    Memory,
    /// Append what changes something to a file, and sync it
    Sync,
}

/// Listens on a port of the loopback address.
pub(crate) async fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| Error::Serve { source })
}

/// Serves a limit until it fails.
pub(crate) async fn serve(
    kind: Kind,
    listener: TcpListener,
    directory: &Path,
) -> Result<(), Error> {
    let log = match kind {
        Kind::Memory => None,
        Kind::Sync => Some(Log::open(directory)?),
    };
    let limit = Arc::new(Limit { answers: Answers::new(), log });
    let builder = builder();
    loop {
        let (stream, _) = listener.accept().await.map_err(|source| Error::Serve { source })?;
        stream.set_nodelay(true).map_err(|source| Error::Serve { source })?;
        let limit = Arc::clone(&limit);
        let service = service_fn(move |request| {
            let limit = Arc::clone(&limit);
            async move { Ok::<_, Infallible>(limit.answer(request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

/// Built as `zaqar-transport-http` builds its own.
fn builder() -> Builder<TokioExecutor> {
    let header_timeout = Duration::from_secs(60);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .half_close(true)
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(header_timeout);
    builder
}

struct Limit {
    answers: Answers,
    log: Option<Log>,
}

impl Limit {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return respond(StatusCode::BAD_REQUEST, None, Bytes::new());
        };
        let body = body.to_bytes();
        if let Some(log) = &self.log
            && head.method != Method::GET
            && log.append(body.clone()).await.is_err()
        {
            return respond(StatusCode::SERVICE_UNAVAILABLE, None, Bytes::new());
        }
        self.answers.find(&head.method, head.uri.path(), body.len())
    }
}

/// The answers, finished; as long as zaqar-server's for messages of 1 KiB.
struct Answers {
    list: Bytes,
    get: Bytes,
    claim: Bytes,
    /// By the number of messages, each with its `Location`.
    post: Vec<(Bytes, HeaderValue)>,
}

impl Answers {
    fn new() -> Self {
        let base = "/v2/queues/zaqar-measure-list";
        let message = |claim: &str| {
            let body = zaqar::body();
            format!(
                r#"{{"id":"{ID}","href":"{base}/messages/{ID}{claim}","ttl":21600,"age":0,"body":{body}}}"#
            )
        };
        let page = |claim: &str| vec![message(claim); PAGE].join(",");
        let next = format!("{base}/messages?limit={PAGE}&echo=true&marker={ID}");
        Self {
            list: format!(
                r#"{{"messages":[{}],"links":[{{"rel":"next","href":"{next}"}}]}}"#,
                page("")
            )
            .into(),
            get: message("").into(),
            claim: format!(r#"{{"messages":[{}]}}"#, page(&format!("?claim_id={CLAIM}"))).into(),
            post: (0..=GROUP).map(|count| posted(base, count)).collect(),
        }
    }

    /// `length` is that of the request's body: a post has as many messages as it has KiB.
    fn find(&self, method: &Method, path: &str, length: usize) -> Response<Full<Bytes>> {
        let last = path.rsplit('/').next().unwrap_or_default();
        match (method, last) {
            (&Method::GET, "messages") => respond(StatusCode::OK, None, self.list.clone()),
            (&Method::GET, _) => respond(StatusCode::OK, None, self.get.clone()),
            (&Method::POST, "messages") => {
                let (body, location) = &self.post[(length / BODY).min(GROUP)];
                respond(StatusCode::CREATED, Some(location.clone()), body.clone())
            }
            (&Method::POST, "claims") => {
                let location = HeaderValue::from_static(
                    "/v2/queues/zaqar-measure-list/claims/1c7dd21fbf58445852fc95be67aea3b3",
                );
                respond(StatusCode::CREATED, Some(location), self.claim.clone())
            }
            _ => respond(StatusCode::NO_CONTENT, None, Bytes::new()),
        }
    }
}

fn posted(base: &str, count: usize) -> (Bytes, HeaderValue) {
    let paths = vec![format!("\"{base}/messages/{ID}\""); count].join(",");
    let location = format!("{base}/messages?ids={}", vec![ID; count].join(","));
    let location = HeaderValue::try_from(location).expect("it is ASCII");
    (format!("{{\"resources\":[{paths}]}}").into(), location)
}

fn respond(
    status: StatusCode,
    location: Option<HeaderValue>,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let json = !body.is_empty();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if json {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    let name = HeaderName::from_static("x-openstack-request-id");
    headers.insert(name, HeaderValue::from_static(REQUEST_ID));
    response
}

/// A file that one thread appends to.
struct Log {
    records: SyncSender<Record>,
}

struct Record {
    bytes: Bytes,
    /// Told when the record is on disk; dropped when it is not.
    synced: oneshot::Sender<()>,
}

impl Log {
    fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("limit.log");
        let file =
            File::create(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        // Connections are bounded by the client, and each waits for one record.
        let (records, waiting) = sync_channel(4096);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_groups(file, &path, &waiting))
            .map_err(|source| Error::Serve { source })?;
        Ok(Self { records })
    }

    /// Returns when the record is on disk.
    async fn append(&self, bytes: Bytes) -> Result<(), oneshot::error::RecvError> {
        let (synced, done) = oneshot::channel();
        if self.records.try_send(Record { bytes, synced }).is_err() {
            eprintln!("the log takes no more records");
        }
        done.await
    }
}

fn write_groups(mut file: File, path: &Path, waiting: &Receiver<Record>) {
    let mut group = Vec::with_capacity(GROUP);
    let mut bytes = Vec::new();
    while let Ok(first) = waiting.recv() {
        bytes.clear();
        for record in std::iter::once(first).chain(waiting.try_iter().take(GROUP - 1)) {
            bytes.extend_from_slice(&record.bytes);
            bytes.resize(bytes.len() + RECORD.saturating_sub(record.bytes.len()), 0);
            group.push(record.synced);
        }
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            eprintln!("{}: {error}", path.display());
            return;
        }
        for synced in group.drain(..) {
            if synced.send(()).is_err() {
                eprintln!("a client went away before its answer");
            }
        }
    }
}

/// Appends and syncs 1 KiB `count` times and answers the time of each sync, sorted.
pub(crate) fn time_syncs(directory: &Path, count: usize) -> Result<Vec<Duration>, Error> {
    let path = directory.join("sync.log");
    let failed = |source| Error::File { path: path.clone(), source };
    let mut file = File::create(&path).map_err(failed)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = std::time::Instant::now();
        file.write_all(&[b'z'; 1024]).and_then(|()| file.sync_data()).map_err(failed)?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(&path).map_err(failed)?;
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_on_disk_when_it_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            log.append(Bytes::from_static(b"small")).await.unwrap();
            log.append(vec![b'x'; 100].into()).await.unwrap();
        });
        let written = std::fs::read(directory.path().join("limit.log")).unwrap();
        assert_eq!(written.len(), RECORD + 100);
        assert!(written.starts_with(b"small\0"));
    }

    #[test]
    fn answers_are_those_of_a_server() {
        let answers = Answers::new();
        assert_eq!(zaqar::message_ids(&answers.list).count(), PAGE);
        assert_eq!(zaqar::message_ids(&answers.claim).count(), PAGE);
        assert_eq!(zaqar::claim_id(&answers.claim), Some(CLAIM));
        for count in [1, 10] {
            assert_eq!(zaqar::posted_ids(&answers.post[count].0).count(), count);
        }
    }
}
