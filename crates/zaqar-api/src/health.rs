//! The self-test for administrators: runs and times every operation on a temporary queue.

use bytes::Bytes;
use serde_json::{Value, json};
use zaqar_core::pools::PoolName;
use zaqar_core::{ClientId, Kind, QueueName};

use crate::store_health::{Probe, StoreHealth, timed};
use crate::{
    Api, Context, CreateClaim, CreateQueue, DeleteMessage, DeleteMessages, Error, ListMessages,
    PostMessages, PostedMessage, QueueRef, ReadClaim, pool_health,
};

/// The health of a server and its stores.
#[derive(Debug)]
pub struct Health {
    /// Both stores together. Its problems include those of this server: tasks that died, why a
    /// store is unreachable (a clock difference counts), and a wall clock that was set. With pools,
    /// the operations are tested on each pool instead.
    pub store: StoreHealth,
    /// The health of each pool, by name, if pools are configured. `store` then covers the
    /// configured stores only.
    pub pools: Option<Vec<(PoolName, StoreHealth)>>,
}

impl Health {
    /// The document that both transports return.
    pub fn document(&self) -> Value {
        let Some(pools) = &self.pools else { return self.store.document() };
        let is_reachable = self.store.reachable && pools.iter().all(|(_, pool)| pool.reachable);
        let mut document = json!({ "catalog_reachable": is_reachable });
        // Our addition; the document of a healthy server is exactly the original's.
        if !self.store.problems.is_empty() {
            document["problems"] = json!(self.store.problems);
        }
        for (name, pool) in pools {
            document[name.as_str()] = pool.document();
        }
        document
    }
}

impl Api {
    /// Tests every operation on a queue of the caller's project with a random name. The queue is
    /// deleted at the end, whatever happened before.
    ///
    /// # Errors
    /// None: failures are reported in the answer.
    pub(crate) async fn health(&self, context: &Context) -> Result<Health, Error> {
        let mut problems = self.problems().await;
        let reachable = problems.is_empty();
        let clock = self.inner.clock.status();
        if !clock.is_steady() {
            problems.push(clock.to_string());
        }
        let mut store = StoreHealth { reachable, ..StoreHealth::new(problems) };
        let pools = match &self.inner.pool_stores {
            Some(stores) => Some(
                pool_health::check_all(stores.current().await, context, self.inner.clock.now())
                    .await,
            ),
            None => {
                if reachable {
                    store.volume = self.inner.messages.volume().await.unwrap_or_default();
                    self.probe(context, &mut store.operations).await;
                }
                None
            }
        };
        Ok(Health { store, pools })
    }

    /// Tasks that died, and failed pings of the stores.
    async fn problems(&self) -> Vec<String> {
        let dead = self.inner.tasks.failures();
        let mut problems: Vec<_> = dead.iter().map(ToString::to_string).collect();
        let pings = [self.inner.management.ping().await, self.inner.messages.ping().await];
        problems.extend(pings.into_iter().filter_map(Result::err).map(|error| error.to_string()));
        problems.dedup();
        problems
    }

    async fn probe(&self, context: &Context, out: &mut Vec<(&'static str, Probe)>) {
        let client = ClientId::new("health");
        let context = &Context { client, ..context.clone() };
        let random: u128 = rand::random();
        let Ok(name) = QueueName::new(&format!("zaqar-health-{random:032x}")) else { return };
        let queue = || QueueRef { kind: Kind::Queue, name: name.clone() };

        let create = CreateQueue { queue: queue(), metadata: Default::default() };
        timed(out, "create_queue", self.create_queue(context, create)).await;
        let body =
            || PostedMessage { body: Bytes::from_static(b"\"health\""), ttl: None, delay: None };
        let messages = (0..10).map(|_| body()).collect();
        let post = PostMessages { queue: queue(), size: 0, messages, notify: false };
        timed(out, "post_messages", self.post_messages(context, post)).await;
        let list = ListMessages {
            queue: queue(),
            marker: None,
            limit: None,
            echo: true,
            include_claimed: true,
            include_delayed: false,
        };
        let page = timed(out, "list_messages", self.list_messages(context, list)).await;
        let claim = CreateClaim { queue: queue(), limit: Some(1), ttl: None, grace: None };
        let claimed = timed(out, "claim_messages", self.create_claim(context, claim)).await;
        if let Some(Some((id, _))) = claimed {
            let release = ReadClaim { queue: queue(), id: id.to_string() };
            timed(out, "delete_claim", self.release_claim(context, release)).await;
        }
        let messages = page.map(|page| page.messages).unwrap_or_default();
        let mut ids: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
        if let Some(id) = ids.pop() {
            let delete = DeleteMessage { queue: queue(), id, claim: None };
            timed(out, "delete_messages", self.delete_message(context, delete)).await;
        }
        let claims = self.inner.limits.message_delete_with_claim_id.then(Vec::new);
        let delete = DeleteMessages { queue: queue(), ids, claims };
        timed(out, "bulk_delete_messages", self.delete_messages(context, delete)).await;
        timed(out, "delete_queue", self.delete_queue(context, queue())).await;
    }
}
