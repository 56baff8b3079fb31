//! The self-test of each pool, as in [`crate::health`] for a deployment without pools.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use zaqar_core::pools::{PoolName, PoolStatus};
use zaqar_core::storage::{
    Batch, ClaimRequest, Deletable, Error as StoreError, Guarded, ListQuery, MessageStore,
    NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, MessageId, Payload, QueueKey, QueueName,
    Timestamp, Version,
};

use crate::store_health::{StoreHealth, timed};
use crate::{Context, Error};

/// Number of pools tested at a time.
const AT_ONCE: usize = 16;
/// How long one operation of a test may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// TTL in seconds of test messages, in case they are not deleted.
const TTL: u64 = 60;
/// Number of test messages.
const MESSAGES: usize = 10;

/// Tests every operation on every pool, on a queue with a random name. A pool that does not answer
/// does not delay the others.
pub(crate) async fn check_all(
    pools: Vec<PoolStatus>,
    context: &Context,
    now: Timestamp,
) -> Vec<(PoolName, StoreHealth)> {
    let checks = pools.into_iter().map(|pool| async move {
        let health = check(&pool, context, now).await;
        (pool.name, health)
    });
    stream::iter(checks).buffered(AT_ONCE).collect().await
}

async fn check(pool: &PoolStatus, context: &Context, now: Timestamp) -> StoreHealth {
    let Some(store) = &pool.store else {
        let problem = pool.problem.clone().unwrap_or_else(|| "it is not open".to_owned());
        return StoreHealth::new(vec![problem]);
    };
    if let Err(error) = within(store.ping()).await {
        return StoreHealth::new(vec![error.to_string()]);
    }
    let mut health = StoreHealth::new(Vec::new());
    health.volume = within(store.volume()).await.unwrap_or_default();
    let random: u128 = rand::random();
    if let Ok(name) = QueueName::new(&format!("zaqar-health-{random:032x}")) {
        let key = QueueKey { project: context.project.clone(), kind: Kind::Queue, name };
        let incarnation = Incarnation::new(rand::random_range(1..=i64::MAX as u64));
        let generation = Generation { incarnation, version: Version::new(1) };
        let test = SelfTest { store: store.as_ref(), key, generation, now };
        test.run(&mut health).await;
    }
    health
}

/// A test of one store.
struct SelfTest<'a> {
    store: &'a dyn MessageStore,
    key: QueueKey,
    generation: Generation,
    now: Timestamp,
}

impl SelfTest<'_> {
    async fn run(&self, health: &mut StoreHealth) {
        let Self { store, key, generation, now } = self;
        let (generation, now, out) = (*generation, *now, &mut health.operations);
        timed(out, "create_queue", within(store.open(key, generation, now))).await;
        let posted = done(store.post(key, generation, batch(), now));
        let mut ids: Vec<MessageId> = timed(out, "post_messages", posted).await.unwrap_or_default();
        let query = ListQuery {
            after: None,
            limit: MESSAGES,
            hide: None,
            include_claimed: true,
            include_delayed: false,
        };
        timed(out, "list_messages", within(store.list(key, &query, now))).await;
        let id = ClaimId::new(rand::random());
        let claim = ClaimRequest { grace: TTL, ..ClaimRequest::new(id, TTL, 1) };
        let claimed = done(store.claim(key, generation, &claim, now));
        timed(out, "claim_messages", claimed).await;
        timed(out, "delete_claim", within(store.claim_release(key, id, now))).await;
        if let Some(id) = ids.pop() {
            timed(out, "delete_messages", within(store.delete(key, id, None, now))).await;
        }
        let deleted = store.delete_many(key, &ids, &Deletable::Any, now);
        timed(out, "bulk_delete_messages", within(deleted)).await;
        timed(out, "delete_queue", done(store.close(key, generation.incarnation))).await;
    }
}

fn batch() -> Batch {
    let payload = Payload::plain(Bytes::from_static(b"\"health\""));
    let message = NewMessage { payload, ttl: TTL, delay: 0 };
    Batch {
        request: rand::random(),
        client: ClientId::new("health"),
        messages: vec![message; MESSAGES],
        notify: false,
    }
}

/// The answer of a store, or an error after the timeout.
async fn within<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    let late = || StoreError::unavailable(format!("no answer in {} s", TIMEOUT.as_secs()));
    let answer = tokio::time::timeout(TIMEOUT, answer).await;
    Ok(answer.unwrap_or_else(|_| Err(late()))?)
}

/// The answer of a store that must find the queue as the test created it.
async fn done<T>(answer: impl Future<Output = Result<Guarded<T>, StoreError>>) -> Result<T, Error> {
    match within(answer).await? {
        Guarded::Done(answer) => Ok(answer),
        Guarded::Absent | Guarded::Stale(_) => {
            Err(StoreError::failed("the test queue was changed meanwhile").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use serde_json::json;
    use zaqar_core::pools::PoolStores;
    use zaqar_core::storage::Messages;
    use zaqar_storage_testkit::Memory;

    use super::*;
    use crate::tests::caller;
    use crate::{Api, Options};

    /// One pool that serves, one that does not, and one that was never open.
    struct ThreePools([Arc<Memory>; 2]);

    #[async_trait]
    impl PoolStores for ThreePools {
        async fn current(&self) -> Vec<PoolStatus> {
            self.statuses()
        }

        fn statuses(&self) -> Vec<PoolStatus> {
            let status =
                |name: &str, store: Option<&Arc<Memory>>, problem: Option<&str>| PoolStatus {
                    name: PoolName::new(name).unwrap(),
                    store: store.map(|store| Arc::clone(store) as _),
                    problem: problem.map(str::to_owned),
                };
            let [serves, away] = &self.0;
            vec![
                status("away", Some(away), None),
                status("closed", None, Some("nothing is there")),
                status("serves", Some(serves), None),
            ]
        }
    }

    #[tokio::test]
    async fn the_self_test_reports_each_pool_and_leaves_nothing() {
        let (store, pools) =
            (Arc::new(Memory::new()), [Memory::new(), Memory::new()].map(Arc::new));
        pools[1].set_away(true);
        let pool_stores: Option<Arc<dyn PoolStores>> = Some(Arc::new(ThreePools(pools.clone())));
        let api = Api::new(store.clone(), store, Options { pool_stores, ..Options::default() });
        let health = api.health(&caller()).await.unwrap();
        let document = health.document();
        assert_eq!(document["catalog_reachable"], false);
        let names: Vec<_> = document.as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(document["away"]["storage_reachable"], false);
        assert_eq!(document["closed"]["problems"], json!(["nothing is there"]));
        let operations = document["serves"]["operation_status"].as_object().unwrap();
        assert_eq!(operations.len(), 8);
        assert!(operations.values().all(|status| status["succeeded"] == true), "{operations:?}");
        assert_eq!(document["serves"]["message_volume"]["total"], 0);
        assert_eq!(pools[0].volume().await.unwrap().unwrap(), Default::default());
    }
}
