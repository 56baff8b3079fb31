//! Runs operations on a store and on the oracle, and compares them.

mod subscribers;

use std::sync::Arc;

use zaqar_core::storage::{
    ClaimRequest, Claimed, DeadLetters, Deletable, Guarded, ListQuery, Message, NewMessage, PopPage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, KeyId, Kind, LeaseId, MessageId, Position,
    QueueKey, Timestamp,
};

use super::operation::{DeadLetterRule, New, Op};
use super::oracle::{ClaimInput, QueueModel, Row, State, nearest_secs};
use crate::factory::Factory;
use crate::kit::{Kit, generation};
use crate::queue::{Queue, batch, everything, ids, message};

/// How many of the latest claims are compared after each operation.
const CLAIMS: usize = 6;

/// The minimum difference between the positions of two posts, for each whole minute between them:
/// stores may follow the clock in steps.
const POSITIONS_A_MINUTE: u64 = 6000;

pub(super) async fn run(factory: Arc<dyn Factory>, ops: Vec<Op>) {
    let mut run = Run::new(Kit::new(factory).await).await;
    for (n, op) in ops.iter().enumerate() {
        run.at = format!("operation {n}, {op:?}");
        run.perform(op).await;
        run.compare().await;
        // If nobody ever subscribed, there is nothing to compare.
        if run.subscriptions > 0 {
            run.compare_subscribers().await;
        }
    }
    run.kit.finish().await;
}

struct Run {
    kit: Kit,
    /// Each queue with its expected contents; `None` while it has no head.
    queues: Vec<(Queue, Option<QueueModel>)>,
    /// Every id that was ever assigned.
    ids: Vec<MessageId>,
    /// Every claim that was ever requested.
    claims: Vec<ClaimId>,
    /// How many subscriptions were ever requested: the last one's id.
    subscriptions: u128,
    /// The lease that subscriptions depend on, and its expiry.
    lease: (LeaseId, Timestamp),
    posted: u64,
    at: String,
}

impl Run {
    async fn new(kit: Kit) -> Self {
        let keys = [kit.key("a"), kit.key("b"), kit.key_of(Kind::Topic, "a")];
        let mut queues = Vec::new();
        for key in keys {
            queues.push((kit.open(key).await, Some(QueueModel::default())));
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
    async fn perform(&mut self, op: &Op) {
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
                let expected = self.model(queue).map(|model| {
                    let skipped = model.skipped(limit, &keys, None);
                    PopPage { messages: model.pop(limit, &keys), skipped }
                });
                assert_eq!(answer, expected.unwrap_or_default(), "{}", self.at);
            }
            Op::Purge { queue } => {
                self.queues[queue].0.purge().await;
                self.model(queue).map(QueueModel::purge);
                self.kit.sweep().await;
            }
            Op::Claim { queue, limit, ttl, grace, keys, dead_letters } => {
                let id = ClaimId::new(rand::random());
                self.claims.push(id);
                let max_claim_count = dead_letters.map(|rule| rule.max_claim_count);
                let keys: Option<Vec<_>> = keys.map(|keys| keys.into_iter().map(key_id).collect());
                let keys = keys.as_deref();
                let request = ClaimInput { id, limit, ttl, grace, keys, max_claim_count };
                self.claim(queue, request, dead_letters).await;
            }
            Op::Renew { queue, claim, ttl, grace } => {
                let (id, now) = (self.claim_id(claim), self.kit.now());
                let answer = self.queues[queue].0.renew(id, ttl, grace).await;
                let expected = self.model(queue).is_some_and(|l| l.renew(id, ttl, grace, now));
                assert_eq!(answer, expected, "{}", self.at);
            }
            Op::Release { queue, claim } => {
                let id = self.claim_id(claim);
                self.queues[queue].0.release(id).await;
                self.model(queue).into_iter().for_each(|model| model.release(id));
            }
            Op::Advance { queue } => self.advance(queue).await,
            Op::Close { queue } => {
                let (queue, model) = &mut self.queues[queue];
                let expected = model.take().map_or(Guarded::Absent, |_| Guarded::Done(()));
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
            Op::LeaseEntries { queue, limit, secs } => {
                self.lease_entries(queue, limit, secs).await;
            }
            Op::Settle { queue, id } => self.settle(queue, id).await,
            Op::KeepLease { secs } => self.keep_lease(secs).await,
            Op::EndLease => self.end_lease().await,
            Op::Pass { millis } => {
                self.kit.pass_millis(millis);
                let now = self.kit.now();
                self.queues.iter_mut().flat_map(|(_, l)| l).for_each(|model| model.pass(now));
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

    /// Compares everything observable.
    async fn compare(&mut self) {
        for (queue, model) in &self.queues {
            let at = format!("{} after {}", queue.key, self.at);
            let (listed, stats) = (queue.all().await, queue.try_stats().await);
            let expected = model.as_ref().map(|model| model.listed(|_| true)).unwrap_or_default();
            assert_eq!(listed, expected, "listing of {at}");
            assert_eq!(stats, model.as_ref().map(QueueModel::stats), "counts of {at}");
            let head = model.as_ref().map(|_| queue.generation);
            assert_eq!(queue.head().await, head, "head of {at}");
            for id in self.claims.iter().rev().take(CLAIMS) {
                let expected = model.as_ref().and_then(|model| model.claim_get(*id));
                assert_eq!(queue.claim_get(*id).await, expected, "claim {id} of {at}");
            }
        }
    }

    fn model(&mut self, queue: usize) -> Option<&mut QueueModel> {
        self.queues[queue].1.as_mut()
    }

    /// The message id for a number, 0 for the latest; an unknown id if there are not as many.
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
        let (at, (queue, model)) = (&self.at, &mut self.queues[queue]);
        let answer = queue.try_post(queue.generation, batch(client.as_str(), new.clone())).await;
        let Some(model) = model else {
            assert_eq!(answer, Guarded::Absent, "{at}");
            return;
        };
        let Guarded::Done(given) = answer else { panic!("{at} was rejected: {answer:?}") };
        assert_eq!(given.len(), new.len(), "{at}");
        model.subscribers.post(Self::entry(&given, &new, now));
        let last =
            self.ids.iter().filter(|id| id.incarnation == queue.generation.incarnation).max();
        assert!(given.first() > last, "{at}: {:?} is not after {last:?}", given.first());
        if let (Some(last), Some(posted)) = (last, model.posted.replace(now)) {
            let gap = given[0].position.get() - last.position.get();
            let least = now.secs_since(posted) / 60 * POSITIONS_A_MINUTE;
            assert!(
                gap >= least,
                "{at}: positions advanced by {gap}, the clock from {posted:?} to {now:?}"
            );
        }
        for (n, (id, new)) in given.iter().zip(new).enumerate() {
            assert_eq!(id.incarnation, queue.generation.incarnation, "{at}");
            assert_eq!(id.position.get(), given[0].position.get() + n as u64, "{at}");
            model.append(Row {
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
        let (queue, model) = &self.queues[queue];
        let version = queue.generation.version.next();
        let assumed = Generation { version, ..queue.generation };
        let answer = queue.try_post(assumed, batch("c", vec![message("stale")])).await;
        let expected = model.as_ref().map_or(Guarded::Absent, |_| Guarded::Stale(queue.generation));
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn list(&mut self, queue: usize, query: ListQuery) {
        let (queue, model) = &self.queues[queue];
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
        let expected = model.as_ref().map(|model| model.listed(is_shown)).unwrap_or_default();
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn get(&mut self, queue: usize, numbers: &[usize]) {
        let wanted = self.ids(numbers);
        let answer = self.queues[queue].0.get(&wanted).await;
        let is_needed = |row: &Row| wanted.contains(&row.id);
        let expected = self.model(queue).map(|model| model.listed(is_needed)).unwrap_or_default();
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn delete(&mut self, queue: usize, id: usize, claim: Option<usize>) {
        let (id, claim) = (self.id(id), claim.map(|n| self.claim_id(n)));
        let answer = self.queues[queue].0.delete(id, claim).await;
        let gone = zaqar_core::storage::Deleted::Gone;
        let expected = self.model(queue).map_or(gone, |model| model.delete(id, claim));
        assert_eq!(answer, expected, "{}", self.at);
    }

    async fn delete_many(&mut self, queue: usize, numbers: &[usize], claims: Option<Vec<usize>>) {
        let ids = self.ids(numbers);
        let claims: Option<Vec<_>> =
            claims.map(|numbers| numbers.iter().map(|n| self.claim_id(*n)).collect());
        let which = claims.clone().map_or(Deletable::Any, Deletable::HeldBy);
        self.queues[queue].0.delete_many(&ids, &which).await;
        self.model(queue).into_iter().for_each(|model| model.delete_many(&ids, claims.as_deref()));
    }

    async fn claim(
        &mut self,
        source: usize,
        request: ClaimInput<'_>,
        rule: Option<DeadLetterRule>,
    ) {
        let now = self.kit.now();
        let target = (source + 1) % self.queues.len();
        let dead_letters =
            rule.map(|rule| self.queues[target].0.as_target(rule.max_claim_count, rule.ttl));
        let answer = self.try_claim(source, request, dead_letters).await;
        let Some(model) = self.model(source) else {
            assert_eq!(answer, Guarded::Absent, "{}", self.at);
            return;
        };
        let skipped =
            request.keys.map(|keys| model.skipped(request.limit, keys, request.max_claim_count));
        let exhausted = model.exhausted(request);
        if !exhausted.is_empty() && self.queues[target].1.is_none() {
            self.model(source).into_iter().for_each(|model| model.put_back(exhausted.clone()));
            assert_eq!(answer, Guarded::Done(Claimed::TargetChanged), "{}", self.at);
            return;
        }
        let dead_letters = exhausted.len();
        self.move_dead_letters(target, exhausted, rule.and_then(|rule| rule.ttl)).await;
        let taken = self.model(source).map(|model| model.claim(request, now)).unwrap_or_default();
        let skipped = skipped.unwrap_or_default();
        let expected = Claimed::Messages { messages: taken, dead_letters, skipped };
        assert_eq!(answer, Guarded::Done(expected), "{}", self.at);
    }

    async fn try_claim(
        &self,
        queue: usize,
        request: ClaimInput<'_>,
        dead_letters: Option<DeadLetters>,
    ) -> Guarded<Claimed> {
        let ClaimInput { id, limit, ttl, grace, keys, .. } = request;
        let keys = keys.map(<[_]>::to_vec);
        let queue = &self.queues[queue].0;
        queue
            .try_claim(
                queue.generation,
                &ClaimRequest { grace, keys, dead_letters, ..ClaimRequest::new(id, ttl, limit) },
            )
            .await
    }

    /// Appends dead letters to the target, with the ids that the store has assigned: the new ones
    /// at its end.
    async fn move_dead_letters(&mut self, target: usize, exhausted: Vec<Row>, ttl: Option<u64>) {
        let now = self.kit.now();
        let (queue, model) = &mut self.queues[target];
        let Some(model) = model.as_mut().filter(|_| !exhausted.is_empty()) else { return };
        let known = ids(&model.listed(|_| true));
        let listed: Vec<Message> = queue.follow(everything()).await;
        let new: Vec<_> = ids(&listed).into_iter().filter(|id| !known.contains(id)).collect();
        assert_eq!(new.len(), exhausted.len(), "dead letters arrive, at {}", self.at);
        for (id, row) in new.iter().zip(exhausted) {
            let end = ttl.map_or(row.end, |ttl| now.plus_secs(ttl));
            let ttl = nearest_secs(now, end);
            model.append(Row {
                id: *id,
                ttl,
                created: now,
                end,
                state: State::Free,
                count: 0,
                ..row
            });
        }
        model.posted = Some(now);
        self.ids.extend(new);
    }

    async fn advance(&mut self, queue: usize) {
        let (queue, model) = &mut self.queues[queue];
        let version = queue.generation.version.next();
        let next = Generation { version, ..queue.generation };
        let expected = if model.is_some() { Guarded::Done(()) } else { Guarded::Absent };
        assert_eq!(queue.advance(next).await, expected, "{}", self.at);
        if model.is_some() {
            queue.generation = next;
        }
    }

    async fn open(&mut self, queue: usize) {
        let (queue, model) = &mut self.queues[queue];
        let key: QueueKey = queue.key.clone();
        let next = self.kit.queue_at(key, generation(1));
        if model.is_some() {
            assert_eq!(next.open().await, queue.generation, "{}", self.at);
            return;
        }
        assert_eq!(next.open().await, next.generation, "{}", self.at);
        (*queue, *model) = (next, Some(QueueModel::default()));
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
