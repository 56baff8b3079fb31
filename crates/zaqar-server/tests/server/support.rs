//! A driver of in-memory stores, and settings from a text.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use zaqar_server::config::known::{Known, integer, text};
use zaqar_server::config::{self, Loaded, Sources};
use zaqar_server::{
    OpenedStore, Registry, StartError, StoreContext, StoreDriver, StoreLocation, StoreRole,
};
use zaqar_storage_testkit::{Fault, Memory};

/// The option that it reads.
pub(crate) const SIZE: Known = integer("size", "1", 1, 9);
const OPTIONS: &[Known] = &[text("path", "default"), SIZE];

/// Opens in-memory stores and records their locations and options.
pub(crate) struct Driver {
    pub(crate) roles: &'static [StoreRole],
    pub(crate) fault: Option<Fault>,
    /// Location and size of each store, in the order they were opened.
    pub(crate) opened: Mutex<Vec<(String, u64)>>,
    pub(crate) stores: Mutex<Vec<Arc<Memory>>>,
}

impl Default for Driver {
    fn default() -> Self {
        let roles = &[StoreRole::Management, StoreRole::Messages];
        Self { roles, fault: None, opened: Mutex::default(), stores: Mutex::default() }
    }
}

impl Driver {
    pub(crate) fn opened(&self) -> Vec<(String, u64)> {
        self.opened.lock().unwrap().clone()
    }
}

#[async_trait]
impl StoreDriver for Driver {
    fn roles(&self) -> &'static [StoreRole] {
        self.roles
    }

    fn options(&self) -> &'static [Known] {
        OPTIONS
    }

    fn location_option(&self) -> &'static str {
        "path"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn capabilities(&self) -> &'static [zaqar_core::pools::Capability] {
        &[]
    }

    async fn check(&self, location: &StoreLocation) -> Result<(), StartError> {
        Ok(location.options.number_of(&SIZE).map(drop)?)
    }

    async fn open(
        &self,
        location: &StoreLocation,
        _: &StoreContext,
    ) -> Result<OpenedStore, StartError> {
        let store = Arc::new(self.fault.map_or_else(Memory::new, Memory::with_fault));
        let size = location.options.number_of(&SIZE)?;
        self.opened.lock().unwrap().push((location.uri.expose().clone(), size));
        self.stores.lock().unwrap().push(Arc::clone(&store));
        let has = |role| self.roles.contains(&role);
        Ok(OpenedStore {
            management: has(StoreRole::Management).then(|| Arc::clone(&store) as _),
            messages: has(StoreRole::Messages).then_some(store as _),
            figures: None,
        })
    }
}

/// The crate's registry, with a driver named `memory`.
pub(crate) fn registry(driver: &Arc<Driver>) -> Registry {
    Registry::default().store("memory", Arc::clone(driver) as _)
}

/// Loads a configuration with this text.
pub(crate) fn load(registry: &Registry, text: &str) -> Result<Loaded, config::Errors> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
    config::load(&sources, &registry.registered())
}
