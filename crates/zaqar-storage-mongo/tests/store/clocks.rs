//! Clock skew between a server and the database: above the bound operations do nothing, and sweeps
//! use the database's clock.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use zaqar_core::storage::{
    Claims, Deletable, Error, Heads, LeaseRequest, Leases, Messages, Outbox, Subscriptions, Upkeep,
};
use zaqar_core::{ClaimId, Clock, SystemClock, Timestamp};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{Scene, batch, done, new_message, subscription};
use crate::support::server;

const DAY: u64 = 86_400;

async fn open(name: &str) -> Mongo {
    let bound = Some(Duration::from_secs(30));
    Mongo::open(Options { max_clock_skew: bound, ..server::options(name) }).await.unwrap()
}

fn earlier(time: Timestamp, secs: u64) -> Timestamp {
    Timestamp::from_millis(time.as_millis() - 1000 * secs)
}

/// The error of every operation that depends on time.
async fn errors_at(
    store: &Mongo,
    scene: &Scene,
    now: Timestamp,
) -> Vec<(&'static str, Option<Error>)> {
    let (key, generation, ids) = (&scene.key, scene.generation, &scene.ids);
    let at = Scene { now, ..scene.clone() };
    let until = now.plus_secs(60);
    let lease = LeaseRequest { until, limit: 1, bytes: 1 };
    vec![
        ("post", store.post(key, generation, batch(&["x"]), now).await.err()),
        ("list", at.list(store).await.err()),
        ("get", Messages::get(store, key, ids, now).await.err()),
        ("delete", store.delete(key, ids[1], None, now).await.err()),
        ("delete many", store.delete_many(key, ids, &Deletable::Any, now).await.err()),
        ("pop", at.pop(store, 10).await.err()),
        ("purge", store.purge(key, now).await.err()),
        ("stats", store.stats(key, now).await.err()),
        ("claim", at.take(store, ClaimId::new(rand::random()), 5).await.err()),
        ("claim get", store.claim_get(key, at.claim, now).await.err()),
        ("renew", store.claim_renew(key, at.claim, 60, 60, now).await.err()),
        ("release", store.claim_release(key, at.claim, now).await.err()),
        ("subscribe", store.subscribe(key, generation, &subscription(9), now).await.err()),
        ("subscriptions", store.subscriptions(key, None, 9, now).await.err()),
        ("unsubscribe", store.unsubscribe(key, subscription(1).id, now).await.err()),
        ("unsubscribe all", store.unsubscribe_all(key, now).await.err()),
        ("due queues", store.due_queues(9, now).await.err()),
        ("lease", Outbox::lease(store, key, &lease, now).await.err()),
        ("keep lease", store.keep_lease(at.lease, until, now).await.err()),
        ("sweep", store.sweep(now, 100).await.err()),
    ]
}

#[test]
fn a_server_whose_clock_is_wrong_does_nothing_and_recovers() {
    block_on(async {
        let name = server::name();
        let store = open(&name).await;
        let scene = Scene::new(&store).await;
        for (now, ahead) in [
            (scene.now.plus_secs(DAY), 86_400_000),
            (scene.now.plus_secs(60), 60_000),
            (earlier(scene.now, 3600), -3_600_000),
        ] {
            for (operation, error) in errors_at(&store, &scene, now).await {
                let Some(Error::ClockSkew { offset_ms, bound_ms: 30_000 }) = error else {
                    panic!("{operation}: {error:?}");
                };
                // The scene is some seconds old, more on a slow machine.
                assert!((offset_ms - ahead).abs() < 29_000, "{operation}: {offset_ms}");
            }
        }
        let now = SystemClock.now();
        let right = Scene { now, ..scene.clone() };
        assert_eq!(right.list(&store).await.unwrap().len(), 4, "nothing was deleted");
        let posted = store.post(&scene.key, scene.generation, batch(&["x"]), now).await.unwrap();
        let shown = store.get(&scene.key, &done(posted), now).await.unwrap();
        assert!(shown[0].created < now.plus_secs(30), "no wrong time was stored");
        server::database(&name).await.drop().await.unwrap();
    });
}

#[test]
fn a_sweep_deletes_by_the_databases_clock() {
    block_on(async {
        let name = server::name();
        let store = open(&name).await;
        let scene = Scene::new(&store).await;
        let now = SystemClock.now();
        let mut short = batch(&[]);
        short.messages = vec![new_message("short")];
        short.messages[0].ttl = 3600;
        done(store.post(&scene.key, scene.generation, short, now).await.unwrap());
        let messages = server::database(&name).await.collection::<Document>("queue_messages");
        // 15 s are left by the database's clock; the sweeping server is 25 s ahead.
        let ends = mongodb::bson::DateTime::from_millis(now.as_millis().cast_signed() + 15_000);
        let all = doc! { "$set": { "x": ends } };
        messages.update_many(doc! {}, all).await.unwrap();
        let before = messages.count_documents(doc! {}).await.unwrap();
        store.sweep(SystemClock.now().plus_secs(25), 100).await.unwrap();
        let is_early = SystemClock.now() < now.plus_secs(14);
        let after = messages.count_documents(doc! {}).await.unwrap();
        assert!(after == before || !is_early, "{before} {after}");
        server::database(&name).await.drop().await.unwrap();
    });
}

#[test]
fn a_latest_time_far_ahead_is_reset() {
    block_on(async {
        let name = server::name();
        let store = open(&name).await;
        let scene = Scene::new(&store).await;
        let heads = server::database(&name).await.collection::<Document>("queue_heads");
        let ahead = scene.now.plus_secs(DAY).as_millis().cast_signed();
        heads.update_many(doc! {}, doc! { "$set": { "at": ahead } }).await.unwrap();
        assert_eq!(scene.list(&store).await.unwrap().len(), 4, "nothing has expired");
        let posted =
            store.post(&scene.key, scene.generation, batch(&["x"]), scene.now).await.unwrap();
        let shown = store.get(&scene.key, &done(posted), scene.now).await.unwrap();
        assert_eq!(shown[0].created, scene.now);
        // A post resets it as well.
        heads.update_many(doc! {}, doc! { "$set": { "at": ahead } }).await.unwrap();
        let posted =
            store.post(&scene.key, scene.generation, batch(&["y"]), scene.now).await.unwrap();
        let shown = store.get(&scene.key, &done(posted), scene.now).await.unwrap();
        assert_eq!(shown[0].created, scene.now);
        assert!(Heads::generation(&store, &scene.key).await.unwrap().is_some());
        server::database(&name).await.drop().await.unwrap();
    });
}
