//! The kit can test a single store that all tests share.

use async_trait::async_trait;
use zaqar_storage_testkit::{About, Factory, Memory, Stores, run_all};

/// The same store for every name, like a server without separate databases.
struct OneStore(Memory);

#[async_trait]
impl Factory for OneStore {
    async fn open(&self, _: &str) -> Stores {
        Stores::both(self.0.connect())
    }

    async fn discard(&self, _: &str) {}

    fn about(&self) -> About {
        About { keeps: true, shared: true, repairs_time: true }
    }
}

#[test]
fn a_shared_store_passes_every_behaviour() {
    let outcomes = zaqar_storage_testkit::block_on(run_all(OneStore(Memory::new())));
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
