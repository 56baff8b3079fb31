//! The WebSocket transport: requests a second in a closed loop, and what idle subscribers cost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::error::Error;
use crate::load::millis;
use crate::process;
use crate::table::{Table, figure};
use crate::zaqar::{BODY, PAGE};

/// Connections that are opened at once.
const OPENING: usize = 64;
/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server has to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// What is asked in a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Asked {
    /// Post 1 message of 1 KiB
    Post,
    /// List a page of 10 messages
    List,
}

/// A closed loop over some connections.
#[derive(Debug, clap::Args)]
pub(crate) struct Loops {
    /// The server, as HOST:PORT
    #[arg(long, default_value = "127.0.0.1:9000")]
    address: SocketAddr,
    /// What is measured, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "post,list")]
    workload: Vec<Asked>,
    /// Connections at once; several numbers make a measurement each
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    connections: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The server's process on this machine: shows its CPU time
    #[arg(long)]
    pid: Option<u32>,
}

/// Connections that subscribe and then wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// The server, as HOST:PORT
    #[arg(long, default_value = "127.0.0.1:9000")]
    address: SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Connections that subscribe to one queue
    #[arg(long, default_value_t = 1000)]
    together: usize,
    /// The server's process on this machine: shows its memory
    #[arg(long)]
    pid: u32,
}

struct Connection {
    socket: WebSocketStream<TcpStream>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| Error::Connect { address: address.to_string(), source })?;
        stream.set_nodelay(true).map_err(|source| Error::Connection { source })?;
        let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
        let url = format!("ws://{address}/");
        let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| unreadable(&error))?;
        Ok(Self { socket })
    }

    /// Sends a request and waits for its answer, which must have this status.
    async fn ask(&mut self, request: &str, status: u16) -> Result<(), Error> {
        let sent = self.socket.send(Message::text(request)).await;
        sent.map_err(|error| unreadable(&error))?;
        let text = self.next().await?;
        let wanted = format!("\"headers\":{{\"status\":{status}}}}}");
        if text.ends_with(&wanted) {
            return Ok(());
        }
        let body = text.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
        Err(Error::Refused { what: "a WebSocket request", status: 0, body })
    }

    async fn next(&mut self) -> Result<String, Error> {
        let waiting = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                    Some(Ok(Message::Close(_))) | None => return Err(Error::Truncated),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(unreadable(&error)),
                }
            }
        };
        tokio::time::timeout(TIMEOUT, waiting)
            .await
            .map_err(|_| Error::Answer { reason: "none came in time".to_owned() })?
    }
}

fn unreadable(error: &tokio_tungstenite::tungstenite::Error) -> Error {
    Error::Answer { reason: error.to_string() }
}

fn request(action: &str, body: &str) -> String {
    format!(
        "{{\"action\":\"{action}\",\"headers\":{{\"Client-ID\":\"3381af92cb4f4d308e9e5c5cd4f5a0d1\",\
         \"X-Project-ID\":\"bench\"}},\"body\":{body}}}"
    )
}

fn post(queue: &str, messages: usize) -> String {
    let message = format!("{{\"body\":\"{}\"}}", "x".repeat(BODY - 2));
    let messages = vec![message; messages].join(",");
    request("message_post", &format!("{{\"queue_name\":\"{queue}\",\"messages\":[{messages}]}}"))
}

impl Loops {
    /// Measures, and prints a line for each.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let names = ["request", "connections", "requests/s", "p50 ms", "p99 ms", "CPU µs/request"];
        let mut table = Table::new(&names);
        for &asked in &self.workload {
            for &connections in &self.connections {
                table.row(self.measure(asked, connections).await?);
            }
        }
        println!("{table}");
        Ok(())
    }

    async fn measure(&self, asked: Asked, connections: usize) -> Result<Vec<String>, Error> {
        let queue = format!("zaqar-measure-ws-{}-{connections}", rand::random::<u32>());
        let mut first = Connection::open(self.address).await?;
        first.ask(&post(&queue, PAGE), 201).await?;
        let (name, request, status) = match asked {
            Asked::Post => ("post", post(&queue, 1), 201),
            Asked::List => {
                let body = format!("{{\"queue_name\":\"{queue}\",\"echo\":true,\"limit\":{PAGE}}}");
                ("list", request("message_list", &body), 200)
            }
        };
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(self.address).await?);
        }
        let cpu_before = self.pid.map(process::cpu).transpose()?;
        let start = Instant::now();
        let until = start + Duration::from_secs_f64(self.seconds);
        let mut loops = JoinSet::new();
        for mut connection in open {
            let request = request.clone();
            loops.spawn(async move {
                let mut latencies = latencies();
                while Instant::now() < until {
                    let asked = Instant::now();
                    connection.ask(&request, status).await?;
                    latencies.saturating_record(nanos(asked.elapsed()));
                }
                Ok::<_, Error>(latencies)
            });
        }
        let mut all = latencies();
        while let Some(ended) = loops.join_next().await {
            let one = ended.map_err(|error| Error::Answer { reason: error.to_string() })??;
            all += one;
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu_after = self.pid.map(process::cpu).transpose()?;
        let delete = crate::websocket::request("queue_delete", &named(&queue));
        first.ask(&delete, 204).await?;
        let requests = all.len() as f64;
        let cpu = cpu_before.zip(cpu_after).map(|(before, after)| {
            figure(after.saturating_sub(before).as_secs_f64() * 1e6 / requests)
        });
        Ok(vec![
            name.to_owned(),
            connections.to_string(),
            figure(requests / seconds),
            figure(millis(&all, 0.5)),
            figure(millis(&all, 0.99)),
            cpu.unwrap_or_default(),
        ])
    }
}

fn named(queue: &str) -> String {
    format!("{{\"queue_name\":\"{queue}\"}}")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn latencies() -> Histogram<u64> {
    crate::load::histogram()
}

impl Subscribers {
    /// Opens the connections, says what they cost, posts once, and says when everybody had heard.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let run = rand::random::<u32>();
        let queue = |at: usize| format!("zaqar-measure-ws-{run}-{}", at / self.together);
        // One before the first reading: what the server sets up once is not a connection's.
        let mut producer = Connection::open(self.address).await?;
        producer.ask(&subscribe(&format!("zaqar-measure-ws-{run}-first")), 201).await?;
        tokio::time::sleep(SETTLE).await;
        let before = process::resident(self.pid)?;
        let start = Instant::now();
        let mut hearers = Vec::with_capacity(self.connections);
        let mut opening = JoinSet::new();
        for at in 0..self.connections {
            if opening.len() >= OPENING {
                hearers.extend(opened(&mut opening).await?);
            }
            let (address, request) = (self.address, subscribe(&queue(at)));
            opening.spawn(async move {
                let mut connection = Connection::open(address).await?;
                connection.ask(&request, 201).await?;
                Ok((at, connection))
            });
        }
        while let Some(connection) = opened(&mut opening).await? {
            hearers.push(connection);
        }
        let opened_in = start.elapsed();
        tokio::time::sleep(SETTLE).await;
        let after = process::resident(self.pid)?;
        let kib = after.saturating_sub(before) as f64 / self.connections as f64;

        let start = Instant::now();
        producer.ask(&post(&queue(0), 1), 201).await?;
        let mut hearing = JoinSet::new();
        for (_, mut connection) in hearers.extract_if(.., |(at, _)| *at < self.together) {
            hearing.spawn(async move { connection.next().await.map(|_| start.elapsed()) });
        }
        let mut heard = latencies();
        while let Some(ended) = hearing.join_next().await {
            let time = ended.map_err(|error| Error::Answer { reason: error.to_string() })??;
            heard.saturating_record(nanos(time));
        }
        let mut table = Table::new(&["what", "figure"]);
        let mut row = |what: &str, figure: String| table.row(vec![what.to_owned(), figure]);
        row("connections, each subscribed", figure(self.connections as f64));
        row("seconds to open them", figure(opened_in.as_secs_f64()));
        row("server memory before, MiB", figure(before as f64 / 1024.0));
        row("server memory after, MiB", figure(after as f64 / 1024.0));
        row("memory a connection, KiB", figure(kib));
        row("subscribers of one post that heard it", figure(heard.len() as f64));
        row("ms until half of them had", figure(millis(&heard, 0.5)));
        row("ms until all of them had", figure(millis(&heard, 1.0)));
        println!("{table}");
        Ok(())
    }
}

async fn opened(
    opening: &mut JoinSet<Result<(usize, Connection), Error>>,
) -> Result<Option<(usize, Connection)>, Error> {
    match opening.join_next().await {
        None => Ok(None),
        Some(ended) => {
            ended.map_err(|error| Error::Answer { reason: error.to_string() })?.map(Some)
        }
    }
}

fn subscribe(queue: &str) -> String {
    request("subscription_create", &format!("{{\"queue_name\":\"{queue}\",\"ttl\":3600}}"))
}
