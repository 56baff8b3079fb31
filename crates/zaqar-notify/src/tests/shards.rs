//! A shard of the schedule that fails delays no other. Time is Tokio's, which is paused.

use tokio::time::Instant;
use zaqar_core::ClaimId;
use zaqar_core::storage::{ClaimRequest, Claims};

use super::*;

impl Scene {
    /// Subscribes under an id of this shard.
    async fn subscribe_in(&mut self, shard: usize, subscriber: &str) -> SubscriptionId {
        let now = u128::from(self.clock.now().as_millis()) << 80;
        let is_in =
            |made: &u128| self.subscription(SubscriptionId::new(now | (made + 1))).shard() == shard;
        self.made = (self.made..1000).find(is_in).expect("each shard has ids");
        self.subscribe(subscriber, json!({})).await
    }

    fn fail_shard(&self, shard: usize) {
        self.store.set_failing(&schedule(shard).unwrap(), true);
    }

    /// What is not held of a shard at the moment.
    async fn free_tickets(&self, shard: usize) -> usize {
        let key = schedule(shard).unwrap();
        let generation = self.store.generation(&key).await.unwrap().unwrap();
        let id = ClaimId::new(rand::random());
        let request = ClaimRequest::new(id, 60, 100);
        let now = self.clock.now();
        self.store.claim(&key, generation, &request, now).await.unwrap();
        self.store.claim_release(&key, id, now).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn failing_shards_delay_no_deliveries_of_others() {
    let mut scene = Scene::new().await;
    scene.subscribe_in(5, "http://a/").await;
    (0..SHARDS).filter(|shard| *shard != 5).for_each(|shard| scene.fail_shard(shard));
    let running = scene.run();
    for at in 0..10 {
        tokio::time::sleep(Duration::from_millis(1700)).await;
        let posted = Instant::now();
        scene.post(&at.to_string(), 3600, 0).await;
        scene.wait_for(1).await;
        let took = posted.elapsed();
        assert!(took < Duration::from_millis(500), "message {at} took {took:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_shard_keeps_no_subscriber_of_another_waiting_for_its_ticket() {
    let mut scene = Scene::new().await;
    scene.subscribe_in(2, "http://failing/").await;
    scene.subscribe_in(5, "http://a/").await;
    scene.post("1", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.sent().len(), 2);
    scene.fail_shard(2);
    scene.post("2", 3600, 0).await;
    let running = scene.run();
    scene.wait_for(1).await;
    running.stop().await;
}

/// The tickets of two subscriptions are held for a request that is never answered.
#[tokio::test(start_paused = true)]
async fn a_failing_shard_keeps_no_tickets_of_others_from_being_renewed() {
    // Whichever shard a renewal would begin with.
    for (failing, healthy) in [(2, 5), (5, 2)] {
        let mut scene = Scene::new().await;
        scene.subscribe_in(failing, "http://dead/1").await;
        scene.subscribe_in(healthy, "http://dead/2").await;
        scene.post("1", 3600, 0).await;
        let running = scene.run();
        scene.wait_for(2).await;
        assert_eq!(scene.free_tickets(healthy).await, 0);
        scene.fail_shard(failing);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            scene.clock.advance(Duration::from_secs(1));
            assert_eq!(scene.free_tickets(healthy).await, 0, "the claim lasts");
        }
        running.task.abort();
    }
}

/// At its end a server releases tickets, of those shards that do not fail.
#[tokio::test(start_paused = true)]
async fn failing_shards_keep_no_tickets_of_others_from_being_released() {
    for healthy in [2, 5] {
        let mut scene = Scene::new().await;
        for shard in 0..SHARDS {
            scene.subscribe_in(shard, &format!("http://dead/{shard}")).await;
        }
        scene.post("1", 3600, 0).await;
        let running = scene.run();
        scene.wait_for(SHARDS).await;
        (0..SHARDS).filter(|shard| *shard != healthy).for_each(|shard| scene.fail_shard(shard));
        running.stop().await;
        assert_eq!(scene.free_tickets(healthy).await, 1);
    }
}

/// Tickets that are being taken count too, as all shards are polled at once.
#[tokio::test]
async fn shards_share_the_bound_on_subscriptions_in_service() {
    let options = Options { subscriptions: 40, ..Options::default() };
    let scene = Scene::with(options.clone()).await;
    let Scene { store, clock, script, posted, .. } = &scene;
    let workers = workers(store, clock, script, posted, options);
    let dispatcher = workers.handle().dispatcher();
    let taken =
        |shard| dispatcher.reserve(shard, START).map(|reserved| (reserved.tickets, reserved));
    let (first, held) = taken(0).unwrap();
    let (second, rest) = taken(1).unwrap();
    assert_eq!((first, second), (32, 8));
    assert!(taken(2).is_none());
    drop((held, rest));
    assert_eq!(taken(2).unwrap().0, 32);
}
