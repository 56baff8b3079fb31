//! Drivers and transports by name: configuration picks the names, this holds what they stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_core::storage::{ManagementStore, MessageStore};

use crate::config::{Registered, Settings};
use crate::drivers::{embedded, redis, websocket, wsgi};

/// Why a driver could not start; its text says what is wrong and what helps.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Opens stores of one kind.
#[async_trait]
pub trait StoreDriver: Send + Sync {
    /// Opens the management store.
    async fn management(&self, settings: &Settings)
    -> Result<Arc<dyn ManagementStore>, StartError>;

    /// Opens the message store.
    async fn messages(&self, settings: &Settings) -> Result<Arc<dyn MessageStore>, StartError>;

    /// Opens both, when configuration names this driver for both: they may share what they can.
    async fn both(&self, settings: &Settings) -> Result<Stores, StartError>;
}

/// A pair of open stores.
pub struct Stores {
    /// Queue rows.
    pub management: Arc<dyn ManagementStore>,
    /// Messages and claims.
    pub messages: Arc<dyn MessageStore>,
}

/// Starts one transport.
#[async_trait]
pub trait TransportDriver: Send + Sync {
    /// Takes hold of its address, so that a port in use is an error at the start.
    async fn bind(&self, api: Api, settings: &Settings) -> Result<Box<dyn Transport>, StartError>;
}

/// A transport that holds its address.
#[async_trait]
pub trait Transport: Send {
    /// Where it listens, for the log.
    fn address(&self) -> String;

    /// Serves until `shutdown`, then answers what was accepted, and returns.
    async fn run(self: Box<Self>, shutdown: CancellationToken);
}

/// What can be configured.
pub struct Registry {
    stores: BTreeMap<String, Arc<dyn StoreDriver>>,
    transports: BTreeMap<String, Arc<dyn TransportDriver>>,
}

impl Default for Registry {
    /// Everything that comes with this crate: the stores `embedded`, `redis` and, with the feature of that name, `mongodb`; the transports
    /// `wsgi` and `websocket`.
    fn default() -> Self {
        let registry = Self { stores: BTreeMap::new(), transports: BTreeMap::new() }
            .store("embedded", Arc::new(embedded::Driver))
            .store("redis", Arc::new(redis::Driver))
            .transport("wsgi", Arc::new(wsgi::Driver))
            .transport("websocket", Arc::new(websocket::Driver));
        #[cfg(feature = "mongodb")]
        let registry = registry.store("mongodb", Arc::new(crate::drivers::mongodb::Driver));
        registry
    }
}

impl Registry {
    /// Adds a store, or puts it in the place of one of that name.
    #[must_use]
    pub fn store(mut self, name: &str, driver: Arc<dyn StoreDriver>) -> Self {
        self.stores.insert(name.to_owned(), driver);
        self
    }

    /// Adds a transport, or puts it in the place of one of that name.
    #[must_use]
    pub fn transport(mut self, name: &str, driver: Arc<dyn TransportDriver>) -> Self {
        self.transports.insert(name.to_owned(), driver);
        self
    }

    /// The names, for the configuration to check against.
    pub fn names(&self) -> Registered {
        let stores: Vec<String> = self.stores.keys().cloned().collect();
        Registered {
            transports: self.transports.keys().cloned().collect(),
            message_stores: stores.clone(),
            management_stores: stores,
        }
    }

    /// Opens the stores that the settings name.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn open_stores(&self, settings: &Settings) -> Result<Stores, StartError> {
        let drivers = &settings.drivers;
        if drivers.management_store == drivers.message_store {
            return self.find(&drivers.message_store)?.both(settings).await;
        }
        Ok(Stores {
            management: self.find(&drivers.management_store)?.management(settings).await?,
            messages: self.find(&drivers.message_store)?.messages(settings).await?,
        })
    }

    /// Binds the transports that the settings name.
    ///
    /// # Errors
    /// What the first driver that fails says.
    pub async fn bind_transports(
        &self,
        api: &Api,
        settings: &Settings,
    ) -> Result<Vec<Box<dyn Transport>>, StartError> {
        let mut bound = Vec::new();
        for name in &settings.drivers.transports {
            let driver = self
                .transports
                .get(name)
                .ok_or_else(|| format!("no transport is registered under the name {name}"))?;
            bound.push(driver.bind(api.clone(), settings).await?);
        }
        Ok(bound)
    }

    fn find(&self, name: &str) -> Result<&Arc<dyn StoreDriver>, StartError> {
        let found = self.stores.get(name);
        found.ok_or_else(|| format!("no store is registered under the name {name}").into())
    }
}
