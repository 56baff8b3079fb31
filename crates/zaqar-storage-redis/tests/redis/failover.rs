//! Servers of every role hang or are killed while producers and consumers work. Requests succeed
//! again within two seconds of the failover, and no message is lost, duplicated or held by an
//! unknown claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zaqar_core::storage::{Messages, News, NewsStream};
use zaqar_storage_redis::{Options, Redis};

use crate::load::{check, under_load};
use crate::servers::{Cluster, Server, TEST_TIMEOUT, Watched, ask, wait_until};
use crate::support::{Queue, head, long_retry, now, open, options, spread};

/// How soon after a failover requests succeed again.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// The allowance for a slow machine: this many times the slowest connect and answer of a healthy
/// server during the test.
const SLOWNESS: u32 = 10;

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Hang,
    Kill,
}

impl Fault {
    fn strike(self, server: &mut Server) {
        match self {
            Self::Hang => server.signal("STOP"),
            Self::Kill => server.kill(),
        }
    }

    fn repair(self, server: &mut Server) {
        match self {
            Self::Hang => server.signal("CONT"),
            Self::Kill => server.launch(),
        }
    }
}

/// Measures the machine: a thread repeatedly connects to a healthy server and sends it a command.
struct Reference {
    is_over: Arc<AtomicBool>,
    slowest: JoinHandle<Duration>,
}

impl Reference {
    #[expect(clippy::disallowed_methods, reason = "processes are waited for outside of a runtime")]
    fn start(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let slowest = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !ends.load(Ordering::Acquire) {
                let started = Instant::now();
                drop(ask(port, "PING"));
                slowest = slowest.max(started.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        Self { is_over, slowest }
    }

    fn slowest(self) -> Duration {
        self.is_over.store(true, Ordering::Release);
        self.slowest.join().expect("the thread ends")
    }
}

/// A fault and its expected consequences.
struct Outage<'a, W> {
    name: String,
    /// The servers that the fault affects.
    world: &'a mut W,
    strike: &'a dyn Fn(&mut W),
    /// Whether the failover is complete: another server has taken over, or the server is back.
    has_failed_over: &'a dyn Fn(&W) -> bool,
    /// The port of a server that stays healthy.
    healthy: u16,
    repair: &'a dyn Fn(&mut W),
}

impl<W> Outage<'_, W> {
    /// Runs the fault under load on these queues, and checks the outcome.
    async fn run(self, queues: &[Queue]) {
        let Self { name, world, strike, has_failed_over, healthy, repair } = self;
        let record = under_load(queues, |record| async move {
            let reference = Reference::start(healthy);
            let struck = Instant::now();
            tokio::task::block_in_place(|| strike(world));
            let mut failed_over = Instant::now();
            let mut needs_fail_over = false;
            while !tokio::task::block_in_place(|| has_failed_over(world)) {
                needs_fail_over = true;
                assert!(struck.elapsed() < TEST_TIMEOUT, "{name}: no failover");
                tokio::time::sleep(Duration::from_millis(10)).await;
                failed_over = Instant::now();
            }
            let back = record.until_served(queues.len(), failed_over, !needs_fail_over).await;
            let slowest = reference.slowest();
            let bound = BACK_WITHIN + SLOWNESS * slowest;
            println!(
                "{name}: failed over after {:?}, served {back:?} later, of {bound:?} \
                 (a healthy server answered within {slowest:?})",
                failed_over - struck,
            );
            assert!(back <= bound, "{name}: served {back:?} after the failover, {bound:?} allowed");
            tokio::task::block_in_place(|| repair(world));
            record.until_served(queues.len(), Instant::now(), true).await;
        })
        .await;
        check(queues, &record).await;
    }
}

/// The default timeout of one second.
fn usual(uri: &str) -> Options {
    let separator = if uri.contains('?') { '&' } else { '?' };
    options(&format!("{uri}{separator}socket_timeout=1"))
}

/// Options of a store that waits for a replica, so that no write is lost with a master.
fn safe(uri: &str) -> Options {
    Options { wait_replicas: 1, ..usual(uri) }
}

#[expect(clippy::disallowed_methods, reason = "a process is down for this time")]
async fn single_server(fault: Fault) {
    let disk = ["--appendonly", "yes", "--appendfsync", "always"];
    let (mut server, healthy) = (Server::start(&disk), Server::start(&[]));
    let store = open(usual(&server.uri())).await;
    let queues = [Queue::new(&store, "q").await];
    // Long enough that requests in flight time out.
    let down = Duration::from_secs(3);
    Outage {
        name: format!("single server, {fault:?}"),
        world: &mut server,
        strike: &|server| {
            fault.strike(server);
            std::thread::sleep(down);
            fault.repair(server);
        },
        has_failed_over: &|server| server.ask("PING").is_some(),
        healthy: healthy.port,
        repair: &|_| (),
    }
    .run(&queues)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_hangs() {
    single_server(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_is_killed() {
    single_server(Fault::Kill).await;
}

/// The first Sentinels of the list are unavailable while all connections to the master end: the
/// others are asked in time.
async fn sentinel(fault: Fault) {
    let mut watched = Watched::start();
    let uri = watched.uri();
    let store = open(usual(&uri)).await;
    let queues = [Queue::new(&store, "q").await];
    for at in [0, 1] {
        let healthy = watched.servers[1].port;
        Outage {
            name: format!("Sentinel {at}, {fault:?}"),
            world: &mut watched,
            strike: &|watched| {
                fault.strike(&mut watched.sentinels[at]);
                watched.servers[0].cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            },
            has_failed_over: &|_| true,
            healthy,
            repair: &|watched| fault.repair(&mut watched.sentinels[at]),
        }
        .run(&queues)
        .await;
        // A store that is opened during the fault.
        fault.strike(&mut watched.sentinels[at]);
        queues[0].by(&open(usual(&uri)).await).post(&["of another store"]).await;
        fault.repair(&mut watched.sentinels[at]);
        queues[0].store.purge(&queues[0].key, now()).await.expect("it answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_hangs() {
    sentinel(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_is_killed() {
    sentinel(Fault::Kill).await;
}

async fn master(fault: Fault) {
    let mut watched = Watched::that_fails_over(2);
    let store = open(safe(&watched.uri())).await;
    let queues = [Queue::new(&store, "q").await];
    let healthy = watched.sentinels[0].port;
    Outage {
        name: format!("master behind Sentinels, {fault:?}"),
        world: &mut watched,
        strike: &|watched| fault.strike(&mut watched.servers[0]),
        has_failed_over: &|watched| watched.successor().is_some(),
        healthy,
        repair: &|watched| {
            match fault {
                Fault::Hang => watched.servers[0].signal("CONT"),
                Fault::Kill => watched.bring_back(),
            }
            wait_until("the old master follows", || watched.servers[0].info("role") == "slave");
        },
    }
    .run(&queues)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_hangs() {
    master(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_is_killed() {
    master(Fault::Kill).await;
}

async fn replica(fault: Fault) {
    let mut watched = Watched::that_fails_over(2);
    let store = open(safe(&watched.uri())).await;
    let queues = [Queue::new(&store, "q").await];
    let healthy = watched.sentinels[0].port;
    Outage {
        name: format!("replica behind Sentinels, {fault:?}"),
        world: &mut watched,
        strike: &|watched| fault.strike(&mut watched.servers[1]),
        has_failed_over: &|_| true,
        healthy,
        repair: &|watched| fault.repair(&mut watched.servers[1]),
    }
    .run(&queues)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_hangs() {
    replica(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed() {
    replica(Fault::Kill).await;
}

/// The master of the first queue: its replica takes over, and the other masters serve all the time.
async fn cluster_master(fault: Fault) {
    let mut cluster = Cluster::that_fails_over(2);
    let store = open(safe(&cluster.uri())).await;
    let queues = spread(&store).await;
    let at = cluster.at(cluster.owner(&head(&queues[0])));
    let replicas = cluster.replicas_of(at);
    assert_eq!(replicas.len(), 2);
    let healthy = cluster.nodes[replicas[0]].port;
    Outage {
        name: format!("master of a Cluster, {fault:?}"),
        world: &mut cluster,
        strike: &|cluster| fault.strike(&mut cluster.nodes[at]),
        has_failed_over: &|cluster| cluster.has_master_among(&replicas),
        healthy,
        repair: &|cluster| {
            fault.repair(&mut cluster.nodes[at]);
            cluster.wait_until_healthy();
        },
    }
    .run(&queues)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_hangs() {
    cluster_master(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_is_killed() {
    cluster_master(Fault::Kill).await;
}

/// One replica of each master, while the store waits for one.
async fn cluster_replica(fault: Fault) {
    let mut cluster = Cluster::that_fails_over(2);
    let store = open(safe(&cluster.uri())).await;
    let queues = spread(&store).await;
    let at = cluster.at(cluster.owner(&head(&queues[0])));
    let victim = cluster.replicas_of(at)[0];
    let healthy = cluster.nodes[at].port;
    Outage {
        name: format!("replica in a Cluster, {fault:?}"),
        world: &mut cluster,
        strike: &|cluster| fault.strike(&mut cluster.nodes[victim]),
        has_failed_over: &|_| true,
        healthy,
        repair: &|cluster| {
            fault.repair(&mut cluster.nodes[victim]);
            cluster.wait_until_healthy();
        },
    }
    .run(&queues)
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_a_cluster_hangs() {
    cluster_replica(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_a_cluster_is_killed() {
    cluster_replica(Fault::Kill).await;
}

/// Waits until a replica has all writes of its master.
fn wait_until_in_sync(master: &Server, replica: &Server) {
    wait_until("the replica has it", || {
        let offset = |server: &Server| server.info("master_repl_offset");
        offset(master) == offset(replica)
    });
}

/// Without `wait_replicas`: what the replica had is there, and the old master comes back as a
/// replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_failover_without_wait_replicas() {
    let mut watched = Watched::that_fails_over(1);
    let store = open(long_retry(&watched.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    wait_until_in_sync(&watched.servers[0], &watched.servers[1]);
    let killed = Instant::now();
    watched.servers[0].kill();
    while queue.try_post(&["b"]).await.is_err() {
        assert!(killed.elapsed() < TEST_TIMEOUT, "nobody is served again");
    }
    assert_eq!(queue.texts().await, ["a", "b"]);
    watched.bring_back();
    wait_until("the old master is a replica", || {
        watched.servers[0].info("master_link_status") == "up"
    });
    queue.post(&["c"]).await;
    assert_eq!(queue.texts().await, ["a", "b", "c"]);
}

/// A store that knows one node of a Cluster, and receives news from it, continues when that node is
/// removed but keeps running.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_abandoned() {
    let cluster = Cluster::start();
    let writer = open(Options { news_poll: None, ..long_retry(&cluster.uri()) }).await;
    let queues = spread(&writer).await;
    let at = cluster.at(cluster.owner(&head(&queues[0])));
    let node = &cluster.nodes[at];
    let seed = format!("redis://127.0.0.1:{}?cluster=true&socket_timeout=15", node.port);
    let readers = subscribed_to(&seed, node).await;
    // Its replica takes over, and the node leaves the Cluster.
    let replica = &cluster.nodes[cluster.replicas_of(at)[0]];
    wait_until_in_sync(node, replica);
    // Without an election: a failed election is not repeated for four times the node timeout.
    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    let id = node.cli(&["CLUSTER", "MYID"]);
    let others: Vec<_> = cluster.nodes.iter().filter(|it| it.port != node.port).collect();
    wait_until("the others, and it, know that it is a replica", || {
        let is_replica = |line: &str| line.starts_with(&id) && line.contains("slave");
        let all = others.iter().copied().chain([node]);
        all.map(|it| it.cli(&["CLUSTER", "NODES"])).all(|said| said.lines().any(is_replica))
    });
    assert_eq!(node.cli(&["CLUSTER", "RESET", "SOFT"]), "OK");
    for other in others {
        assert_eq!(other.cli(&["CLUSTER", "FORGET", &id]), "OK");
    }
    assert_eq!(node.cli(&["PING"]), "PONG", "it is still running");
    for (reader, mut news) in readers {
        for queue in &queues {
            let posted = queue.post(&["a"]).await;
            crate::news::wait_for_news(&mut news, &queue.key, posted[0]).await;
            queue.by(&reader).post(&["b"]).await;
        }
    }
    wait_until("nobody listens there any more", || {
        node.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).is_empty()
    });
}

/// Opens stores until one receives news from this node.
async fn subscribed_to(uri: &str, node: &Server) -> Vec<(Redis, NewsStream)> {
    let mut readers = Vec::new();
    while node.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).is_empty() {
        let reader = open(Options { news_poll: None, ..long_retry(uri) }).await;
        let news = reader.news().await.expect("it answers");
        readers.push((reader, news));
        assert!(readers.len() < 50, "which node it listens to is drawn at random");
    }
    readers.split_off(readers.len() - 1)
}
