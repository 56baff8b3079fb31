//! Leases with concurrent processes.

use futures_util::future::{join, join_all};
use zaqar_core::storage::{
    Guarded, Heads, Leases, NewSubscription, Renewal, Subscribed, Subscriptions, Upkeep,
};
use zaqar_core::{
    Clock, Generation, Incarnation, Kind, LeaseId, ProjectId, QueueKey, QueueName, SubscriptionId,
    SystemClock, Timestamp, Version,
};
use zaqar_storage_mongo::Mongo;
use zaqar_storage_testkit::block_on;

use crate::support::server;

fn queue() -> (QueueKey, Generation) {
    let key = QueueKey {
        project: ProjectId::new("p").unwrap(),
        kind: Kind::Queue,
        name: QueueName::new("q").unwrap(),
    };
    (key, Generation { incarnation: Incarnation::new(7), version: Version::new(1) })
}

async fn subscribe(store: &Mongo, number: u128, lease: LeaseId, now: Timestamp) {
    let (key, generation) = queue();
    let subscription = NewSubscription {
        id: SubscriptionId::new(number),
        subscriber: format!("websocket:{number}"),
        ttl: 3600,
        options: "{}".to_owned(),
        confirmed: true,
        lease: Some(lease),
    };
    let made = store.subscribe(&key, generation, &subscription, now).await.unwrap();
    assert!(matches!(made, Guarded::Done(Subscribed::Created { .. })), "{made:?}");
}

#[test]
fn concurrent_renewals_of_a_new_lease_create_it_once_and_none_sees_it_expired() {
    block_on(async {
        let name = server::name();
        let stores = [server::open(&name).await, server::open(&name).await];
        let now = SystemClock.now();
        for number in 0..10 {
            let keep = |n: usize| {
                let until = now.plus_secs(60 + n as u64);
                stores[n % 2].keep_lease(LeaseId::new(number), until, now)
            };
            let kept = join_all((0..8).map(keep)).await;
            let kept: Vec<_> = kept.into_iter().map(Result::unwrap).collect();
            let created = kept.iter().filter(|kept| **kept == Renewal::Created).count();
            assert_eq!(created, 1, "lease {number}: {kept:?}");
            assert!(!kept.contains(&Renewal::Expired), "lease {number}: {kept:?}");
        }
        server::database(&name).await.drop().await.unwrap();
    });
}

#[test]
fn subscriptions_that_are_added_to_a_lease_during_its_sweep_are_removed() {
    block_on(async {
        let name = server::name();
        let (server, sweeper) = (server::open(&name).await, server::open(&name).await);
        let now = SystemClock.now();
        let (key, generation) = queue();
        Heads::open(&server, &key, generation, now).await.unwrap();
        for number in 0..20 {
            let lease = LeaseId::new(number);
            if number % 2 == 0 {
                let kept = server.keep_lease(lease, now.plus_secs(60), now).await.unwrap();
                assert_eq!(kept, Renewal::Created);
                server.end_lease(lease, now).await.unwrap();
            }
            subscribe(&server, 100 * number, lease, now).await;
            let subscribing = async {
                for more in 1..4 {
                    subscribe(&server, 100 * number + more, lease, now).await;
                }
            };
            let sweeping = async {
                for _ in 0..4 {
                    sweeper.sweep(now, 100).await.unwrap();
                }
            };
            join(subscribing, sweeping).await;
        }
        zaqar_storage_testkit::sweep(&sweeper, now, 100).await;
        assert_eq!(sweeper.subscriptions(&key, None, 100, now).await.unwrap(), []);
        server::database(&name).await.drop().await.unwrap();
    });
}
