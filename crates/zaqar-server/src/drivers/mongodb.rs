//! The MongoDB store, for either role or both.

use std::path::PathBuf;

use async_trait::async_trait;
use mongodb::options::ClientOptions;
use zaqar_core::pools::Capability;
use zaqar_storage_mongo::{Error, Mongo, Options, Tls};

use crate::config::known::{Known, choice, float, integer, text, unset, unused};
use crate::drivers::in_section;
use crate::error::{StartError, with_causes};
use crate::store::{OpenedStore, StoreContext, StoreDriver, StoreLocation, StoreRole};

/// The original's options, with its defaults.
const URI: Known = unset("uri").secret();
const DATABASE: Known = text("database", "zaqar");
const MAX_ATTEMPTS: Known = integer("max_attempts", "1000", 0, 1_000_000);
const MAX_RETRY_SLEEP: Known = float("max_retry_sleep", "0.1");
const MAX_RETRY_JITTER: Known = float("max_retry_jitter", "0.005");
const MAX_RECONNECT_ATTEMPTS: Known = integer("max_reconnect_attempts", "10", 0, 1_000_000);
const RECONNECT_SLEEP: Known = float("reconnect_sleep", "0.020");
const MAX_CLOCK_SKEW: Known = float("max_clock_skew", "30.0");
const CA_FILE: Known = unset("ssl_ca_certs");
const CERTIFICATE_FILE: Known = unset("ssl_certfile");
const KEY_FILE: Known = unset("ssl_keyfile");
const CERTIFICATES: Known =
    choice("ssl_cert_reqs", "CERT_REQUIRED", &["CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"]);
const PARTITIONS: Known = unused("partitions", "all messages live in one database, on one shard");

const OPTIONS: &[Known] = &[
    URI,
    DATABASE,
    MAX_ATTEMPTS,
    MAX_RETRY_SLEEP,
    MAX_RETRY_JITTER,
    MAX_RECONNECT_ATTEMPTS,
    RECONNECT_SLEEP,
    MAX_CLOCK_SKEW,
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    CERTIFICATES,
    PARTITIONS,
];

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    fn roles(&self) -> &'static [StoreRole] {
        &[StoreRole::Management, StoreRole::Messages]
    }

    fn options(&self) -> &'static [Known] {
        OPTIONS
    }

    fn location_option(&self) -> &'static str {
        URI.name
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["mongodb", "mongodb+srv", "mongodb.fifo"]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::Fifo,
            Capability::Claims,
            Capability::Durability,
            Capability::Aod,
            Capability::HighThroughput,
        ]
    }

    async fn check(&self, location: &StoreLocation) -> Result<(), StartError> {
        let options = read(location)?;
        let section = &location.options;
        let Tls { ca_file, certificate_file, key_file, .. } = &options.tls;
        for file in [ca_file, certificate_file, key_file].into_iter().flatten() {
            std::fs::File::open(file).map_err(|error| {
                format!("[{}] cannot read {}: {error}", section.name(), file.display())
            })?;
        }
        let uri = options.uri.expose().replacen("mongodb.fifo://", "mongodb://", 1);
        // One with `+srv` is resolved by DNS, which only the start does.
        if !uri.starts_with("mongodb+srv://") {
            ClientOptions::parse(uri.as_str()).await.map_err(|error| {
                section.invalid(URI.name, format!("usable: {}", with_causes(&error)))
            })?;
        }
        Ok(())
    }

    fn is_same_store(
        &self,
        one: &StoreLocation,
        other: &StoreLocation,
    ) -> Result<bool, StartError> {
        Ok(read(one)?.is_same_place(&read(other)?))
    }

    async fn open(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError> {
        let (unreliable, tasks) = (context.unreliable, context.tasks.clone());
        let options = Options { unreliable, tasks, ..read(location)? };
        let section = &location.options;
        let store = Mongo::open(options).await.map_err(|error| {
            if !matches!(error, Error::Uri { .. } | Error::Unreliable { .. }) {
                return in_section(section.name(), &error);
            }
            section.invalid(URI.name, format!("usable: {}", with_causes(&error))).into()
        });
        Ok(OpenedStore::both(store?))
    }
}

fn read(location: &StoreLocation) -> Result<Options, StartError> {
    let section = &location.options;
    let file = |option| Ok::<_, StartError>(section.text_of(option)?.map(PathBuf::from));
    let count = |option| Ok::<_, StartError>(u32::try_from(section.number_of(option)?)?);
    let database = section.text_of(&DATABASE)?.unwrap_or_default();
    Ok(Options {
        max_attempts: count(&MAX_ATTEMPTS)?,
        max_reconnect_attempts: count(&MAX_RECONNECT_ATTEMPTS)?,
        max_retry_sleep: section.seconds_of(&MAX_RETRY_SLEEP)?,
        max_retry_jitter: section.seconds_of(&MAX_RETRY_JITTER)?,
        reconnect_sleep: section.seconds_of(&RECONNECT_SLEEP)?,
        max_clock_skew: Some(section.seconds_of(&MAX_CLOCK_SKEW)?),
        tls: Tls {
            ca_file: file(&CA_FILE)?,
            certificate_file: file(&CERTIFICATE_FILE)?,
            key_file: file(&KEY_FILE)?,
            // For a client the other two values mean the same.
            accept_any: section.choice_of(&CERTIFICATES)? == "CERT_NONE",
        },
        ..Options::new(location.uri.expose().clone(), database)
    })
}
