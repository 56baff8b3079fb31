//! Makes what grows: messages, queues, idle connections.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::Dimension;
use crate::error::Error;
use crate::http::Connection;
use crate::zaqar::{self, Target};

/// Bytes of a message's body.
const BODY: usize = 100;
/// Seconds that messages live: longer than any run.
const MESSAGE_TTL: u32 = 6 * 3600;
/// Messages of one post that fills a queue.
const BATCH: usize = 250;
/// Connections that fill. A server lets a project make eight large posts at once.
const FILLERS: usize = 8;
/// Connections that post the first messages of queues.
const CREATORS: usize = 64;
/// Messages in the queue beside idle connections.
const BESIDE: usize = 1000;
/// Connections from one source address: fewer than there are ports for clients.
const PER_SOURCE: usize = 5000;
/// How long an answer to an idle connection's only request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The queues that requests go to.
#[derive(Debug)]
pub(super) struct Queues<'a> {
    pub(super) target: &'a Target,
    pub(super) count: usize,
    prefix: &'static str,
}

impl Queues<'_> {
    pub(super) fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }
}

/// What was made until now.
#[derive(Debug)]
pub(super) struct Grown<'a> {
    dimension: Dimension,
    target: &'a Target,
    size: usize,
    middle: Option<String>,
}

impl<'a> Grown<'a> {
    pub(super) fn new(dimension: Dimension, target: &'a Target) -> Self {
        Self { dimension, target, size: 0, middle: None }
    }

    /// The queues that there are.
    pub(super) fn queues(&self) -> Queues<'a> {
        let count = if self.dimension == Dimension::Queues { self.size } else { 1 };
        Queues { target: self.target, count, prefix: self.dimension.name() }
    }

    /// A message about the middle of the queue.
    pub(super) fn middle(&self) -> Option<String> {
        self.middle.clone()
    }

    /// Grows to `size`. Connections stay open as long as the answer lives.
    pub(super) async fn grow(&mut self, size: usize) -> Result<Option<Idle>, Error> {
        let new = self.size..size;
        self.size = size;
        match self.dimension {
            Dimension::Messages => {
                self.middle = Some(self.fill(new, size / 2).await?);
                Ok(None)
            }
            Dimension::Queues => {
                self.create(new).await?;
                Ok(None)
            }
            Dimension::Connections => {
                if new.start == 0 {
                    self.fill(0..BESIDE, 0).await?;
                }
                Idle::open(self.target, size).await.map(Some)
            }
        }
    }

    /// Posts to one queue the messages of these numbers, and answers the id of that of `number`, or
    /// of one posted about then.
    async fn fill(&self, numbers: Range<usize>, number: usize) -> Result<String, Error> {
        let mut connections = open(self.target, FILLERS).await?;
        let queue = self.queues().name(0);
        let full = post(self.target, &queue, BATCH);
        let found = RefCell::new(None);
        let posts = numbers.len().div_ceil(BATCH);
        drive(&mut connections, 0..posts, async |connection, at| {
            let first = numbers.start + at * BATCH;
            let count = BATCH.min(numbers.end - first);
            let rest = (count < BATCH).then(|| post(self.target, &queue, count));
            let answer = connection.expect("a post", rest.as_ref().unwrap_or(&full)).await?;
            if (first..first + count).contains(&number) {
                let id = zaqar::posted_ids(answer.body).nth(number - first);
                *found.borrow_mut() = id.map(str::to_owned);
            }
            Ok(())
        })
        .await?;
        found.into_inner().ok_or(Error::Nothing { reason: "no message in the middle was posted" })
    }

    /// Posts a message to each of these queues.
    async fn create(&self, numbers: Range<usize>) -> Result<(), Error> {
        let mut connections = open(self.target, CREATORS.min(numbers.len())).await?;
        let queues = self.queues();
        drive(&mut connections, numbers, async |connection, number| {
            let request = post(self.target, &queues.name(number), 1);
            connection.expect("a post", &request).await.map(drop)
        })
        .await
    }
}

/// Waits until what the growth left to do, such as the copying of a log, is done.
pub(super) async fn settle(size: usize) {
    let seconds = if size < 100_000 { 0.5 } else { 2.0 };
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

async fn open(target: &Target, count: usize) -> Result<Vec<Connection>, Error> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(Connection::open(target.address).await?);
    }
    Ok(connections)
}

/// Posts messages with bodies of [`BODY`] bytes.
pub(super) fn post(target: &Target, queue: &str, count: usize) -> Bytes {
    let body = "x".repeat(BODY - 2);
    let message = format!("{{\"ttl\":{MESSAGE_TTL},\"body\":\"{body}\"}}");
    let document = format!("{{\"messages\":[{}]}}", vec![message; count].join(","));
    target.request("POST", &format!("{queue}/messages"), Some(&document))
}

/// Connections that made a request each and are kept alive.
#[derive(Debug)]
pub(super) struct Idle {
    streams: Vec<TcpStream>,
}

impl Idle {
    async fn open(target: &Target, count: usize) -> Result<Self, Error> {
        let request = target.request("GET", "?limit=1", None);
        let mut streams = Vec::with_capacity(count);
        for number in 0..count {
            let opened = tokio::time::timeout(TIMEOUT, connect(target.address, number, &request));
            let late = |_| Error::Answer { reason: "none came in time".to_owned() };
            streams.push(opened.await.map_err(late)??);
        }
        Ok(Self { streams })
    }

    /// Fails if the server has closed one of them.
    pub(super) fn check(self) -> Result<(), Error> {
        for stream in &self.streams {
            match stream.try_read(&mut [0; 64]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(source) => return Err(Error::Connection { source }),
                Ok(_) => return Err(Error::Nothing { reason: "an idle connection was closed" }),
            }
        }
        Ok(())
    }
}

/// The address that a connection comes from, on Linux's loopback network.
fn source(number: usize) -> Ipv4Addr {
    let host = u32::try_from(number / PER_SOURCE).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits().saturating_add(host))
}

/// Opens a connection and reads the answer to its first request.
async fn connect(address: SocketAddr, number: usize, request: &[u8]) -> Result<TcpStream, Error> {
    let failed = |source| Error::Connect { address: address.to_string(), source };
    let socket = TcpSocket::new_v4().map_err(failed)?;
    if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        socket.bind((source(number), 0).into()).map_err(failed)?;
    }
    let mut stream = socket.connect(address).await.map_err(failed)?;
    let lost = |source| Error::Connection { source };
    stream.write_all(request).await.map_err(lost)?;
    // The answer is one small write; what it says does not matter here.
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).await.map_err(lost)?;
    if !answer[..length].starts_with(b"HTTP/1.1 200") {
        let reason = String::from_utf8_lossy(&answer[..length.min(300)]).into_owned();
        return Err(Error::Answer { reason });
    }
    Ok(stream)
}

/// Runs a round for each number; each connection takes the next number when its round has ended.
pub(super) async fn drive(
    connections: &mut [Connection],
    numbers: Range<usize>,
    round: impl AsyncFn(&mut Connection, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let next = Cell::new(numbers.start);
    let (next, round) = (&next, &round);
    let workers = connections.iter_mut().map(|connection| async move {
        while next.get() < numbers.end {
            let number = next.replace(next.get() + 1);
            round(connection, number).await?;
        }
        Ok(())
    });
    try_join_all(workers).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zaqar::Sender;

    #[test]
    fn sources_stay_on_the_loopback_network() {
        assert_eq!(source(0), Ipv4Addr::LOCALHOST);
        assert_eq!(source(PER_SOURCE - 1), source(0));
        assert_eq!(source(PER_SOURCE), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(PER_SOURCE * 300), Ipv4Addr::new(127, 0, 1, 45));
    }

    #[tokio::test]
    async fn a_post_has_bodies_of_100_bytes() {
        let target = Target::new("http://127.0.0.1:1", &Sender::default()).await.unwrap();
        let request = post(&target, "q", 3);
        let request = std::str::from_utf8(&request).unwrap();
        let bodies: Vec<&str> = request
            .split("\"body\":")
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
            .collect();
        assert_eq!(bodies.len(), 3);
        assert!(bodies.iter().all(|body| body.len() == BODY), "{bodies:?}");
    }
}
