//! Sharded collections, which the store rejects. `tests/test_mongodb.py` tests this with a real
//! cluster if `ZAQAR_TEST_MONGODB_URI` names one. Here a proxy imitates a mongos.

use zaqar_core::Secret;
use zaqar_core::storage::Upkeep;
use zaqar_storage_mongo::{Error, Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::support::proxy::{Proxy, plain_address};
use crate::support::server;

#[test]
fn a_sharded_collection_is_rejected_at_startup_by_its_name() {
    block_on(async {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let proxy = Proxy::start(address).await;
        let options = || Options { uri: Secret::new(proxy.uri()), ..server::options(&name) };
        for collection in [
            "queue_rows",
            "queue_heads",
            "queue_messages",
            "queue_claims",
            "queue_subscriptions",
            "queue_outbox",
            "queue_leases",
        ] {
            proxy.pretend_sharded(collection);
            match Mongo::open(options()).await {
                Err(Error::Sharded { collection: refused, .. }) => assert_eq!(refused, collection),
                other => panic!("{collection}: {other:?}"),
            }
        }
        // Behind a mongos, but on one shard.
        proxy.pretend_sharded("");
        Mongo::open(options()).await.unwrap().ping().await.unwrap();
        server::database(&name).await.drop().await.unwrap();
    });
}
