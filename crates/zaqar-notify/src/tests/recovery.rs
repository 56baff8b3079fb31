//! Recoveries: all failed messages are redelivered page by page, with progress, even if a server
//! dies.

use zaqar_core::delivery::{BeginRecovery, Recovery, RecoveryRange, RecoveryState};

use super::*;

impl Scene {
    async fn fail(&mut self, options: Value, bodies: std::ops::Range<usize>) -> SubscriptionId {
        let id = self.subscribe("http://a/", options).await;
        self.answer(&vec![400; bodies.len()]);
        for body in bodies {
            self.post(&body.to_string(), 36_000, 0).await;
        }
        self.step().await;
        self.sent();
        id
    }

    async fn recover(&self, id: SubscriptionId, range: RecoveryRange) -> Recovery {
        match self.workers.handle().recover(&self.key, id, range).await.unwrap() {
            BeginRecovery::Begun(recovery) => recovery,
            other => panic!("{other:?}"),
        }
    }

    async fn progress(&self, id: SubscriptionId, of: &Recovery) -> (RecoveryState, u64, u64) {
        let found = self.workers.handle().recovery(&self.key, id, of.id).await.unwrap().unwrap();
        (found.state, found.total, found.remaining)
    }

    fn sorted(&self) -> Vec<usize> {
        let mut bodies: Vec<_> = self.bodies().iter().map(|body| body.parse().unwrap()).collect();
        bodies.sort_unstable();
        bodies
    }
}

#[tokio::test]
async fn all_that_failed_is_delivered_page_by_page() {
    use RecoveryState::{Done, Running};
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({"max_in_flight": 1}), 0..50).await;
    let recovery = scene.recover(id, RecoveryRange::default()).await;
    assert_eq!(scene.progress(id, &recovery).await, (Running, 50, 50));
    let again = scene.workers.handle().recover(&scene.key, id, RecoveryRange::default()).await;
    assert_eq!(again.unwrap(), BeginRecovery::Runs(recovery.id));
    scene.step().await;
    assert_eq!(scene.sorted(), (0..20).collect::<Vec<_>>());
    assert_eq!(scene.progress(id, &recovery).await, (Running, 50, 30));
    scene.pass(1).await;
    // Another server continues where this one stopped.
    scene.other_server();
    for _ in 0..40 {
        scene.pass(1).await;
    }
    assert_eq!(scene.sorted(), (20..50).collect::<Vec<_>>());
    assert_eq!(scene.progress(id, &recovery).await, (Done, 50, 0));
    assert!(scene.known(id).await.iter().all(|(_, state, _)| *state == DeliveryState::Delivered));
    let key = scene.subscription(id);
    assert_eq!(scene.count(&key.deliveries().unwrap()).await, 0, "its row has ended");
    // A finished recovery cannot be cancelled.
    let handle = scene.workers.handle();
    assert!(handle.cancel_recovery(&scene.key, id, recovery.id).await.unwrap());
    assert_eq!(scene.progress(id, &recovery).await, (Done, 50, 0));
    // The next one finds nothing, and is done at once.
    let next = scene.recover(id, RecoveryRange::default()).await;
    assert_eq!((next.state, next.total), (Done, 0));
    let old = scene.workers.handle().recovery(&scene.key, id, recovery.id).await.unwrap();
    assert_eq!(old, None);
}

#[tokio::test]
async fn what_fails_again_is_not_taken_again() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({}), 0..5).await;
    let recovery = scene.recover(id, RecoveryRange::default()).await;
    scene.answer(&[400; 5]);
    for _ in 0..40 {
        scene.pass(1).await;
    }
    assert_eq!(scene.sorted(), [0, 1, 2, 3, 4]);
    assert_eq!(scene.progress(id, &recovery).await, (RecoveryState::Done, 5, 0));
    let next = scene.recover(id, RecoveryRange::default()).await;
    assert_eq!(next.total, 5);
}

#[tokio::test]
async fn a_range_takes_what_was_posted_in_it() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({}), 0..1).await;
    for body in 1..4 {
        scene.clock.advance(Duration::from_secs(10));
        scene.answer(&[400]);
        scene.post(&body.to_string(), 36_000, 0).await;
        scene.step().await;
    }
    scene.sent();
    let (since, until) = (Some(START.plus_secs(10)), Some(START.plus_secs(30)));
    let recovery = scene.recover(id, RecoveryRange { since, until }).await;
    assert_eq!(recovery.total, 2);
    scene.step().await;
    assert_eq!(scene.sorted(), [1, 2]);
}

#[tokio::test]
async fn a_cancelled_recovery_takes_no_more() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({"max_in_flight": 1}), 0..30).await;
    let recovery = scene.recover(id, RecoveryRange::default()).await;
    scene.step().await;
    let handle = scene.workers.handle();
    assert!(handle.cancel_recovery(&scene.key, id, recovery.id).await.unwrap());
    assert!(handle.cancel_recovery(&scene.key, id, recovery.id).await.unwrap(), "once more");
    for _ in 0..40 {
        scene.pass(1).await;
    }
    assert_eq!(scene.sorted(), (0..20).collect::<Vec<_>>());
    assert_eq!(scene.progress(id, &recovery).await, (RecoveryState::Cancelled, 30, 10));
    let next = scene.recover(id, RecoveryRange::default()).await;
    assert_eq!(next.total, 10);
    assert!(!handle.cancel_recovery(&scene.key, id, recovery.id).await.unwrap(), "another one's");
}

#[tokio::test]
async fn a_suspended_subscriber_is_recovered_once_it_is_resumed() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({}), 0..2).await;
    scene.answer(&[410]);
    scene.post("2", 36_000, 0).await;
    scene.step().await;
    scene.sent();
    let recovery = scene.recover(id, RecoveryRange::default()).await;
    scene.pass(5).await;
    assert_eq!(scene.progress(id, &recovery).await, (RecoveryState::Running, 3, 3));
    scene.workers.handle().resume(&scene.key, id).await.unwrap();
    for _ in 0..40 {
        scene.pass(1).await;
    }
    assert_eq!(scene.sorted(), [0, 1, 2]);
}

#[tokio::test]
async fn a_recovery_holds_up_no_ordered_subscriber() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({"ordered": true}), 0..50).await;
    let recovery = scene.recover(id, RecoveryRange::default()).await;
    scene.step().await;
    // Its first page is delivered while it pauses before the second one, and so is a new message.
    assert_eq!(scene.sorted(), (0..20).collect::<Vec<_>>());
    scene.post("50", 36_000, 0).await;
    scene.step().await;
    assert_eq!(scene.sorted(), [50]);
    for _ in 0..40 {
        scene.pass(1).await;
    }
    assert_eq!(scene.sorted(), (20..50).collect::<Vec<_>>());
    assert_eq!(scene.progress(id, &recovery).await, (RecoveryState::Done, 50, 0));
}

#[tokio::test]
async fn of_two_recoveries_at_once_one_begins() {
    let mut scene = Scene::new().await;
    let id = scene.fail(json!({}), 0..3).await;
    let key = scene.subscription(id);
    let handle = scene.workers.handle();
    let context = handle.context();
    let now = scene.clock.now();
    let record = |bits| crate::recovery::Record {
        id: zaqar_core::delivery::RecoveryId::new(bits),
        state: RecoveryState::Done,
        range: RecoveryRange::default(),
        last: None,
        total: 0,
        started: now,
    };
    let mut before = None;
    for round in 0..3 {
        // Both have read the previous record.
        let (one, other) = (record(2 * round + 1), record(2 * round + 2));
        assert!(crate::recovery::write(context, &key, &one, before, now).await.unwrap());
        assert!(!crate::recovery::write(context, &key, &other, before, now).await.unwrap());
        let found = crate::recovery::read(context, &key, now).await.unwrap().unwrap();
        assert_eq!(found.id, one.id);
        before = Some(one.id);
    }
}
