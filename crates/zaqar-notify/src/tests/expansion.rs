//! A failure while entries become rows repeats nothing. Time is Tokio's, which is paused.

use super::*;

impl Scene {
    /// Lets time pass, and notes how often each subscriber was sent to.
    async fn watch(&self, secs: u64, sent: &mut BTreeMap<String, usize>) {
        for _ in 0..secs {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.clock.advance(Duration::from_secs(1));
            for one in self.sent() {
                *sent.entry(one.subscriber).or_default() += 1;
            }
        }
    }
}

/// The subscriptions are three pages. Twice, what fails lasts longer than the lease of the entry.
#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_stored_repeat_none_of_the_others() {
    let mut scene = Scene::new().await;
    let mut ids = Vec::new();
    for number in 0..250 {
        ids.push(scene.subscribe(&format!("http://{number}/"), json!({})).await);
    }
    let failing = scene.subscription(ids[150]).deliveries().unwrap();
    scene.store.set_failing(&failing, true);
    scene.post("1", 3600, 0).await;
    let running = scene.run();
    let mut sent = BTreeMap::new();
    scene.watch(130, &mut sent).await;
    assert_eq!(sent.len(), 199, "those of the failing one's page are not kept waiting");
    scene.store.set_failing(&failing, false);
    scene.watch(70, &mut sent).await;
    assert_eq!(sent.len(), 250);
    assert!(sent.values().all(|times| *times == 1), "{sent:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn queues_whose_store_does_not_answer_delay_no_other() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    let own = scene.key.clone();
    for number in 0..40 {
        scene.key.name = QueueName::new(&format!("hanging-{number}")).unwrap();
        Heads::open(&*scene.store, &scene.key, GENERATION, START).await.unwrap();
        scene.subscribe("http://b/", json!({})).await;
        scene.post("0", 3600, 0).await;
        scene.store.set_hanging(&scene.key);
    }
    scene.key = own;
    let running = scene.run();
    for body in ["1", "2"] {
        tokio::time::sleep(Duration::from_secs(20)).await;
        scene.post(body, 3600, 0).await;
        scene.wait_for(1).await;
    }
    running.stop().await;
}
