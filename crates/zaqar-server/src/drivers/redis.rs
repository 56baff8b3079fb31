//! The Redis store, for either role or both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_storage_redis::{Options, Redis};

use crate::config::{Section, Settings};
use crate::drivers::in_section;
use crate::registry::{StartError, StoreDriver, Stores};
use crate::run::with_causes;

const MESSAGES: &str = "drivers:message_store:redis";
const MANAGEMENT: &str = "drivers:management_store:redis";
/// What the original connects to when nothing is said.
const DEFAULT_URI: &str = "redis://127.0.0.1:6379";

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    async fn management(
        &self,
        settings: &Settings,
    ) -> Result<Arc<dyn ManagementStore>, StartError> {
        let options = read(settings, MANAGEMENT)?;
        Ok(Arc::new(open(options, MANAGEMENT).await?))
    }

    async fn messages(&self, settings: &Settings) -> Result<Arc<dyn MessageStore>, StartError> {
        let options = read(settings, MESSAGES)?;
        Ok(Arc::new(open(options, MESSAGES).await?))
    }

    async fn both(&self, settings: &Settings) -> Result<Stores, StartError> {
        let (messages, management) = (read(settings, MESSAGES)?, read(settings, MANAGEMENT)?);
        if messages == management {
            let store = Arc::new(open(messages, MESSAGES).await?);
            return Ok(Stores { management: Arc::clone(&store) as _, messages: store });
        }
        Ok(Stores {
            management: Arc::new(open(management, MANAGEMENT).await?),
            messages: Arc::new(open(messages, MESSAGES).await?),
        })
    }
}

fn read(settings: &Settings, name: &str) -> Result<Options, StartError> {
    let section: Section = settings.driver_section(name);
    let uri = section.secret("uri")?;
    let uri = uri.as_ref().map_or(DEFAULT_URI, |uri| uri.expose());
    let mut options = Options::new(uri).map_err(|error| {
        section.invalid("uri", format!("an address of Redis: {}", with_causes(&error)))
    })?;
    if let Some(attempts) = section.integer("max_reconnect_attempts", 0..=1_000_000)? {
        options.max_reconnect_attempts = u32::try_from(attempts)?;
    }
    if let Some(pause) = section.float("reconnect_sleep", 0.0..=86_400.0)? {
        options.reconnect_sleep = Duration::try_from_secs_f64(pause)?;
    }
    if let Some(replicas) = section.integer("wait_replicas", 0..=1000)? {
        options.wait_replicas = u32::try_from(replicas)?;
    }
    Ok(options)
}

async fn open(options: Options, name: &str) -> Result<Redis, StartError> {
    Redis::open(options).await.map_err(|error| in_section(name, &error))
}
