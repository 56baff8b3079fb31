//! The nodes of a Cluster: the map of slots, as nodes report it, and connections to each.
//!
//! Whenever a request fails, all known nodes are asked at once for the slots, so a node that hangs
//! delays nothing. For each slot the report with the latest epoch wins, so a hanging master is
//! replaced as soon as its replica was promoted.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};
use zaqar_core::StateLog;

use crate::clients::{client, timed_out};
use crate::config::Options;
use crate::envelope::ServerClock;
use crate::error::Failure;
use crate::peer::{Commands, Lane, Peer, Request, Source};
use crate::uri::{Host, Servers};

const SLOTS: u16 = 16_384;
/// Nodes are asked for the slots at most this often.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// How often to check whether nodes have left.
const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait for the other nodes after one has reported slots.
const STRAGGLER_WAIT: Duration = Duration::from_millis(100);

static UNUSABLE: StateLog = StateLog::new();

/// The host and port of a node.
pub(crate) type Address = (String, u16);

pub(crate) struct Cluster {
    options: Options,
    seeds: Vec<Address>,
    map: RwLock<Map>,
    /// When the nodes were last asked. The holder of the lock asks them.
    refreshed_at: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Map {
    /// Ranges of slots and their owners, by the last slot of the range.
    owners: BTreeMap<u16, Range>,
    peers: BTreeMap<Address, Arc<Peer>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u16,
    owner: Address,
}

/// A report: the owner of a range of slots since an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SlotClaim {
    epoch: u64,
    first: u16,
    last: u16,
    owner: Address,
}

impl Cluster {
    pub(crate) fn new(hosts: &[Host], options: &Options) -> RedisResult<Self> {
        let seeds: Vec<_> = hosts.iter().map(|host| (host.name.clone(), host.port)).collect();
        let cluster = Self {
            options: options.clone(),
            map: RwLock::default(),
            refreshed_at: tokio::sync::Mutex::default(),
            seeds: seeds.clone(),
        };
        for seed in seeds {
            cluster.peer(&seed)?;
        }
        Ok(cluster)
    }

    /// Sends a command to the node that owns the slot of its key.
    pub(crate) async fn send(&self, request: &mut Request<'_>) -> Result<Value, Failure> {
        let slot = slot(request.key);
        let peer = match self.owner(slot) {
            Some(peer) => peer,
            None => {
                self.refresh().await;
                let unknown =
                    (ErrorKind::ClusterConnectionNotFound, "no node is known to own the slot");
                self.owner(slot).ok_or_else(|| Failure::Retryable(RedisError::from(unknown)))?
            }
        };
        let answer = peer.send(request).await;
        let is_known = match &answer {
            Err(Failure::Retryable(error)) if error.code() == Some("MOVED") => {
                self.moved(slot, error).map_err(Failure::Retryable)?
            }
            Err(Failure::Retryable(_) | Failure::Ambiguous(_)) => false,
            _ => true,
        };
        if !is_known {
            self.refresh().await;
        }
        answer
    }

    /// Sends a command to every master.
    pub(crate) async fn send_to_all(
        &self,
        mut command: impl FnMut() -> Cmd + Send,
    ) -> Vec<Result<Value, Failure>> {
        self.refresh().await;
        let mut answers = Vec::new();
        for (_, peer) in self.masters() {
            answers.push(peer.send(&mut Request::plain(&mut |_| Commands::One(command()))).await);
        }
        answers
    }

    /// Sends a command to one of the masters, by its place among them; `None` behind the last one.
    pub(crate) async fn send_to_nth(
        &self,
        nth: usize,
        command: &Cmd,
    ) -> Option<Result<Value, Failure>> {
        let (_, peer) = self.masters().into_iter().nth(nth)?;
        Some(peer.send(&mut Request::plain(&mut |_| Commands::One(command.clone()))).await)
    }

    /// A number that changes with the masters, their slots, and their places among them, as the
    /// nodes said it at most some time ago.
    pub(crate) async fn topology(&self, age: Duration) -> u64 {
        self.refresh_at_most(age).await;
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = DefaultHasher::new();
        for (last, range) in &map.owners {
            (last, range.first, &range.owner).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Clients of the masters, in any order.
    pub(crate) async fn clients(&self) -> RedisResult<Vec<(Option<Address>, Client)>> {
        self.refresh().await;
        let mut clients = Vec::new();
        for (address, peer) in self.masters() {
            clients.push((Some(address), peer.client().await?));
        }
        Ok(clients)
    }

    /// Whether a node owns slots, according to the other nodes: a node that was removed keeps
    /// claiming its slots.
    pub(crate) async fn is_master(&self, node: &Address) -> bool {
        self.refresh_at_most(MASTER_CHECK_INTERVAL).await;
        self.masters().iter().any(|(address, _)| address == node)
    }

    fn masters(&self) -> Vec<(Address, Arc<Peer>)> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let owners: BTreeSet<_> = map.owners.values().map(|range| &range.owner).collect();
        let peer = |owner: &Address| Some((owner.clone(), map.peers.get(owner).cloned()?));
        owners.into_iter().filter_map(peer).collect()
    }

    fn owner(&self, slot: u16) -> Option<Arc<Peer>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let (_, range) = map.owners.range(slot..).next()?;
        (range.first <= slot).then(|| map.peers.get(&range.owner).cloned()).flatten()
    }

    fn peer(&self, address: &Address) -> RedisResult<Arc<Peer>> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = map.peers.get(address) {
            return Ok(Arc::clone(peer));
        }
        let host = Host { name: address.0.clone(), port: address.1 };
        let client = client(&self.options.uri, &Servers::Single(host))?;
        let peer = Arc::new(Peer::new(Source::Server(Box::new(client)), &self.options));
        map.peers.insert(address.clone(), Arc::clone(&peer));
        Ok(peer)
    }

    /// Updates the owner of a slot from a redirection. Returns whether it named one.
    fn moved(&self, slot: u16, error: &RedisError) -> RedisResult<bool> {
        let node = error.redirect_node().filter(|(host, _)| !host.is_empty());
        let Some((host, port)) = node else { return Ok(false) };
        let owner = (host.to_owned(), port);
        self.peer(&owner)?;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.set(slot, owner);
        Ok(true)
    }

    /// Asks all known nodes at once for the slots, unless they were asked just now.
    async fn refresh(&self) {
        self.refresh_at_most(MIN_REFRESH_INTERVAL).await;
    }

    async fn refresh_at_most(&self, interval: Duration) {
        let mut refreshed_at = self.refreshed_at.lock().await;
        if refreshed_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        let peers: Vec<_> = {
            let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
            map.peers.iter().map(|(address, peer)| (address.clone(), Arc::clone(peer))).collect()
        };
        let mut answers: FuturesUnordered<_> =
            peers.iter().map(|(address, peer)| ask_node(address, peer)).collect();
        let mut claims = Vec::new();
        let mut wait = self.options.uri.socket_timeout;
        while let Ok(Some(answer)) = tokio::time::timeout(wait, answers.next()).await {
            // A node that was removed reports no owners: wait for the nodes that do.
            if let Ok(answer) = answer
                && !answer.is_empty()
            {
                claims.extend(answer);
                wait = STRAGGLER_WAIT;
            }
        }
        drop(answers);
        if !claims.is_empty() {
            self.apply(claims);
        }
        *refreshed_at = Some(Instant::now());
    }

    /// Replaces the map of slots by the reports of nodes.
    fn apply(&self, mut claims: Vec<SlotClaim>) {
        claims.sort_by_key(|claim| claim.epoch);
        let owners: BTreeSet<_> = claims.iter().map(|claim| claim.owner.clone()).collect();
        for owner in &owners {
            if let Err(error) = self.peer(owner)
                && let Some(failures) = UNUSABLE.failure()
            {
                let (host, port) = owner;
                tracing::warn!(%error, host, port, failures, "a node cannot be used");
            }
        }
        let new = ranges(&claims);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        // A new owner may lack the last writes of the previous one. A new connection makes
        // positions continue after the time at which it was made.
        let gained = |address: &Address| {
            new.values()
                .any(|range| range.owner == *address && map.owner_of(range.first) != Some(address))
        };
        for (address, peer) in &map.peers {
            if !map.owners.is_empty() && gained(address) {
                peer.reset();
            }
        }
        map.owners = new;
        let seeds = &self.seeds;
        map.peers.retain(|address, _| owners.contains(address) || seeds.contains(address));
    }
}

impl Map {
    fn owner_of(&self, slot: u16) -> Option<&Address> {
        let (_, range) = self.owners.range(slot..).next()?;
        (range.first <= slot).then_some(&range.owner)
    }

    /// Sets the owner of one slot.
    fn set(&mut self, slot: u16, owner: Address) {
        if let Some((&last, range)) = self.owners.range(slot..).next()
            && range.first <= slot
        {
            let Range { first, owner: before } = range.clone();
            self.owners.remove(&last);
            if slot < last {
                self.owners.insert(last, Range { first: slot + 1, owner: before.clone() });
            }
            if first < slot {
                self.owners.insert(slot - 1, Range { first, owner: before });
            }
        }
        self.owners.insert(slot, Range { first: slot, owner });
    }
}

impl<'a> Request<'a> {
    /// A request that only reads and has no key.
    pub(crate) fn plain(commands: &'a mut (dyn FnMut(ServerClock) -> Commands + Send)) -> Self {
        Self { commands, key: "", is_write: false, lane: Lane::Small, project: "" }
    }
}

/// The report of one node.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other reply names nodes")]
async fn ask_node(address: &Address, peer: &Peer) -> Result<Vec<SlotClaim>, Failure> {
    let mut nodes = |_| {
        let mut nodes = cmd("CLUSTER");
        nodes.arg("NODES");
        Commands::One(nodes)
    };
    match peer.send(&mut Request::plain(&mut nodes)).await? {
        Value::BulkString(text) => Ok(parse(&String::from_utf8_lossy(&text), address)),
        Value::VerbatimString { text, .. } => Ok(parse(&text, address)),
        _ => Err(Failure::Retryable(timed_out())),
    }
}

/// Parses `CLUSTER NODES`: id, address, flags, master, ping, pong, epoch, link, slots of each node.
fn parse(text: &str, asked: &Address) -> Vec<SlotClaim> {
    let mut claims = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [_, address, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice() else { continue };
        if !flags.split(',').any(|flag| flag == "master") {
            continue;
        }
        let (Some(owner), Ok(epoch)) = (read_address(address, asked), epoch.parse()) else {
            continue;
        };
        for slots in slots.iter().filter(|slots| !slots.starts_with('[')) {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                claims.push(SlotClaim { epoch, first, last, owner: owner.clone() });
            }
        }
    }
    claims
}

/// Parses `ip:port@bus[,hostname]`; a node that does not know its own IP has the host it was asked
/// at.
fn read_address(text: &str, asked: &Address) -> Option<Address> {
    let (address, _) = text.split_once('@').unwrap_or((text, ""));
    let (name, port) = address.rsplit_once(':')?;
    let name = if name.is_empty() { &asked.0 } else { name };
    Some((name.to_owned(), port.parse().ok()?))
}

/// The ranges of owners, from reports in order of their epochs: the latest wins.
fn ranges(claims: &[SlotClaim]) -> BTreeMap<u16, Range> {
    let mut owners: Vec<Option<&Address>> = vec![None; usize::from(SLOTS)];
    for claim in claims {
        for slot in claim.first..=claim.last.min(SLOTS - 1) {
            owners[usize::from(slot)] = Some(&claim.owner);
        }
    }
    let mut ranges = BTreeMap::new();
    let mut slot = 0;
    for run in owners.chunk_by(|a, b| a == b) {
        let first = slot;
        slot += u16::try_from(run.len()).unwrap_or(SLOTS);
        if let Some(owner) = run[0] {
            ranges.insert(slot - 1, Range { first, owner: owner.clone() });
        }
    }
    ranges
}

/// The slot of a key: that of the part in its first braces, if it has a non-empty one
/// (CRC-16/XMODEM).
pub(crate) fn slot(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tagged.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_node;

    /// A Cluster with a request timeout that no test reaches.
    fn cluster(seeds: &[Host]) -> Cluster {
        let options = Options::new("redis://127.0.0.1:1?socket_timeout=600").unwrap();
        Cluster::new(seeds, &options).unwrap()
    }

    fn ping(_: ServerClock) -> Commands {
        Commands::One(cmd("PING"))
    }

    fn at(name: &str, port: u16) -> Address {
        (name.to_owned(), port)
    }

    #[tokio::test]
    async fn a_removed_node_does_not_end_the_wait_for_other_reports() {
        let removed = "a :PORT@2 myself,master - 0 0 1 connected";
        let slow = "b :PORT@2 myself,master - 0 0 2 connected 0-16383";
        let removed = fake_node::start(removed, Duration::ZERO).await;
        let slow = fake_node::start(slow, STRAGGLER_WAIT * 5).await;
        let cluster = cluster(&[removed, slow]);
        cluster.refresh().await;
        assert_eq!(cluster.masters().len(), 1, "the slow node's report is used");
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_a_refresh_of_slots() {
        let node = "a :PORT@2 myself,master - 0 0 1 connected 0-16383";
        let cluster = cluster(&[fake_node::start(node, Duration::ZERO).await]);
        cluster.refresh().await;
        // As while the nodes are asked because another request has failed.
        let _refreshing = cluster.refreshed_at.lock().await;
        let mut ping = ping;
        let mut request = Request::plain(&mut ping);
        let sent = tokio::time::timeout(Duration::from_secs(60), cluster.send(&mut request));
        let answer = sent.await.expect("it does not wait").expect("it is answered");
        assert_eq!(answer, Value::SimpleString("PONG".to_owned()));
    }

    #[test]
    fn slots_are_those_of_redis() {
        // The values are from the Cluster specification and from `CLUSTER KEYSLOT`.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("zq1:{q/p/n}:h"), slot("q/p/n"));
        assert_eq!(slot("foo{}{bar}"), slot("foo{}{bar}"));
        assert_ne!(slot("foo{}{bar}"), slot("bar"));
    }

    #[test]
    fn the_latest_epoch_wins() {
        let old = "a 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-8191\n\
                   b 10.0.0.2:7000@17000,name master - 0 0 2 connected 8192-16383 [5->-c]\n\
                   c 10.0.0.3:7000@17000 slave a 0 0 1 connected";
        let new = "a 10.0.0.1:7000@17000 master,fail - 0 0 1 disconnected\n\
                   b 10.0.0.2:7000@17000 master - 0 0 2 connected 8192-16383\n\
                   c :7000@17000 myself,master - 0 0 3 connected 0-8190 8191";
        let mut claims = parse(new, &at("c.example", 7000));
        claims.extend(parse(old, &at("10.0.0.1", 7000)));
        claims.sort_by_key(|claim| claim.epoch);
        let ranges = ranges(&claims);
        let expected = [(8191, 0, "c.example"), (16_383, 8192, "10.0.0.2")];
        let expected =
            expected.map(|(last, first, name)| (last, Range { first, owner: at(name, 7000) }));
        assert_eq!(ranges.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_single_slot_can_move() {
        let mut map = Map::default();
        map.owners.insert(99, Range { first: 0, owner: at("a", 1) });
        map.set(50, at("b", 1));
        let owner = |slot| map.owner_of(slot).map(|(name, _)| name.as_str());
        assert_eq!(
            [0, 49, 50, 51, 99, 100].map(owner),
            [Some("a"), Some("a"), Some("b"), Some("a"), Some("a"), None]
        );
    }
}
