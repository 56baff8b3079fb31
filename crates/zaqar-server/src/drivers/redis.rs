//! The Redis store, for either role or both.

use async_trait::async_trait;
use zaqar_core::pools::Capability;
use zaqar_storage_redis::{Options, Redis};

use crate::config::known::{Known, float, integer, text};
use crate::drivers::in_section;
use crate::error::{StartError, with_causes};
use crate::store::{OpenedStore, StoreContext, StoreDriver, StoreLocation, StoreRole};

/// The default is what the original connects to by default.
const URI: Known = text("uri", "redis://127.0.0.1:6379").secret();
const MAX_RECONNECT_ATTEMPTS: Known = integer("max_reconnect_attempts", "10", 0, 1_000_000);
const RECONNECT_SLEEP: Known = float("reconnect_sleep", "1.0");
const WAIT_REPLICAS: Known = integer("wait_replicas", "0", 0, 1000);
const MAX_CLOCK_SKEW: Known = float("max_clock_skew", "30.0");
const OPTIONS: &[Known] =
    &[URI, MAX_RECONNECT_ATTEMPTS, RECONNECT_SLEEP, WAIT_REPLICAS, MAX_CLOCK_SKEW];

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
        &["redis", "rediss"]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Fifo, Capability::Claims, Capability::Aod, Capability::HighThroughput]
    }

    async fn check(&self, location: &StoreLocation) -> Result<(), StartError> {
        read(location).map(drop)
    }

    fn is_same_store(
        &self,
        one: &StoreLocation,
        other: &StoreLocation,
    ) -> Result<bool, StartError> {
        Ok(read(one)?.uri.is_same_place(&read(other)?.uri))
    }

    async fn open(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError> {
        let options = Options { tasks: context.tasks.clone(), ..read(location)? };
        let store = Redis::open(options).await;
        Ok(OpenedStore::both(store.map_err(|error| in_section(location.options.name(), &error))?))
    }
}

fn read(location: &StoreLocation) -> Result<Options, StartError> {
    let section = &location.options;
    let options = Options::new(location.uri.expose()).map_err(|error| {
        section.invalid(URI.name, format!("an address of Redis: {}", with_causes(&error)))
    })?;
    let max_clock_skew = section.seconds_of(&MAX_CLOCK_SKEW)?;
    Ok(Options {
        max_clock_skew: (!max_clock_skew.is_zero()).then_some(max_clock_skew),
        max_reconnect_attempts: u32::try_from(section.number_of(&MAX_RECONNECT_ATTEMPTS)?)?,
        reconnect_sleep: section.seconds_of(&RECONNECT_SLEEP)?,
        wait_replicas: u32::try_from(section.number_of(&WAIT_REPLICAS)?)?,
        ..options
    })
}
