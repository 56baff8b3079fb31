//! A proxy between a store and its server that injects an error into one statement, before or after
//! the server has executed it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::change_stream::{Reply, Script};

/// The opcode of the wire protocol, and the bytes before the first section.
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
const FLAGS: usize = 4;
/// The maximum size of a message, a little more than 48 MB.
const LARGEST: usize = 50_000_000;

/// The injected fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection breaks.
    Network,
    /// A server error with this code.
    Code(i32),
    /// The statement and all later ones are not executed before [`Proxy::release`].
    Hold,
    /// The statement is executed, but its write concern fails with this code.
    Concern(i32),
}

/// Whether the fault comes before or after the server executes the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// The planned fault and the seen statements.
#[derive(Debug, Default)]
struct Plan {
    fault: Option<(Range<usize>, Fault, When)>,
    /// Statements since the plan was made.
    seen: Vec<String>,
    has_struck: bool,
    /// One in so many statements gets one of these faults.
    random: Option<(u32, &'static [Fault])>,
    /// How many got one.
    struck: usize,
    /// Statements that the server has not answered yet, whenever they were sent.
    pending: usize,
}

impl Plan {
    fn at_random(&mut self) -> Option<(Fault, When)> {
        let (one_in, faults) = self.random?;
        if rand::random_range(0..one_in) > 0 {
            return None;
        }
        self.struck += 1;
        let when = if rand::random() { When::Before } else { When::After };
        Some((faults[rand::random_range(0..faults.len())], when))
    }
}

/// A proxy that runs as long as its runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    /// Set to imitate a mongos: the name of the collection that is sharded.
    sharded: Arc<Mutex<Option<&'static str>>>,
    /// Answers for the server once it is played.
    pub(crate) change_stream: Script,
}

impl Proxy {
    /// Starts a proxy for a server at `host:port`.
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (plan, sharded, change_stream) = (Arc::default(), Arc::default(), Script::default());
        let proxy = Self { port, plan, sharded, change_stream };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxy, server) = (own.clone(), server.clone());
                tokio::spawn(async move { proxy.serve(client, server).await });
            }
        });
        proxy
    }

    /// The URI of the proxy, for a direct connection, as the proxy is not a member of the replica
    /// set. The client polls the server's state, because after an injected change of the primary
    /// the server would not announce anything.
    pub(crate) fn uri(&self) -> String {
        let options = "retryWrites=false&directConnection=true&serverMonitoringMode=poll\
                       &heartbeatFrequencyMS=500";
        format!("mongodb://127.0.0.1:{}/?{options}", self.port)
    }

    /// Injects a fault into the statement with this number, counted from now on.
    pub(crate) fn plan(&self, fault: Option<(usize, Fault, When)>) {
        self.plan_many(fault.map(|(number, fault, when)| {
            let end = if fault == Fault::Hold { usize::MAX } else { number + 1 };
            (number..end, fault, when)
        }));
    }

    /// Injects a fault into the statements with these numbers, counted from now on.
    pub(crate) fn plan_many(&self, fault: Option<(Range<usize>, Fault, When)>) {
        let mut plan = self.lock();
        *plan = Plan { fault, pending: plan.pending, ..Plan::default() };
    }

    /// Imitates a mongos with a sharded collection of this name; `""` for none.
    pub(crate) fn pretend_sharded(&self, collection: &'static str) {
        *self.sharded.lock().unwrap_or_else(PoisonError::into_inner) = Some(collection);
    }

    /// The reply that a mongos would give instead, if one is imitated.
    fn as_mongos(&self, request: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
        let sharded = (*self.sharded.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (asked, mut said) = (document(request)?, document(reply)?);
        match asked.keys().next()?.as_str() {
            "hello" => {
                said.insert("msg", "isdbgrid");
                ["setName", "hosts", "primary", "me"].iter().for_each(|name| {
                    said.remove(name);
                });
            }
            "collStats" => {
                let is_sharded = asked.get_str("collStats").is_ok_and(|name| name == sharded);
                said = doc! { "ok": 1.0, "sharded": is_sharded };
            }
            _ => return None,
        }
        Some(message(request, &said))
    }

    /// The statements since the plan was set, and whether the fault was injected.
    pub(crate) fn seen(&self) -> (Vec<String>, bool) {
        let plan = self.lock();
        (plan.seen.clone(), plan.has_struck)
    }

    /// From now on, one in so many statements gets one of these faults, before or after its
    /// execution.
    pub(crate) fn strike_at_random(&self, one_in: u32, faults: &'static [Fault]) {
        self.plan(None);
        self.lock().random = Some((one_in, faults));
    }

    /// How many statements got a fault at random.
    pub(crate) fn struck(&self) -> usize {
        self.lock().struck
    }

    /// Lets the held statements go on.
    pub(crate) fn release(&self) {
        self.lock().fault = None;
    }

    fn is_holding(&self) -> bool {
        matches!(self.lock().fault, Some((_, Fault::Hold, _)))
    }

    /// Waits until the server has answered all statements.
    pub(crate) async fn idle(&self) {
        while self.lock().pending > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection, statement by statement.
    async fn serve(&self, client: TcpStream, server: String) -> Option<()> {
        let server = TcpStream::connect(server).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        loop {
            let request = read(&mut from_client).await?;
            match self.scripted(&request).await {
                None => {}
                Some(Reply::Document(said)) => {
                    answer(&mut to_client, &request, &said).await?;
                    continue;
                }
                Some(Reply::Break | Reply::NothingYet) => return None,
            }
            let fault = self.fault_of(&request);
            let _pending = Pending::new(self);
            match fault {
                Some((Fault::Network, When::Before)) => return None,
                Some((Fault::Hold, _)) => {
                    while self.is_holding() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    to_server.write_all(&request).await.ok()?;
                }
                Some((Fault::Code(code), When::Before)) => {
                    answer(&mut to_client, &request, &error(code)).await?;
                    continue;
                }
                _ => to_server.write_all(&request).await.ok()?,
            }
            let mut reply = read(&mut from_server).await?;
            match fault {
                None | Some((Fault::Hold, _)) => {}
                Some((Fault::Network, _)) => return None,
                Some((Fault::Code(code), _)) => {
                    answer(&mut to_client, &request, &error(code)).await?;
                    continue;
                }
                Some((Fault::Concern(code), _)) => {
                    let mut done = document(&reply)?;
                    let concern = doc! { "code": code, "codeName": "Planned", "errmsg": "planned" };
                    done.insert("writeConcernError", concern);
                    reply = message(&request, &done);
                }
            }
            if let Some(said) = self.as_mongos(&request, &reply) {
                reply = said;
            }
            // A streamed hello has several replies; they are forwarded with later ones.
            to_client.write_all(&reply).await.ok()?;
        }
    }

    /// The scripted reply to a command of a change stream.
    async fn scripted(&self, request: &[u8]) -> Option<Reply> {
        let command = document(request)?;
        loop {
            match self.change_stream.answer(&command)? {
                Reply::NothingYet => tokio::time::sleep(Duration::from_millis(5)).await,
                reply @ (Reply::Document(_) | Reply::Break) => return Some(reply),
            }
        }
    }

    fn fault_of(&self, request: &[u8]) -> Option<(Fault, When)> {
        let name = name_of(request)?;
        let is_statement = matches!(
            name.as_str(),
            "find" | "aggregate" | "findAndModify" | "update" | "insert" | "delete" | "count"
        );
        if !is_statement {
            return None;
        }
        let mut plan = self.lock();
        let number = plan.seen.len();
        plan.seen.push(name.clone());
        let planned = plan.fault.clone().filter(|(target, ..)| target.contains(&number));
        let planned = planned.map(|(_, fault, when)| (fault, when));
        let (fault, when) = planned.or_else(|| plan.at_random())?;
        let is_write = matches!(name.as_str(), "findAndModify" | "update" | "insert" | "delete");
        if matches!(fault, Fault::Concern(_)) && !is_write {
            return None;
        }
        plan.has_struck = true;
        Some((fault, when))
    }
}

/// A request that is being forwarded.
struct Pending<'a>(&'a Proxy);

impl<'a> Pending<'a> {
    fn new(proxy: &'a Proxy) -> Self {
        proxy.lock().pending += 1;
        Self(proxy)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.lock().pending -= 1;
    }
}

/// The host and port of a store's server, if a proxy needs nothing else of its URI.
pub(crate) fn plain_address(name: &str) -> Option<String> {
    let rest = super::server::uri(name).strip_prefix("mongodb://")?;
    let (address, options) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain =
        !address.contains(['@', ',']) && !options.contains("tls") && !options.contains("ssl");
    (is_plain && address.contains(':')).then(|| address.to_owned())
}

fn error(code: i32) -> Document {
    doc! { "ok": 0.0, "code": code, "codeName": "Planned", "errmsg": "planned" }
}

async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.ok()?;
    let size = usize::try_from(i32::from_le_bytes(length)).ok()?;
    assert!((HEADER..LARGEST).contains(&size), "a message of {size} bytes");
    let mut bytes = vec![0; size];
    bytes[..4].copy_from_slice(&length);
    from.read_exact(&mut bytes[4..]).await.ok()?;
    Some(bytes)
}

async fn answer(to: &mut OwnedWriteHalf, request: &[u8], body: &Document) -> Option<()> {
    to.write_all(&message(request, body)).await.ok()
}

/// An answer to a request.
fn message(request: &[u8], body: &Document) -> Vec<u8> {
    let body = body.to_vec().unwrap();
    let size = i32::try_from(HEADER + FLAGS + 1 + body.len()).unwrap();
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend(0_i32.to_le_bytes());
    bytes.extend(&request[4..8]);
    bytes.extend(OP_MSG.to_le_bytes());
    bytes.extend([0; FLAGS + 1]);
    bytes.extend(body);
    bytes
}

/// The document of a message's section of kind 0, which need not come first.
fn document(message: &[u8]) -> Option<Document> {
    if message.get(12..16)? != OP_MSG.to_le_bytes() {
        return None;
    }
    let mut rest = message.get(HEADER + FLAGS..)?;
    loop {
        let (kind, body) = rest.split_first()?;
        let size = i32::from_le_bytes(*body.first_chunk()?);
        let (section, after) = body.split_at_checked(usize::try_from(size).ok()?)?;
        if *kind == 0 {
            return Document::from_reader(section).ok();
        }
        rest = after;
    }
}

/// The command of a request.
fn name_of(request: &[u8]) -> Option<String> {
    document(request)?.keys().next().cloned()
}
