//! Opens stores in memory.

use async_trait::async_trait;
use zaqar_core::pools::Capability;
use zaqar_server::config::known::{Known, text};
use zaqar_server::{OpenedStore, StartError, StoreContext, StoreDriver, StoreLocation, StoreRole};

use crate::store::MemoryStore;

const NAME: Known = text("name", "default");

/// A driver whose stores forget everything when the server ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryDriver;

#[async_trait]
impl StoreDriver for MemoryDriver {
    fn roles(&self) -> &'static [StoreRole] {
        &[StoreRole::Management, StoreRole::Messages]
    }

    fn options(&self) -> &'static [Known] {
        &[NAME]
    }

    fn location_option(&self) -> &'static str {
        NAME.name
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Fifo, Capability::Claims]
    }

    async fn open(&self, _: &StoreLocation, _: &StoreContext) -> Result<OpenedStore, StartError> {
        Ok(OpenedStore::both(MemoryStore::default()))
    }
}
