//! The embedded store.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::info;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_storage_embedded::{Embedded, Options, Sync};

use crate::config::{self, Settings};
use crate::drivers::in_section;
use crate::registry::{StartError, StoreDriver, Stores};

const MESSAGES: &str = "drivers:message_store:embedded";
const MANAGEMENT: &str = "drivers:management_store:embedded";

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    async fn management(
        &self,
        settings: &Settings,
    ) -> Result<Arc<dyn ManagementStore>, StartError> {
        Ok(Arc::new(open(settings, MANAGEMENT)?))
    }

    async fn messages(&self, settings: &Settings) -> Result<Arc<dyn MessageStore>, StartError> {
        Ok(Arc::new(open(settings, MESSAGES)?))
    }

    async fn both(&self, settings: &Settings) -> Result<Stores, StartError> {
        let store = Arc::new(open(settings, MESSAGES)?);
        Ok(Stores { management: Arc::clone(&store) as _, messages: store })
    }
}

fn open(settings: &Settings, name: &str) -> Result<Embedded, StartError> {
    let section = settings.embedded.as_ref().ok_or("the embedded store is not configured")?;
    let sync = match section.sync {
        config::Sync::Always => Sync::Always,
        config::Sync::Interval(interval) => Sync::Interval(interval),
        config::Sync::Never => Sync::Never,
    };
    // Nobody can tell from a relative path in a log where it is.
    let path = std::path::absolute(&section.path)
        .map_err(|_| settings.driver_section(name).invalid("path", "a directory"))?;
    let store = Embedded::open(Options { sync, ..Options::new(&path) })
        .map_err(|error| in_section(name, &error))?;
    info!(path = %path.display(), ?sync, "embedded store open");
    Ok(store)
}
