//! A start during an election.

use std::time::Duration;

use zaqar_core::Secret;
use zaqar_core::storage::Upkeep;
use zaqar_storage_mongo::{Error, Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// More than the MongoDB crate repeats a read by itself.
const FAILED: usize = 4;

#[test]
fn a_start_waits_for_a_primary() {
    block_on(async {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let proxy = Proxy::start(address).await;
        let options = |start_timeout| Options {
            uri: Secret::new(proxy.uri()),
            start_timeout,
            ..server::options(&name)
        };
        let long = Duration::from_secs(60);
        for fault in [Fault::Code(10107), Fault::Code(91), Fault::Code(112), Fault::Network] {
            proxy.plan_many(Some((0..FAILED, fault, When::Before)));
            let store = Mongo::open(options(long)).await.unwrap();
            assert!(proxy.seen().0.len() > FAILED, "{fault:?} was met");
            store.ping().await.unwrap();
        }
        // Not for ever, and not if the server says that it never will.
        proxy.plan_many(Some((0..usize::MAX, Fault::Code(112), When::Before)));
        let failed = Mongo::open(options(Duration::ZERO)).await.unwrap_err();
        assert!(matches!(failed, Error::Unusable { .. }), "{failed:?}");
        let unauthorized = 13;
        proxy.plan_many(Some((0..usize::MAX, Fault::Code(unauthorized), When::Before)));
        let failed = Mongo::open(options(long)).await.unwrap_err();
        assert!(matches!(failed, Error::Unusable { .. }), "{failed:?}");
        assert_eq!(proxy.seen().0.len(), 1);
        proxy.plan(None);
        server::database(&name).await.drop().await.unwrap();
    });
}
