//! Messages of internal queues that cannot be decoded, on a store that then fails: what was claimed
//! with them is handed out.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::row::{self, Ticket, WaitingEvent};

/// Calls before the deletion of an unreadable message: the generation, and the claim.
const CALLS: i64 = 2;

impl Scene {
    /// Posts a message that nothing decodes to an internal queue.
    async fn post_unreadable(&self, key: &QueueKey) {
        let generation = self.store.generation(key).await.unwrap().unwrap();
        let payload = Payload::plain(Bytes::from_static(b"unreadable"));
        let batch = Batch {
            request: 77,
            client: ClientId::new("test"),
            messages: vec![NewMessage { payload, ttl: 3600, delay: 0 }],
            notify: false,
        };
        let posted = self.store.post(key, generation, batch, self.clock.now()).await.unwrap();
        assert!(matches!(posted, Guarded::Done(_)), "{posted:?}");
    }

    /// The deliveries of a server whose store fails after [`CALLS`].
    fn failing(&self) -> Deliveries {
        Deliveries::new(Arc::new(self.store.connect_for(Arc::new(AtomicI64::new(CALLS)))) as _)
    }
}

#[tokio::test]
async fn rows_are_taken_although_an_unreadable_one_cannot_be_deleted() {
    let mut scene = Scene::new().await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 2, "minimum_delay": 5,
        "maximum_delay": 5, "maximum_delay_retries": 0, "retry_backoff_function": "linear"});
    let id = scene.subscribe("http://a/", json!({"_retry_policy": policy})).await;
    scene.answer(&[500]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    let subscription = scene.subscription(id);
    scene.post_unreadable(&subscription.deliveries().unwrap()).await;
    for take in [Take::Each(2), Take::Together(2)] {
        scene.clock.advance(Duration::from_secs(2 * ROW_LEASE));
        let taken = scene.failing().take(&subscription, take, scene.clock.now()).await;
        let Ok(Taken::Rows(rows)) = taken else { panic!("{take:?}: {taken:?}") };
        assert_eq!(rows.iter().map(|(_, held)| held.len()).sum::<usize>(), 1, "{take:?}");
    }
}

#[tokio::test]
async fn tickets_and_events_are_taken_although_an_unreadable_one_cannot_be_deleted() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let (subscription, now) = (scene.subscription(id), scene.clock.now());
    let own = Deliveries::new(Arc::clone(&scene.store) as _);
    let shard = subscription.shard();
    own.schedule(&[Ticket { subscription, keeps: false }], now, now).await.unwrap();
    scene.post_unreadable(&schedule(shard).unwrap()).await;
    let tickets = scene.failing().take_tickets(shard, 9, now).await.unwrap();
    assert_eq!(tickets.len(), 1);
    let (project, queue) = (scene.key.project.clone(), scene.key.name.clone());
    own.add_event(&WaitingEvent { project, queue, body: json!({}) }, now).await.unwrap();
    scene.post_unreadable(&row::events().unwrap()).await;
    let (_, events) = scene.failing().take_events(9, now).await.unwrap();
    assert_eq!(events.len(), 1);
}
