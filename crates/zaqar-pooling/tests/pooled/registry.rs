//! Pools, flavors and the catalogue.

use std::collections::BTreeMap;

use serde_json::{Map, json};
use zaqar_core::Secret;
use zaqar_core::pools::{Capability, Error, Pool, PoolChange, Pools};
use zaqar_core::storage::Heads;
use zaqar_core::{Generation, Incarnation, Timestamp, Version};

use crate::support::{Deployment, flavor, pool, pool_name, project, queue};

#[tokio::test]
async fn pools_are_listed_by_name_and_changed() {
    let deployment = Deployment::with_pools(&[("memory:b", 1), ("memory:a", 2)]).await;
    let registry = deployment.registry();
    let names = |pools: Vec<Pool>| -> Vec<String> {
        pools.iter().map(|pool| pool.name.to_string()).collect()
    };
    assert_eq!(names(registry.pools(None, 10).await.unwrap()), ["a", "b"]);
    assert_eq!(names(registry.pools(Some("a"), 10).await.unwrap()), ["b"]);
    assert_eq!(names(registry.pools(None, 1).await.unwrap()), ["a"]);

    let options = json!({ "x": 1 }).as_object().unwrap().clone();
    let change =
        PoolChange { weight: Some(7), options: Some(options.clone()), ..Default::default() };
    let changed = registry.change_pool(&pool_name("a"), change).await.unwrap();
    assert_eq!((changed.weight, &changed.options), (7, &options));
    assert_eq!(registry.pool(&pool_name("a")).await.unwrap(), changed);
    let missing = registry.change_pool(&pool_name("z"), PoolChange::default()).await;
    assert!(matches!(missing, Err(Error::PoolNotFound { .. })), "{missing:?}");
    registry.delete_pool(&pool_name("a")).await.unwrap();
    registry.delete_pool(&pool_name("a")).await.unwrap();
    assert_eq!(names(registry.pools(None, 10).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_pool_that_cannot_be_reached_is_not_registered() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let registry = deployment.registry();
    let refused = registry.put_pool(pool("b", "redis://:secret@nowhere", 1)).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot connect to redis://:***@nowhere: nothing is there",
        "without the password"
    );
    let change = PoolChange { uri: Some(Secret::new("nowhere:".into())), ..Default::default() };
    let refused = registry.change_pool(&pool_name("a"), change).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    assert_eq!(registry.pools(None, 10).await.unwrap(), [pool("a", "memory:a", 1)]);
}

/// Its messages would be counted twice, and a drain would move its queues to itself.
#[tokio::test]
async fn the_configured_message_store_cannot_be_a_pool() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let registry = deployment.registry();
    let refused = registry.put_pool(pool("b", "memory:configured", 1)).await;
    assert!(matches!(refused, Err(Error::UriOfMessageStore)), "{refused:?}");
    let uri = Some(Secret::new("memory:configured".into()));
    let change = PoolChange { uri, ..Default::default() };
    let refused = registry.change_pool(&pool_name("a"), change).await;
    assert!(matches!(refused, Err(Error::UriOfMessageStore)), "{refused:?}");
    assert_eq!(registry.pools(None, 10).await.unwrap(), [pool("a", "memory:a", 1)]);
}

#[tokio::test]
async fn a_store_can_be_registered_as_one_pool_only() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let refused = deployment.registry().put_pool(pool("b", "memory:A", 1)).await;
    assert!(matches!(refused, Err(Error::UriInUse)), "{refused:?}");
    // Many servers at once, each with another name.
    let racing = (0..16).map(|n| {
        let registry = deployment.registry();
        tokio::spawn(
            async move { registry.put_pool(pool(&format!("r{n}"), "memory:race", 1)).await },
        )
    });
    let racing: Vec<_> = racing.collect();
    let mut registered = 0;
    for one in racing {
        match one.await.unwrap() {
            Ok(()) => registered += 1,
            Err(Error::UriInUse | Error::Contended) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(registered, 1);
    assert_eq!(deployment.registry().pools(None, 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn pools_of_one_uri_are_told_apart_by_their_options() {
    let registry = Deployment::new().registry();
    let of = |name: &str, uri: &str, database: &str| {
        let options = Map::from_iter([("database".to_owned(), database.into())]);
        Pool { options, ..pool(name, uri, 1) }
    };
    registry.put_pool(of("a", "memory:a", "x")).await.unwrap();
    registry.put_pool(of("b", "memory:a", "y")).await.unwrap();
    let refused = registry.put_pool(of("c", "memory:a", "y")).await;
    assert!(matches!(refused, Err(Error::UriInUse)), "{refused:?}");
    let options = |pool: Pool| PoolChange { options: Some(pool.options), ..Default::default() };
    let change = options(of("b", "memory:a", "x"));
    let refused = registry.change_pool(&pool_name("b"), change).await;
    assert!(matches!(refused, Err(Error::UriInUse)), "{refused:?}");
    // Nor does a change of options lead to the configured message store.
    registry.put_pool(of("c", "memory:configured", "x")).await.unwrap();
    let refused = registry.change_pool(&pool_name("c"), options(pool("c", "", 1))).await;
    assert!(matches!(refused, Err(Error::UriOfMessageStore)), "{refused:?}");
}

#[tokio::test]
async fn a_masked_uri_in_a_change_keeps_the_stored_uri() {
    let registry = Deployment::new().registry();
    registry.put_pool(pool("a", "memory://u:secret@a", 1)).await.unwrap();
    let name = pool_name("a");
    let uri = Some(Secret::new("memory://u:***@a".to_owned()));
    let change = PoolChange { uri, weight: Some(2), ..Default::default() };
    let changed = registry.change_pool(&name, change).await.unwrap();
    assert_eq!((changed.uri.expose().as_str(), changed.weight), ("memory://u:secret@a", 2));
}

#[tokio::test]
async fn flavors_belong_to_projects_and_pools_to_flavors() {
    let deployment = Deployment::with_pools(&[("memory:a", 1), ("memory:b", 1)]).await;
    let (registry, gold) = (deployment.registry(), flavor("gold"));
    let (ours, theirs) = (project("ours"), project("theirs"));
    let unknown = registry.put_flavor(&ours, &gold, &[pool_name("z")]).await;
    assert!(matches!(unknown, Err(Error::PoolNotFound { .. })), "{unknown:?}");
    let unknown = registry.change_flavor(&ours, &gold, &[pool_name("a")]).await;
    assert!(matches!(unknown, Err(Error::FlavorNotFound { .. })), "{unknown:?}");
    assert_eq!(registry.pool(&pool_name("a")).await.unwrap().flavor, None, "nothing changed");

    let pools = [pool_name("a"), pool_name("b")];
    let made = registry.put_flavor(&ours, &gold, &pools).await.unwrap();
    assert_eq!(made.pools, pools);
    assert_eq!(
        made.capabilities.iter().map(|one| one.as_str()).collect::<Vec<_>>(),
        ["FIFO", "CLAIMS"]
    );
    assert_eq!(registry.flavor(&ours, &gold).await.unwrap(), made);
    assert_eq!(registry.flavors(&ours, None, 10).await.unwrap(), [made]);
    assert_eq!(registry.flavors(&theirs, None, 10).await.unwrap(), []);
    assert!(registry.flavor(&theirs, &gold).await.is_err());

    registry.change_flavor(&ours, &gold, &pools[..1]).await.unwrap();
    assert_eq!(registry.pool(&pool_name("b")).await.unwrap().flavor, None);
    registry.delete_pool(&pool_name("b")).await.unwrap();
    let last = registry.delete_pool(&pool_name("a")).await;
    assert!(matches!(last, Err(Error::LastOfFlavor { .. })), "{last:?}");
    registry.delete_flavor(&ours, &gold).await.unwrap();
    registry.delete_flavor(&ours, &gold).await.unwrap();
    registry.delete_pool(&pool_name("a")).await.unwrap();
}

#[tokio::test]
async fn the_pools_of_a_flavor_have_the_same_capabilities() {
    let directory = tempfile::tempdir().unwrap();
    let disk = format!("disk:{}/d", directory.path().display());
    let deployment = Deployment::with_pools(&[("memory:a", 1), (&disk, 1)]).await;
    let (registry, gold) = (deployment.registry(), flavor("gold"));
    let both = [pool_name("a"), pool_name("d")];
    let refused = registry.put_flavor(&project("p"), &gold, &both).await;
    assert!(matches!(refused, Err(Error::CapabilitiesMismatch)), "{refused:?}");
    let durable = registry.put_flavor(&project("p"), &gold, &both[1..]).await.unwrap();
    assert!(durable.capabilities.contains(&Capability::Durability));
    let other = Pool { flavor: Some(gold), ..pool("e", "memory:e", 1) };
    let refused = registry.put_pool(other).await;
    assert!(matches!(refused, Err(Error::CapabilitiesMismatch)), "{refused:?}");
}

/// Opens queues, and counts those in each pool.
async fn spread(deployment: &Deployment, queues: usize, uris: &[&str]) -> BTreeMap<String, usize> {
    let pooled = deployment.server().await;
    let generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
    let mut counts = BTreeMap::new();
    for n in 0..queues {
        let key = queue(&format!("q{n}"));
        pooled.open(&key, generation, Timestamp::from_millis(0)).await.unwrap();
        for uri in uris {
            let store = deployment.places.memory(uri);
            if Heads::generation(store.as_ref(), &key).await.unwrap().is_some() {
                *counts.entry((*uri).to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

#[tokio::test]
async fn queues_are_spread_by_weight() {
    let deployment =
        Deployment::with_pools(&[("memory:a", 300), ("memory:b", 100), ("memory:c", 0)]).await;
    let counts = spread(&deployment, 400, &["memory:a", "memory:b", "memory:c"]).await;
    // Three quarters of 400. The choice depends on names only, so it is the same in every run.
    assert!((270..=330).contains(&counts["memory:a"]), "{counts:?}");
    assert_eq!(counts["memory:a"] + counts["memory:b"], 400, "{counts:?}");
}

#[tokio::test]
async fn a_deleted_queue_leaves_no_row() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let pooled = deployment.server().await;
    let generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
    let key = queue("q");
    pooled.open(&key, generation, Timestamp::from_millis(0)).await.unwrap();
    assert_eq!(deployment.catalogue_rows().await, 1);
    pooled.close(&key, generation.incarnation).await.unwrap();
    assert_eq!(deployment.catalogue_rows().await, 0);
}
