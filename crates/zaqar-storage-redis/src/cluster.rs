//! The nodes of a Cluster: which has which slot, as the nodes that answer say, and connections to
//! each.
//!
//! A node that does not answer is asked nothing else: whenever a request fails, all known nodes are
//! asked at once for the slots, and of what they say about a slot the latest epoch holds. So a
//! master that hangs is left as soon as its replica was promoted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};

use crate::clients::{client, timed_out};
use crate::config::Options;
use crate::error::Trouble;
use crate::peer::{Lane, Peer, Request, Source};
use crate::uri::{Host, Servers};

const SLOTS: u16 = 16_384;
/// Nodes are asked for the slots no more often than this.
const REST: Duration = Duration::from_millis(100);
/// How often it is looked whether nodes have left.
const CHECK: Duration = Duration::from_secs(30);
/// How long the others are waited for once a node has said who has slots.
const LINGER: Duration = Duration::from_millis(100);

/// The host and port of a node.
pub(crate) type Address = (String, u16);

pub(crate) struct Cluster {
    options: Options,
    seeds: Vec<Address>,
    map: RwLock<Map>,
    /// When the nodes were last asked. Whoever holds the lock asks them.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Map {
    /// Ends of ranges of slots, and who has them.
    owners: BTreeMap<u16, Range>,
    peers: BTreeMap<Address, Arc<Peer>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u16,
    owner: Address,
}

/// What a node says: who has a range of slots since which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
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
            asked: tokio::sync::Mutex::default(),
            seeds: seeds.clone(),
        };
        for seed in seeds {
            cluster.peer(&seed)?;
        }
        Ok(cluster)
    }

    /// Sends a command to the node that has its key.
    pub(crate) async fn send(&self, request: &mut Request<'_>) -> Result<Value, Trouble> {
        let slot = slot(request.key);
        let peer = match self.owner(slot) {
            Some(peer) => peer,
            None => {
                self.refresh().await;
                let unknown =
                    (ErrorKind::ClusterConnectionNotFound, "no node is known to have the slot");
                self.owner(slot).ok_or_else(|| Trouble::NotYet(RedisError::from(unknown)))?
            }
        };
        let answer = peer.send(request).await;
        let is_known = match &answer {
            Err(Trouble::NotYet(error)) if error.code() == Some("MOVED") => {
                self.moved(slot, error).map_err(Trouble::NotYet)?
            }
            Err(Trouble::NotYet(_) | Trouble::Unknown(_)) => false,
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
    ) -> Vec<Result<Value, Trouble>> {
        self.refresh().await;
        let mut answers = Vec::new();
        for (_, peer) in self.masters() {
            answers.push(peer.send(&mut Request::plain(&mut |_| command())).await);
        }
        answers
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

    /// Whether a node has slots. A node that was removed says so of itself for ever: others are
    /// asked.
    pub(crate) async fn is_master(&self, node: &Address) -> bool {
        self.refresh_at_most(CHECK).await;
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

    /// Follows what a node says about who has a slot now, if it says so.
    fn moved(&self, slot: u16, error: &RedisError) -> RedisResult<bool> {
        let node = error.redirect_node().filter(|(host, _)| !host.is_empty());
        let Some((host, port)) = node else { return Ok(false) };
        let owner = (host.to_owned(), port);
        self.peer(&owner)?;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.set(slot, owner);
        Ok(true)
    }

    /// Asks all known nodes at once who has which slot, unless that was done just now.
    async fn refresh(&self) {
        self.refresh_at_most(REST).await;
    }

    async fn refresh_at_most(&self, rest: Duration) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < rest) {
            return;
        }
        let peers: Vec<_> = {
            let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
            map.peers.iter().map(|(address, peer)| (address.clone(), Arc::clone(peer))).collect()
        };
        let mut answers: FuturesUnordered<_> =
            peers.iter().map(|(address, peer)| claims(address, peer)).collect();
        let mut claims = Vec::new();
        let mut wait = self.options.uri.socket_timeout;
        while let Ok(Some(answer)) = tokio::time::timeout(wait, answers.next()).await {
            // A node that was removed answers that it knows of nobody: those that do are waited
            // for.
            if let Ok(answer) = answer
                && !answer.is_empty()
            {
                claims.extend(answer);
                wait = LINGER;
            }
        }
        drop(answers);
        if !claims.is_empty() {
            self.follow(claims);
        }
        *asked = Some(Instant::now());
    }

    /// Takes over what nodes say.
    fn follow(&self, mut claims: Vec<Claim>) {
        claims.sort_by_key(|claim| claim.epoch);
        let owners: BTreeSet<_> = claims.iter().map(|claim| claim.owner.clone()).collect();
        for owner in &owners {
            if let Err(error) = self.peer(owner) {
                tracing::warn!(%error, host = owner.0, port = owner.1, "a node cannot be used");
            }
        }
        let new = ranges(&claims);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever takes over slots may lack the last writes of who had them: positions go on behind
        // the time of a new connection.
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

    /// Gives one slot to a node.
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
    /// One that only asks something.
    pub(crate) fn plain(
        command: &'a mut (dyn FnMut(crate::envelope::ServerClock) -> Cmd + Send),
    ) -> Self {
        Self { command, key: "", is_write: false, lane: Lane::Quick, project: "" }
    }
}

/// What one node knows.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other reply names nodes")]
async fn claims(address: &Address, peer: &Peer) -> Result<Vec<Claim>, Trouble> {
    let mut nodes = |_| {
        let mut nodes = cmd("CLUSTER");
        nodes.arg("NODES");
        nodes
    };
    match peer.send(&mut Request::plain(&mut nodes)).await? {
        Value::BulkString(text) => Ok(parse(&String::from_utf8_lossy(&text), address)),
        Value::VerbatimString { text, .. } => Ok(parse(&text, address)),
        _ => Err(Trouble::NotYet(timed_out())),
    }
}

/// Reads `CLUSTER NODES`: id, address, flags, master, ping, pong, epoch, link, slots of each node.
fn parse(text: &str, asked: &Address) -> Vec<Claim> {
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
                claims.push(Claim { epoch, first, last, owner: owner.clone() });
            }
        }
    }
    claims
}

/// Reads `ip:port@bus[,hostname]`; a node that does not know its own address is where it was asked.
fn read_address(text: &str, asked: &Address) -> Option<Address> {
    let (address, _) = text.split_once('@').unwrap_or((text, ""));
    let (name, port) = address.rsplit_once(':')?;
    let name = if name.is_empty() { &asked.0 } else { name };
    Some((name.to_owned(), port.parse().ok()?))
}

/// Who has which slots, by claims in the order of their epochs: the latest holds.
fn ranges(claims: &[Claim]) -> BTreeMap<u16, Range> {
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

/// The slot of a key: of what is in its first braces, if anything is (CRC-16/XMODEM).
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

    /// A Cluster whose requests wait as long as it takes.
    fn cluster(seeds: &[Host]) -> Cluster {
        let options = Options::new("redis://127.0.0.1:1?socket_timeout=600").unwrap();
        Cluster::new(seeds, &options).unwrap()
    }

    fn ping(_: crate::envelope::ServerClock) -> Cmd {
        cmd("PING")
    }

    fn at(name: &str, port: u16) -> Address {
        (name.to_owned(), port)
    }

    #[tokio::test]
    async fn a_node_that_was_removed_does_not_cut_short_what_others_say() {
        let removed = "a :PORT@2 myself,master - 0 0 1 connected";
        let slow = "b :PORT@2 myself,master - 0 0 2 connected 0-16383";
        let removed = fake_node::start(removed, Duration::ZERO).await;
        let slow = fake_node::start(slow, LINGER * 5).await;
        let cluster = cluster(&[removed, slow]);
        cluster.refresh().await;
        assert_eq!(cluster.masters().len(), 1, "the slow one was heard");
    }

    #[tokio::test]
    async fn a_request_waits_for_no_question_about_slots() {
        let node = "a :PORT@2 myself,master - 0 0 1 connected 0-16383";
        let cluster = cluster(&[fake_node::start(node, Duration::ZERO).await]);
        cluster.refresh().await;
        // As when the nodes are asked on behalf of a request that has failed.
        let _asked = cluster.asked.lock().await;
        let mut ping = ping;
        let mut request = Request::plain(&mut ping);
        let sent = tokio::time::timeout(Duration::from_secs(60), cluster.send(&mut request));
        let answer = sent.await.expect("it waits for nobody").expect("it is answered");
        assert_eq!(answer, Value::SimpleString("PONG".to_owned()));
    }

    #[test]
    fn slots_are_those_of_redis() {
        // The values of the Cluster's specification and of `CLUSTER KEYSLOT`.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("zq1:{q/p/n}:h"), slot("q/p/n"));
        assert_eq!(slot("foo{}{bar}"), slot("foo{}{bar}"));
        assert_ne!(slot("foo{}{bar}"), slot("bar"));
    }

    #[test]
    fn the_latest_epoch_holds() {
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
    fn one_slot_moves_alone() {
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
