//! The store passes the kit. It forgets when it is shut down, so what is kept is not tested.

use async_trait::async_trait;
use zaqar_memory_store::MemoryStore;
use zaqar_storage_testkit::{About, Factory, Stores};

struct Fresh;

#[async_trait]
impl Factory for Fresh {
    async fn open(&self, _: &str) -> Stores {
        Stores::both(MemoryStore::default())
    }

    async fn discard(&self, _: &str) {}

    fn about(&self) -> About {
        About { keeps: false, shared: false, repairs_time: true }
    }
}

zaqar_storage_testkit::behaviour!(Fresh);
