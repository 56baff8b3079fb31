//! Masters that are killed and slots that move while producers and consumers work.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zaqar_core::storage::{ClaimRequest, Claimed, Claims, DeadLetters, Deleted, Guarded, Messages};
use zaqar_core::{ClaimId, MessageId};
use zaqar_storage_redis::{Options, Redis};

use crate::servers::{Cluster, PATIENCE, Server, Watched, wait_until};
use crate::support::{Queue, generation, key_of, now, open, options, rand};

const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;

/// What producers and consumers did.
#[derive(Default)]
struct Record {
    posted: Mutex<BTreeSet<MessageId>>,
    /// Whose deletion was acknowledged; whose deletion failed, perhaps after it was done.
    deleted: Mutex<BTreeSet<MessageId>>,
    perhaps_deleted: Mutex<BTreeSet<MessageId>>,
    /// Which claim holds what, as far as anybody was told.
    held: Mutex<BTreeSet<MessageId>>,
    wrong: Mutex<Vec<String>>,
    answers: Mutex<Vec<(Instant, bool)>>,
    is_over: AtomicBool,
}

impl Record {
    fn answered(&self, is_ok: bool) {
        self.answers.lock().expect("nobody panics with it").push((Instant::now(), is_ok));
    }

    /// Whether somebody got what he asked for since then.
    fn serves_since(&self, since: Instant) -> bool {
        let answers = self.answers.lock().expect("nobody panics with it");
        answers.iter().rev().take_while(|(at, _)| *at > since).any(|(_, is_ok)| *is_ok)
    }

    /// How much load there was.
    fn load(&self) -> usize {
        let posted = self.posted.lock().expect("nobody panics with it").len();
        posted.min(self.deleted.lock().expect("nobody panics with it").len())
    }

    /// Waits until there is some more load than there was.
    async fn until_busy(&self, before: usize) {
        let started = Instant::now();
        while self.load() <= before + 100 {
            assert!(started.elapsed() < PATIENCE, "there is no load");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().expect("nobody panics with it").push(what);
    }
}

async fn produce(queue: Queue, record: Arc<Record>) {
    while !record.is_over.load(Ordering::Acquire) {
        let posted = queue.try_post(&["a", "b"]).await;
        record.answered(posted.is_ok());
        match posted {
            Ok(ids) => {
                let mut all = record.posted.lock().expect("nobody panics with it");
                for id in ids {
                    if !all.insert(id) {
                        record.wrong(format!("{id} was given twice"));
                    }
                }
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn consume(queue: Queue, record: Arc<Record>) {
    while !record.is_over.load(Ordering::Acquire) {
        let claimed = queue.try_claim(5).await;
        record.answered(claimed.is_ok());
        let Ok((claim, messages)) = claimed else { continue };
        {
            let mut held = record.held.lock().expect("nobody panics with it");
            for message in &messages {
                if !held.insert(message.id) {
                    record.wrong(format!("{} is in two claims", message.id));
                }
                if record.deleted.lock().expect("nobody panics with it").contains(&message.id) {
                    record.wrong(format!("{} is back after its deletion", message.id));
                }
            }
        }
        for message in &messages {
            let deleted = queue.store.delete(&queue.key, message.id, Some(claim), now()).await;
            let list = match deleted {
                Ok(Deleted::Gone) => &record.deleted,
                Ok(refused) => {
                    record.wrong(format!("{} cannot be deleted: {refused:?}", message.id));
                    continue;
                }
                Err(_) => &record.perhaps_deleted,
            };
            list.lock().expect("nobody panics with it").insert(message.id);
        }
        if messages.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs producers and consumers on queues while `happens` does; what they did.
async fn under_load<F: Future<Output = ()>>(
    queues: &[Queue],
    happens: impl FnOnce(Arc<Record>) -> F,
) -> Arc<Record> {
    let record = Arc::new(Record::default());
    let workers: Vec<_> = (0..PRODUCERS.max(CONSUMERS))
        .flat_map(|n| {
            let queue = &queues[n % queues.len()];
            [
                tokio::spawn(produce(queue.clone(), record.clone())),
                tokio::spawn(consume(queue.clone(), record.clone())),
            ]
        })
        .collect();
    record.until_busy(0).await;
    happens(record.clone()).await;
    let before = record.load();
    record.until_busy(before).await;
    record.is_over.store(true, Ordering::Release);
    for worker in workers {
        worker.await.expect("a worker ends");
    }
    record
}

/// Nothing that was acknowledged is lost, is back, or was given to two.
async fn check(queues: &[Queue], record: &Record) {
    let wrong = record.wrong.lock().expect("nobody panics with it").clone();
    assert!(wrong.is_empty(), "{} of: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    let mut left = BTreeSet::new();
    for queue in queues {
        left.extend(queue.all().await.iter().map(|message| message.id));
    }
    let posted = record.posted.lock().expect("nobody panics with it");
    let (deleted, perhaps) = (
        record.deleted.lock().expect("nobody panics with it"),
        record.perhaps_deleted.lock().expect("nobody panics with it"),
    );
    let lost: Vec<_> = posted
        .iter()
        .filter(|id| !left.contains(id) && !deleted.contains(id) && !perhaps.contains(id))
        .collect();
    assert!(lost.is_empty(), "{} of {} are lost", lost.len(), posted.len());
    let back: Vec<_> = left.iter().filter(|id| deleted.contains(id)).collect();
    assert!(back.is_empty(), "{} are back", back.len());
    assert!(posted.len() > 30 && deleted.len() > 30, "there was load");
    let answers = record.answers.lock().expect("nobody panics with it");
    let ok = answers.iter().filter(|(_, is_ok)| *is_ok).count();
    let longest = answers
        .iter()
        .filter(|(_, is_ok)| *is_ok)
        .map(|(at, _)| *at)
        .collect::<Vec<_>>()
        .windows(2)
        .map(|two| two[1].saturating_duration_since(two[0]))
        .max();
    println!(
        "{} posted, {} deleted, {} left, {ok} of {} requests answered, nobody for {longest:?} at most",
        posted.len(),
        deleted.len(),
        left.len(),
        answers.len(),
    );
}

/// Waits until requests are served again.
async fn until_served(record: &Record, since: Instant) {
    while !record.serves_since(since) {
        assert!(since.elapsed() < PATIENCE, "nobody is served again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Options of a store that waits for a replica, for a second.
fn safe(uri: &str) -> Options {
    Options { wait_replicas: 1, ..options(&format!("{uri}&socket_timeout=1")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_fail_over_loses_nothing() {
    let mut watched = Watched::that_fails_over();
    let watched = &mut watched;
    let store = open(safe(&watched.uri())).await;
    let queues = [Queue::new(&store, "q").await];
    let record = under_load(&queues, |record| async move {
        watched.servers[0].kill();
        let killed = Instant::now();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The replica has no replica of its own: nothing is safe before the old master is back as one.
        wait_until("the replica is promoted", || watched.servers[1].info("role") == "master");
        watched.bring_back();
        until_served(&record, killed + Duration::from_millis(100)).await;
    })
    .await;
    check(&queues, &record).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_fail_over_is_survived_without_waiting() {
    let mut watched = Watched::that_fails_over();
    let store = open(options(&watched.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    wait_until("the replica has it", || {
        let offset = |server: &Server| server.info("master_repl_offset");
        offset(&watched.servers[0]) == offset(&watched.servers[1])
    });
    let killed = Instant::now();
    watched.servers[0].kill();
    while queue.try_post(&["b"]).await.is_err() {
        assert!(killed.elapsed() < PATIENCE, "nobody is served again");
    }
    assert_eq!(queue.texts().await, ["a", "b"]);
    watched.bring_back();
    wait_until("the old master is a replica", || {
        watched.servers[0].info("master_link_status") == "up"
    });
    queue.post(&["c"]).await;
    assert_eq!(queue.texts().await, ["a", "b", "c"]);
}

/// Queues in slots of each of the three masters.
async fn spread(store: &Redis) -> Vec<Queue> {
    let mut queues = Vec::new();
    for n in 0..6 {
        queues.push(Queue::new(store, &format!("q{n}")).await);
    }
    queues
}

/// The key of a queue's head.
fn head(queue: &Queue) -> String {
    let project = queue.key.project.as_str().replace('{', "%7B").replace('}', "%7D");
    format!("zq1:{{q/{project}/{}}}:h", queue.key.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_is_killed() {
    let mut cluster = Cluster::that_fails_over();
    let cluster = &mut cluster;
    let store = open(safe(&cluster.uri())).await;
    let queues = spread(&store).await;
    let head = head(&queues[0]);
    let record = under_load(&queues, |record| async move {
        let owner = cluster.owner(&head);
        let at = cluster.nodes.iter().position(|node| node.port == owner).expect("it is a node");
        cluster.nodes[at].kill();
        wait_until("its replica is promoted", || {
            let rest = || cluster.nodes.iter().filter(|node| node.port != owner);
            rest().filter(|node| node.info("role") == "master").count() == 3
                && rest().all(|node| {
                    node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                        && node.cli(&["CLUSTER", "NODES"]).contains("master,fail ")
                })
        });
        cluster.nodes[at].launch();
        cluster.wait_until_well();
        until_served(&record, Instant::now()).await;
    })
    .await;
    check(&queues, &record).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_cluster_move() {
    let cluster = &Cluster::start();
    let store = open(options(&cluster.uri())).await;
    let queues = spread(&store).await;
    let heads: Vec<_> = queues.iter().map(head).collect();
    let record = under_load(&queues, |record| async move {
        for head in &heads {
            tokio::task::block_in_place(|| cluster.move_slot(head));
            until_served(&record, Instant::now()).await;
        }
    })
    .await;
    check(&queues, &record).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_cross_slots_while_they_move() {
    const COUNT: usize = 400;
    let cluster = Cluster::start();
    let store = open(options(&cluster.uri())).await;
    let source = Queue::new(&store, "source").await;
    // On different masters, and with projects that look like tags.
    let mut dead = source.clone();
    for n in 0.. {
        dead = Queue { key: key_of(&format!("}}{{{n}"), "dead"), generation: generation(), ..dead };
        dead.open().await.expect("it answers");
        if cluster.owner(&head(&dead)) != cluster.owner(&head(&source)) {
            break;
        }
    }
    for n in 0..COUNT {
        source.post(&[&n.to_string()]).await;
    }
    let (claim, _) = source.try_claim(COUNT).await.unwrap();
    store.claim_release(&source.key, claim, now()).await.unwrap();
    let bury = |_| {
        let (source, dead) = (source.clone(), dead.clone());
        tokio::spawn(async move {
            loop {
                match claim_with(&source, &dead).await {
                    Ok(messages) => return assert_eq!(messages, 0),
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            }
        })
    };
    let buriers: Vec<_> = (0..4).map(bury).collect();
    tokio::task::block_in_place(|| {
        cluster.move_slot(&head(&source));
        cluster.move_slot(&head(&dead));
    });
    for burier in buriers {
        burier.await.expect("a claim ends");
    }
    let mut letters = dead.texts().await;
    letters.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(letters, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
    assert_eq!(source.texts().await, [""; 0]);
}

async fn claim_with(source: &Queue, dead: &Queue) -> Result<usize, zaqar_core::storage::Error> {
    let rule = DeadLetters {
        max_claim_count: 1,
        target: dead.key.clone(),
        generation: dead.generation,
        ttl: None,
    };
    let id = ClaimId::new(rand());
    let request = ClaimRequest { id, ttl: 60, grace: 60, limit: 10, dead_letters: Some(rule) };
    match source.store.claim(&source.key, source.generation, &request, now()).await? {
        Guarded::Done(Claimed::Messages(messages)) => Ok(messages.len()),
        refused => panic!("{refused:?}"),
    }
}
