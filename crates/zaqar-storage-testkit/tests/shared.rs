//! The kit tests stores of which there is only one for all tests.

use async_trait::async_trait;
use zaqar_storage_testkit::{About, Factory, Memory, Stores, run_all};

/// The same store under every name, as a server would be that knows no names.
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
fn one_store_shows_every_behaviour() {
    let outcomes = zaqar_storage_testkit::block_on(run_all(OneStore(Memory::new())));
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
