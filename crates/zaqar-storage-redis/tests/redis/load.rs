//! Producers and consumers that work during a fault, the answers they got, and whether a correct
//! store can have given those answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use zaqar_core::MessageId;
use zaqar_core::storage::{Claims, Deleted, ListQuery, Message, Messages};

use crate::servers::TEST_TIMEOUT;
use crate::support::{Queue, now};

const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;

/// The record of what producers and consumers did.
#[derive(Default)]
pub(crate) struct Record {
    seen: Mutex<Seen>,
    answers: Mutex<Vec<Answer>>,
    is_over: AtomicBool,
    /// The next number for a message body: each body is posted by one request.
    bodies: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    posted: BTreeSet<MessageId>,
    /// Messages whose deletion was acknowledged, and those whose deletion failed and may have been
    /// done.
    deleted: BTreeSet<MessageId>,
    perhaps_deleted: BTreeSet<MessageId>,
    /// Messages that were claimed.
    held: BTreeSet<MessageId>,
    /// The message in which each body was seen.
    bodies: BTreeMap<Vec<u8>, MessageId>,
    wrong: Vec<String>,
}

/// The outcome of a request.
struct Answer {
    /// The index of its queue.
    queue: usize,
    started: Instant,
    ended: Instant,
    is_ok: bool,
}

impl Seen {
    /// Records a message: a body in two messages was stored twice.
    fn see(&mut self, message: &Message) {
        let body = message.payload.bytes.to_vec();
        let before = self.bodies.insert(body, message.id);
        if before.is_some_and(|before| before != message.id) {
            self.wrong.push(format!("{} was stored twice", message.id));
        }
    }
}

impl Record {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("the lock is not poisoned")
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().expect("the lock is not poisoned")
    }

    fn answered(&self, queue: usize, started: Instant, is_ok: bool) {
        self.answers().push(Answer { queue, started, ended: Instant::now(), is_ok });
    }

    /// The number of answers so far.
    fn load(&self) -> usize {
        let seen = self.seen();
        seen.posted.len().min(seen.deleted.len())
    }

    /// Waits until there are more answers than before.
    async fn until_busy(&self, before: usize) {
        let started = Instant::now();
        while self.load() <= before + 100 {
            assert!(started.elapsed() < TEST_TIMEOUT, "there is no load");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// When a request on this queue first succeeded that ended after `since` and, with `is_new`,
    /// also began after it.
    fn served_at(&self, queue: usize, since: Instant, is_new: bool) -> Option<Instant> {
        let answers = self.answers();
        let late = answers.iter().rev().take_while(|answer| answer.ended > since);
        let served = late.filter(|answer| {
            answer.is_ok && answer.queue == queue && (!is_new || answer.started >= since)
        });
        served.map(|answer| answer.ended).min()
    }

    /// Waits until requests on all queues have succeeded after `since`. Returns how long the last
    /// queue took.
    pub(crate) async fn until_served(
        &self,
        queues: usize,
        since: Instant,
        is_new: bool,
    ) -> Duration {
        let mut longest = Duration::ZERO;
        for queue in 0..queues {
            let served = loop {
                if let Some(at) = self.served_at(queue, since, is_new) {
                    break at;
                }
                assert!(since.elapsed() < TEST_TIMEOUT, "queue {queue} is not served again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            longest = longest.max(served - since);
        }
        longest
    }
}

async fn produce(queue: Queue, at: usize, record: Arc<Record>) {
    while !record.is_over.load(Ordering::Acquire) {
        let number = record.bodies.fetch_add(2, Ordering::Relaxed);
        let started = Instant::now();
        let posted = queue.try_post(&[&number.to_string(), &(number + 1).to_string()]).await;
        record.answered(at, started, posted.is_ok());
        match posted {
            Ok(ids) => {
                let mut seen = record.seen();
                for id in ids {
                    if !seen.posted.insert(id) {
                        seen.wrong.push(format!("{id} was given twice"));
                    }
                }
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn consume(queue: Queue, at: usize, record: Arc<Record>) {
    while !record.is_over.load(Ordering::Acquire) {
        let started = Instant::now();
        let claimed = queue.try_claim(5).await;
        record.answered(at, started, claimed.is_ok());
        let Ok((claim, messages)) = claimed else { continue };
        {
            let mut seen = record.seen();
            for message in &messages {
                seen.see(message);
                if !seen.held.insert(message.id) {
                    seen.wrong.push(format!("{} is in two claims", message.id));
                }
                if seen.deleted.contains(&message.id) {
                    seen.wrong.push(format!("{} is back after its deletion", message.id));
                }
            }
        }
        for message in &messages {
            let deleted = queue.store.delete(&queue.key, message.id, Some(claim), now()).await;
            let mut seen = record.seen();
            match deleted {
                Ok(Deleted::Gone) => seen.deleted.insert(message.id),
                Err(_) => seen.perhaps_deleted.insert(message.id),
                Ok(refused) => {
                    seen.wrong.push(format!("{} cannot be deleted: {refused:?}", message.id));
                    false
                }
            };
        }
        if messages.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs producers and consumers on queues during `happens`. Returns their record.
pub(crate) async fn under_load<F: Future<Output = ()>>(
    queues: &[Queue],
    happens: impl FnOnce(Arc<Record>) -> F,
) -> Arc<Record> {
    let record = Arc::new(Record::default());
    let workers: Vec<_> = (0..PRODUCERS.max(CONSUMERS))
        .flat_map(|n| {
            let at = n % queues.len();
            [
                tokio::spawn(produce(queues[at].clone(), at, record.clone())),
                tokio::spawn(consume(queues[at].clone(), at, record.clone())),
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

/// Checks that no acknowledged message is lost, none was stored or claimed twice, none reappears
/// after its deletion, and none is held by a claim that does not list it.
pub(crate) async fn check(queues: &[Queue], record: &Record) {
    let mut left = BTreeSet::new();
    for queue in queues {
        let all = queue.all().await;
        orphans(queue, &all, record).await;
        let mut seen = record.seen();
        all.iter().for_each(|message| seen.see(message));
        left.extend(all.iter().map(|message| message.id));
    }
    let seen = record.seen();
    let wrong = &seen.wrong;
    assert!(wrong.is_empty(), "{} of: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    let is_accounted_for = |id: &&MessageId| {
        left.contains(id) || seen.deleted.contains(id) || seen.perhaps_deleted.contains(id)
    };
    let lost = seen.posted.iter().filter(|id| !is_accounted_for(id)).count();
    assert_eq!(lost, 0, "{lost} of {} are lost", seen.posted.len());
    let back = left.iter().filter(|id| seen.deleted.contains(id)).count();
    assert_eq!(back, 0, "{back} are back after their deletion");
    assert!(seen.posted.len() > 30 && seen.deleted.len() > 30, "there was load");
    let answers = record.answers();
    let ok = answers.iter().filter(|answer| answer.is_ok).count();
    println!(
        "{} posted, {} deleted, {} left; {ok} of {} requests succeeded",
        seen.posted.len(),
        seen.deleted.len(),
        left.len(),
        answers.len(),
    );
}

/// Records messages of a queue that are neither free nor listed by a live claim.
async fn orphans(queue: &Queue, all: &[Message], record: &Record) {
    let mut free = BTreeSet::new();
    let mut query = ListQuery {
        after: None,
        limit: 1000,
        hide: None,
        include_claimed: false,
        include_delayed: false,
    };
    loop {
        let page = Messages::list(&queue.store, &queue.key, &query, now()).await;
        let page = page.expect("list answers");
        free.extend(page.messages.iter().map(|message| message.id));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    for message in all.iter().filter(|message| !free.contains(&message.id)) {
        let claim = match message.claim {
            Some(id) => queue.store.claim_get(&queue.key, id, now()).await.expect("it answers"),
            None => None,
        };
        if !claim.is_some_and(|it| it.messages.iter().any(|held| held.id == message.id)) {
            record.seen().wrong.push(format!("{} is held by nobody", message.id));
        }
    }
}
