//! Does operations on a store and on the oracle, and compares.

mod subscribers;

use std::sync::Arc;

use zaqar_core::storage::{
    ClaimRequest, Claimed, DeadLetters, Deletable, Guarded, ListQuery, Message, NewMessage, PopPage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, KeyId, Kind, LeaseId, MessageId, Position,
    QueueKey, Timestamp,
};

use super::operation::{New, Op, Reserve};
use super::oracle::{ClaimInput, Life, Row, State, nearest_secs};
use crate::factory::Factory;
use crate::kit::{Kit, generation};
use crate::queue::{Queue, batch, everything, ids, message};

/// Claims that are looked at after each operation: the latest.
const CLAIMS: usize = 6;

/// Positions by which a post lies behind the one before, at least, for each whole minute between
/// them: stores may follow the clock in steps.
const POSITIONS_A_MINUTE: u64 = 6000;

pub(super) async fn run(factory: Arc<dyn Factory>, ops: Vec<Op>) {
    let mut run = Run::new(Kit::new(factory).await).await;
    for (n, op) in ops.iter().enumerate() {
        run.at = format!("operation {n}, {op:?}");
        run.step(op).await;
        run.compare().await;
        // Where nobody ever subscribed there is nothing to hear.
        if run.subscriptions > 0 {
            run.compare_subscribers().await;
        }
    }
    run.kit.finish().await;
}

struct Run {
    kit: Kit,
    /// Each queue, with what it should hold; `None` while it has no head.
    queues: Vec<(Queue, Option<Life>)>,
    /// Every id that was ever given.
    ids: Vec<MessageId>,
    /// Every claim that was ever asked for.
    claims: Vec<ClaimId>,
    /// How many subscriptions were ever asked for: the last one's id.
    subscriptions: u128,
    /// The lease that subscriptions hang on, and until when it lasts.
    lease: (LeaseId, Timestamp),
    posted: u64,
    at: String,
}

impl Run {
    async fn new(kit: Kit) -> Self {
        let keys = [kit.key("a"), kit.key("b"), kit.key_of(Kind::Topic, "a")];
        let mut queues = Vec::new();
        for key in keys {
            queues.push((kit.open(key).await, Some(Life::default())));
        }
        let lease = (LeaseId::new(0), kit.now());
        let (ids, claims) = (Vec::new(), Vec::new());
        let mut run = Self {
            kit,
            queues,
            ids,
            claims,
            subscriptions: 0,
            lease,
            posted: 0,
            at: String::new(),
        };
        run.renew_lease().await;
        run
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    async fn step(&mut self, op: &Op) {
        match op.clone() {
            Op::Post { queue, client, messages } => self.post(queue, client, &messages).await,
            Op::PostStale { queue } => self.post_stale(queue).await,
            Op::List { queue, after, limit, hide, claimed, delayed } => {
                let query = ListQuery {
                    after: after.map(|n| self.id(n)),
                    limit,
                    hide: hide.map(client_id),
                    include_claimed: claimed,
                    include_delayed: delayed,
                };
                self.list(queue, query).await;
            }
            Op::Get { queue, ids } => self.get(queue, &ids).await,
            Op::Delete { queue, id, claim } => self.delete(queue, id, claim).await,
            Op::DeleteMany { queue, ids, claims } => self.delete_many(queue, &ids, claims).await,
            Op::Pop { queue, limit, keys } => {
                let keys: Vec<_> = keys.into_iter().map(key_id).collect();
                let answer = self.queues[queue].0.pop_readable(limit, None, &keys).await;
                let messages = self.life(queue).map(|life| life.pop(limit, &keys));
                let messages = messages.unwrap_or_default();
                assert_eq!(answer, PopPage { messages, next: None }, "{}", self.at);
            }
            Op::Purge { queue } => {
                self.queues[queue].0.purge().await;
                self.life(queue).map(Life::purge);
                self.kit.sweep().await;
            }
            Op::Claim { queue, limit, ttl, grace, dead_letters } => {
                let id = ClaimId::new(rand::random());
                self.claims.push(id);
                let max_claim_count = dead_letters.map(|rule| rule.max_claim_count);
                let wish = ClaimInput { id, limit, ttl, grace, max_claim_count };
                self.claim(queue, wish, dead_letters).await;
            }
            Op::Renew { queue, claim, ttl, grace } => {
                let (id, now) = (self.claim_id(claim), self.kit.now());
                let answer = self.queues[queue].0.renew(id, ttl, grace).await;
                let expected = self.life(queue).is_some_and(|l| l.renew(id, ttl, grace, now));
                assert_eq!(answer, expected, "{}", self.at);
            }
            Op::Release { queue, claim } => {
                let id = self.claim_id(claim);
                self.queues[queue].0.release(id).await;
                self.life(queue).into_iter().for_each(|life| life.release(id));
            }
            Op::Advance { queue } => self.advance(queue).await,
            Op::Close { queue } => {
                let (queue, life) = &mut self.queues[queue];
                let expected = life.take().map_or(Guarded::Absent, |_| Guarded::Done(()));
                assert_eq!(queue.close().await, expected, "{}", self.at);
                self.kit.sweep().await;
            }
            Op::Open { queue } => self.open(queue).await,
            Op::Subscribe { queue, subscriber, ttl, is_on_lease } => {
                self.subscribe(queue, subscriber, ttl, is_on_lease).await;
            }
            Op::ChangeSubscription { queue, subscription, subscriber, ttl } => {
                self.change_subscription(queue, subscription, subscriber, ttl).await;
            }
            Op::Unsubscribe { queue, subscription } => self.unsubscribe(queue, subscription).await,
            Op::UnsubscribeAll { queue } => self.unsubscribe_all(queue).await,
            Op::LeaseEntry { queue, secs } => self.lease_entry(queue, secs).await,
            Op::Settle { queue, id } => self.settle(queue, id).await,
            Op::KeepLease { secs } => self.keep_lease(secs).await,
            Op::EndLease => self.end_lease().await,
            Op::Pass { millis } => {
                self.kit.pass_millis(millis);
                let now = self.kit.now();
                self.queues.iter_mut().flat_map(|(_, l)| l).for_each(|life| life.pass(now));
                if self.lease.1 <= now {
                    self.renew_lease().await;
                }
                self.kit.sweep().await;
            }
            Op::Restart if self.kit.keeps() => {
                self.kit.restart().await;
                for (queue, _) in &mut self.queues {
                    *queue = self.kit.again(queue);
                }
            }
            Op::Restart => {}
        }
    }

    /// Compares all that can be seen.
    async fn compare(&mut self) {
        for (queue, life) in &self.queues {
            let at = format!("{} after {}", queue.key, self.at);
            let (listed, stats) = (queue.all().await, queue.try_stats().await);
            let expected = life.as_ref().map(|life| life.listed(|_| true)).unwrap_or_default();
            assert_eq!(listed, expected, "listing of {at}");
            assert_eq!(stats, life.as_ref().map(Life::stats), "counts of {at}");
            let head = life.as_ref().map(|_| queue.generation);
            assert_eq!(queue.head().await, head, "head of {at}");
            for id in self.claims.iter().rev().take(CLAIMS) {
                let expected = life.as_ref().and_then(|life| life.claim_get(*id));
                assert_eq!(queue.claim_get(*id).await, expected, "claim {id} of {at}");
            }
        }
    }

    fn life(&mut self, queue: usize) -> Option<&mut Life> {
        self.queues[queue].1.as_mut()
    }

    /// The id that a number stands for, 0 for the latest: of any message that was posted, or of
    /// none.
    fn id(&self, n: usize) -> MessageId {
        let nothing = MessageId { incarnation: Incarnation::new(1), position: Position::new(1) };
        self.ids.iter().rev().nth(n).copied().unwrap_or(nothing)
    }

    fn ids(&self, numbers: &[usize]) -> Vec<MessageId> {
        numbers.iter().map(|n| self.id(*n)).collect()
    }

    fn claim_id(&self, n: usize) -> ClaimId {
        self.claims.iter().rev().nth(n).copied().unwrap_or(ClaimId::new(1))
    }

    async fn post(&mut self, queue: usize, client: u8, posted: &[New]) {
        let now = self.kit.now();
        let client = client_id(client);
        let new: Vec<_> = posted.iter().zip(self.posted..).map(new_message).collect();
        self.posted += new.len() as u64;
        let (at, (queue, life)) = (&self.at, &mut self.queues[queue]);
        let answer = queue.try_post(queue.generation, batch(client.as_str(), new.clone())).await;
        let Some(life) = life else {
            assert_eq!(answer, Guarded::Absent, "{at}");
            return;
        };
        let Guarded::Done(given) = answer else { panic!("{at} is refused: {answer:?}") };
        assert_eq!(given.len(), new.len(), "{at}");
        life.subscribers.post(Self::entry(&given, &new, now));
        let last =
            self.ids.iter().filter(|id| id.incarnation == queue.generation.incarnation).max();
        assert!(given.first() > last, "{at}: {:?} is not behind {last:?}", given.first());
        if let (Some(last), Some(posted)) = (last, life.posted.replace(now)) {
            let gap = given[0].position.get() - last.position.get();
            let least = now.secs_since(posted) / 60 * POSITIONS_A_MINUTE;
            assert!(gap >= least, "{at}: {gap} positions on, and the clock {posted:?} to {now:?}");
        }
        for (n, (id, new)) in given.iter().zip(new).enumerate() {
            assert_eq!(id.incarnation, queue.generation.incarnation, "{at}");
            assert_eq!(id.position.get(), given[0].position.get() + n as u64, "{at}");
            life.append(Row {
                id: *id,
                client: client.clone(),
                payload: new.payload,
                ttl: new.ttl,
                created: now,
                end: now.plus_secs(new.ttl),
                state: if new.delay == 0 {
                    State::Free
                } else {
                    State::Delayed(now.plus_secs(new.delay))
                },
                count: 0,
            });
        }
        self.ids.extend(given);
    }

    async fn post_stale(&mut self, queue: usize) {
        let (queue, life) = &self.queues[queue];
        let version = queue.generation.version.next();
        let assumed = Generation { version, ..queue.generation };
        let answer = queue.try_post(assumed, batch("c", vec![message("stale")])).await;
        let expected = life.as_ref().map_or(Guarded::Absent, |_| Guarded::Stale(queue.generation));
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn list(&mut self, queue: usize, query: ListQuery) {
        let (queue, life) = &self.queues[queue];
        let answer = queue.follow(query.clone()).await;
        let own = query.after.filter(|id| id.incarnation == queue.generation.incarnation);
        let is_shown = |row: &Row| {
            Some(row.id) > own
                && query.hide.as_ref() != Some(&row.client)
                && match row.state {
                    State::Free => true,
                    State::Delayed(_) => query.include_delayed,
                    State::Held(_) => query.include_claimed,
                }
        };
        let expected = life.as_ref().map(|life| life.listed(is_shown)).unwrap_or_default();
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn get(&mut self, queue: usize, numbers: &[usize]) {
        let wanted = self.ids(numbers);
        let answer = self.queues[queue].0.get(&wanted).await;
        let is_wanted = |row: &Row| wanted.contains(&row.id);
        let expected = self.life(queue).map(|life| life.listed(is_wanted)).unwrap_or_default();
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn delete(&mut self, queue: usize, id: usize, claim: Option<usize>) {
        let (id, claim) = (self.id(id), claim.map(|n| self.claim_id(n)));
        let answer = self.queues[queue].0.delete(id, claim).await;
        let gone = zaqar_core::storage::Deleted::Gone;
        let expected = self.life(queue).map_or(gone, |life| life.delete(id, claim));
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn delete_many(&mut self, queue: usize, numbers: &[usize], claims: Option<Vec<usize>>) {
        let ids = self.ids(numbers);
        let claims: Option<Vec<_>> =
            claims.map(|numbers| numbers.iter().map(|n| self.claim_id(*n)).collect());
        let which = claims.clone().map_or(Deletable::Any, Deletable::HeldBy);
        self.queues[queue].0.delete_many(&ids, &which).await;
        self.life(queue).into_iter().for_each(|life| life.delete_many(&ids, claims.as_deref()));
    }

    async fn claim(&mut self, source: usize, wish: ClaimInput, rule: Option<Reserve>) {
        let now = self.kit.now();
        let target = (source + 1) % self.queues.len();
        let dead_letters =
            rule.map(|rule| self.queues[target].0.as_target(rule.max_claim_count, rule.ttl));
        let answer = self.ask(source, wish, dead_letters).await;
        let Some(life) = self.life(source) else {
            assert_eq!(answer, Guarded::Absent, "{}", self.at);
            return;
        };
        let worn = life.worn(wish);
        if !worn.is_empty() && self.queues[target].1.is_none() {
            self.life(source).into_iter().for_each(|life| life.put_back(worn.clone()));
            assert_eq!(answer, Guarded::Done(Claimed::TargetChanged), "{}", self.at);
            return;
        }
        self.bury(target, worn, rule.and_then(|rule| rule.ttl)).await;
        let taken = self.life(source).map(|life| life.claim(wish, now)).unwrap_or_default();
        assert_eq!(answer, Guarded::Done(Claimed::Messages(taken)), "{}", self.at);
    }

    async fn ask(
        &self,
        queue: usize,
        wish: ClaimInput,
        dead_letters: Option<DeadLetters>,
    ) -> Guarded<Claimed> {
        let ClaimInput { id, limit, ttl, grace, .. } = wish;
        let queue = &self.queues[queue].0;
        queue
            .try_claim(queue.generation, &ClaimRequest { id, ttl, grace, limit, dead_letters })
            .await
    }

    /// Puts dead letters into the target, with the ids that the store has given them: those at its
    /// end that are new.
    async fn bury(&mut self, target: usize, worn: Vec<Row>, ttl: Option<u64>) {
        let now = self.kit.now();
        let (queue, life) = &mut self.queues[target];
        let Some(life) = life.as_mut().filter(|_| !worn.is_empty()) else { return };
        let known = ids(&life.listed(|_| true));
        let listed: Vec<Message> = queue.follow(everything()).await;
        let new: Vec<_> = ids(&listed).into_iter().filter(|id| !known.contains(id)).collect();
        assert_eq!(new.len(), worn.len(), "dead letters arrive, at {}", self.at);
        for (id, row) in new.iter().zip(worn) {
            let end = ttl.map_or(row.end, |ttl| now.plus_secs(ttl));
            let ttl = nearest_secs(now, end);
            life.append(Row {
                id: *id,
                ttl,
                created: now,
                end,
                state: State::Free,
                count: 0,
                ..row
            });
        }
        life.posted = Some(now);
        self.ids.extend(new);
    }

    async fn advance(&mut self, queue: usize) {
        let (queue, life) = &mut self.queues[queue];
        let version = queue.generation.version.next();
        let next = Generation { version, ..queue.generation };
        let expected = if life.is_some() { Guarded::Done(()) } else { Guarded::Absent };
        assert_eq!(queue.advance(next).await, expected, "{}", self.at);
        if life.is_some() {
            queue.generation = next;
        }
    }

    async fn open(&mut self, queue: usize) {
        let (queue, life) = &mut self.queues[queue];
        let key: QueueKey = queue.key.clone();
        let next = self.kit.queue_at(key, generation(1));
        if life.is_some() {
            assert_eq!(next.open().await, queue.generation, "{}", self.at);
            return;
        }
        assert_eq!(next.open().await, next.generation, "{}", self.at);
        (*queue, *life) = (next, Some(Life::default()));
    }
}

fn new_message((new, number): (&New, u64)) -> NewMessage {
    let mut made = message(&number.to_string());
    made.payload.sealed_with = new.key.map(key_id);
    NewMessage { ttl: new.ttl, delay: new.delay, ..made }
}

fn key_id(number: u8) -> KeyId {
    KeyId(format!("key {number}"))
}

fn client_id(number: u8) -> ClientId {
    ClientId::new(&format!("client {number}"))
}
