//! Rows of the catalogue for queues that were deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use zaqar_core::pools::{Pools, QueueMoveState, QueueMoves};
use zaqar_core::storage::{Error, Guarded, Heads, QueueRow, Queues};
use zaqar_core::{
    Generation, Incarnation, Kind, Metadata, QueueKey, QueueName, Timestamp, Version,
};
use zaqar_pooling::{Options, Pooled};

use crate::support::{Deployment, catalogue, flavor, pool_name, project, queue};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// After the lease of every move has expired.
const LATER: Timestamp = NOW.plus_secs(31);
/// After the copy that a moved queue leaves is discarded.
const LAST: Timestamp = LATER.plus_secs(120);

const fn generation(incarnation: u64) -> Generation {
    Generation { incarnation: Incarnation::new(incarnation), version: Version::new(1) }
}

/// A queue in pool `a`, which takes new ones, and pool `b`, which takes none.
async fn scene() -> (Deployment, Arc<Pooled>, QueueKey) {
    let deployment = Deployment::with_pools(&[("memory:a", 1), ("memory:b", 0)]).await;
    let options = Options { move_wait: Duration::from_millis(20), ..Options::default() };
    let (server, key) = (deployment.server_with(options).await, queue("q"));
    server.open(&key, generation(1), NOW).await.unwrap();
    (deployment, server, key)
}

/// The pools whose stores have a head of the queue.
async fn heads(deployment: &Deployment, key: &QueueKey) -> String {
    let mut found = String::new();
    for pool in ["a", "b"] {
        let store = deployment.places.memory(&format!("memory:{pool}"));
        if !matches!(store.generation(key).await, Ok(None)) {
            found += pool;
        }
    }
    found
}

async fn moved_to_b(server: &Pooled, key: &QueueKey) {
    let b = pool_name("b");
    server.move_queue(key, &b, NOW).await.unwrap();
    let is_there = async {
        while server.drain(&b).await.unwrap().moves[0].state != QueueMoveState::Moved {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_there).await.unwrap();
}

#[tokio::test]
async fn a_queue_that_is_deleted_after_its_move_leaves_no_row() {
    let (deployment, server, key) = scene().await;
    moved_to_b(&server, &key).await;
    assert_eq!(heads(&deployment, &key).await, "ab", "the old copy redirects");
    assert_eq!(server.close(&key, generation(1).incarnation).await.unwrap(), Guarded::Done(()));
    assert_eq!(
        (deployment.catalogue_rows().await, heads(&deployment, &key).await.as_str()),
        (0, "")
    );
    // It is a new queue from now on, for other servers too.
    server.open(&key, generation(2), NOW).await.unwrap();
    assert_eq!(heads(&deployment, &key).await, "a");
    deployment.registry().delete_pool(&pool_name("b")).await.unwrap();
    server.refresh().await;
    server.resume_moves(LAST).await.unwrap();
    let found = deployment.server().await.generation(&key).await.unwrap();
    assert_eq!((found, deployment.catalogue_rows().await), (Some(generation(2)), 1));
}

#[tokio::test]
async fn a_queue_whose_old_copy_cannot_be_discarded_leaves_no_row_in_the_end() {
    let (deployment, server, key) = scene().await;
    moved_to_b(&server, &key).await;
    deployment.places.memory("memory:a").set_away(true);
    server.close(&key, generation(1).incarnation).await.unwrap();
    assert_eq!(deployment.catalogue_rows().await, 1, "it says what is still to be discarded");
    deployment.places.memory("memory:a").set_away(false);
    server.resume_moves(LAST).await.unwrap();
    assert_eq!(
        (deployment.catalogue_rows().await, heads(&deployment, &key).await.as_str()),
        (0, "")
    );
}

/// Wherever its server dies, a move of a queue that is deleted then leaves nothing.
#[tokio::test]
async fn a_queue_that_is_deleted_while_it_moves_leaves_no_row() {
    for calls in 0.. {
        let (deployment, server, key) = scene().await;
        let calls_left = Arc::new(AtomicI64::new(i64::MAX));
        let dying = deployment.dying_server(calls_left.clone()).await;
        calls_left.store(calls, Ordering::Release);
        let b = pool_name("b");
        let began = dying.move_queue(&key, &b, NOW).await.is_ok();
        let has_ended = async {
            while began && calls_left.load(Ordering::Acquire) > 0 {
                if server.drain(&b).await.unwrap().moves[0].state == QueueMoveState::Moved {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), has_ended).await.unwrap();
        let is_whole = calls_left.load(Ordering::Acquire) > 0;
        let close = || server.close(&key, generation(1).incarnation);
        if let Err(error) = close().await {
            // It is frozen until another server goes on.
            assert!(matches!(error, Error::Overloaded { .. }), "{error:?}");
            server.resume_moves(LATER).await.unwrap();
            close().await.unwrap();
        }
        for now in [LATER, LAST, LAST.plus_secs(61)] {
            server.resume_moves(now).await.unwrap();
        }
        let left = (deployment.catalogue_rows().await, heads(&deployment, &key).await);
        assert_eq!(left, (0, String::new()), "{calls} calls");
        if is_whole {
            break;
        }
    }
}

/// A row that an earlier release left.
async fn leave_row(deployment: &Deployment, pool: &str) {
    let object = json!({ "pool": pool, "project": "p" }).as_object().unwrap().clone();
    let row = QueueRow { generation: generation(9), metadata: Metadata::new(object) };
    let name = QueueName::new("q").unwrap();
    let key = QueueKey { project: catalogue(), kind: Kind::Internal, name };
    assert!(deployment.management.create(&key, &row).await.unwrap().is_none());
}

#[tokio::test]
async fn a_row_that_was_left_places_no_new_queue() {
    for pool in ["b", "gone"] {
        let uris = [("memory:a", 1), ("memory:b", 0), ("memory:c", 1)];
        let deployment = Deployment::with_pools(&uris).await;
        let (registry, key) = (Arc::new(deployment.registry()), queue("q"));
        let server = Pooled::new(Arc::clone(&registry), Options::default());
        server.refresh().await;
        let gold = flavor("gold");
        registry.put_flavor(&project("p"), &gold, &[pool_name("c")]).await.unwrap();
        leave_row(&deployment, pool).await;
        assert_eq!(server.generation(&key).await.unwrap(), None, "{pool}");
        server.open(&key, generation(1), NOW).await.unwrap();
        assert_eq!(heads(&deployment, &key).await, "a", "{pool}");
        server.close(&key, generation(1).incarnation).await.unwrap();
        assert_eq!(deployment.catalogue_rows().await, 0);
        // Nor does it stand before a flavor.
        leave_row(&deployment, pool).await;
        registry.place(&key, Some(&gold)).await.unwrap();
        server.open(&key, generation(1), NOW).await.unwrap();
        let there = deployment.places.memory("memory:c").generation(&key).await.unwrap();
        assert_eq!((there, heads(&deployment, &key).await.as_str()), (Some(generation(1)), ""));
    }
}

#[tokio::test]
async fn a_queue_in_a_pool_that_was_removed_keeps_its_row() {
    let (deployment, server, key) = scene().await;
    let row = QueueRow { generation: generation(1), metadata: Metadata::default() };
    deployment.management.create(&key, &row).await.unwrap();
    let a = deployment.registry().pool(&pool_name("a")).await.unwrap();
    deployment.registry().delete_pool(&a.name).await.unwrap();
    server.refresh().await;
    for server in [&server, &deployment.server().await] {
        let found = server.generation(&key).await;
        assert!(matches!(found, Err(Error::Unavailable { .. })), "{found:?}");
        let opened = server.open(&key, generation(2), NOW).await;
        assert!(matches!(opened, Err(Error::Unavailable { .. })), "{opened:?}");
    }
    deployment.registry().put_pool(a).await.unwrap();
    server.refresh().await;
    assert_eq!(server.generation(&key).await.unwrap(), Some(generation(1)));
}
