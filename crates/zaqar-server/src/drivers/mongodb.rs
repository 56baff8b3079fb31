//! The MongoDB store, for either role or both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_storage_mongo::{Error, Mongo, Options, Tls};

use crate::config::{self, Section, Settings};
use crate::drivers::in_section;
use crate::registry::{StartError, StoreDriver, Stores};
use crate::run::with_causes;

const MESSAGES: &str = "drivers:message_store:mongodb";
const MANAGEMENT: &str = "drivers:management_store:mongodb";
/// The original's default.
const DATABASE: &str = "zaqar";
const MOST: i64 = 1_000_000;
const LONGEST: f64 = 86_400.0;

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    async fn management(
        &self,
        settings: &Settings,
    ) -> Result<Arc<dyn ManagementStore>, StartError> {
        Ok(Arc::new(open(read(settings, MANAGEMENT)?, settings, MANAGEMENT).await?))
    }

    async fn messages(&self, settings: &Settings) -> Result<Arc<dyn MessageStore>, StartError> {
        Ok(Arc::new(open(read(settings, MESSAGES)?, settings, MESSAGES).await?))
    }

    async fn both(&self, settings: &Settings) -> Result<Stores, StartError> {
        let (messages, management) = (read(settings, MESSAGES)?, read(settings, MANAGEMENT)?);
        if messages.is_same_place(&management) {
            let store = Arc::new(open(messages, settings, MESSAGES).await?);
            return Ok(Stores { management: Arc::clone(&store) as _, messages: store });
        }
        Ok(Stores {
            management: Arc::new(open(management, settings, MANAGEMENT).await?),
            messages: Arc::new(open(messages, settings, MESSAGES).await?),
        })
    }
}

fn read(settings: &Settings, name: &str) -> Result<Options, StartError> {
    let section = settings.driver_section(name);
    let uri = section.secret("uri")?.ok_or_else(|| section.missing("uri"))?;
    let database = section.text("database")?.filter(|database| !database.is_empty());
    let mut options = Options::new(uri.expose().clone(), database.as_deref().unwrap_or(DATABASE));
    options.unreliable = settings.unreliable;
    if let Some(attempts) = count(&section, "max_attempts")? {
        options.max_attempts = attempts;
    }
    if let Some(attempts) = count(&section, "max_reconnect_attempts")? {
        options.max_reconnect_attempts = attempts;
    }
    if let Some(pause) = pause(&section, "max_retry_sleep")? {
        options.max_retry_sleep = pause;
    }
    if let Some(pause) = pause(&section, "max_retry_jitter")? {
        options.max_retry_jitter = pause;
    }
    if let Some(pause) = pause(&section, "reconnect_sleep")? {
        options.reconnect_sleep = pause;
    }
    options.tls = Tls {
        ca_file: file(&section, "ssl_ca_certs")?,
        certificate_file: file(&section, "ssl_certfile")?,
        key_file: file(&section, "ssl_keyfile")?,
        // For a client the other two words mean the same.
        accept_any: section
            .choice("ssl_cert_reqs", &["CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"])?
            == Some("CERT_NONE"),
    };
    Ok(options)
}

fn count(section: &Section, option: &str) -> Result<Option<u32>, config::Error> {
    let count = section.integer(option, 0..=MOST)?;
    Ok(count.and_then(|count| u32::try_from(count).ok()))
}

fn pause(section: &Section, option: &str) -> Result<Option<Duration>, config::Error> {
    let seconds = section.float(option, 0.0..=LONGEST)?;
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

fn file(section: &Section, option: &str) -> Result<Option<PathBuf>, config::Error> {
    Ok(section.text(option)?.filter(|path| !path.is_empty()).map(PathBuf::from))
}

async fn open(options: Options, settings: &Settings, name: &str) -> Result<Mongo, StartError> {
    Mongo::open(options).await.map_err(|error| match error {
        Error::Uri { .. } | Error::Unreliable { .. } => {
            let allowed = format!("usable: {}", with_causes(&error));
            settings.driver_section(name).invalid("uri", allowed).into()
        }
        error => in_section(name, &error),
    })
}
