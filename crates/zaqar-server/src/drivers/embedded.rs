//! The embedded store.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_storage_embedded::{Embedded, Options, Sync};

use crate::config::{self, Settings};
use crate::registry::{StartError, StoreDriver, Stores};

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    async fn management(
        &self,
        settings: &Settings,
    ) -> Result<Arc<dyn ManagementStore>, StartError> {
        Ok(Arc::new(open(settings)?))
    }

    async fn messages(&self, settings: &Settings) -> Result<Arc<dyn MessageStore>, StartError> {
        Ok(Arc::new(open(settings)?))
    }

    async fn both(&self, settings: &Settings) -> Result<Stores, StartError> {
        let store = Arc::new(open(settings)?);
        Ok(Stores { management: Arc::clone(&store) as _, messages: store })
    }
}

fn open(settings: &Settings) -> Result<Embedded, StartError> {
    let section = settings.embedded.as_ref().ok_or("the embedded store is not configured")?;
    let sync = match section.sync {
        config::Sync::Always => Sync::Always,
        config::Sync::Interval(interval) => Sync::Interval(interval),
        config::Sync::Never => Sync::Never,
    };
    Ok(Embedded::open(Options { sync, ..Options::new(&section.path) })?)
}
