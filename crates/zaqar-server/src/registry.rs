//! Drivers and transports by name: the configuration chooses by these names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tracing::warn;
use zaqar_api::{Api, Notifier, Pipelines, Stage};
use zaqar_core::Secret;
use zaqar_notify::Channel;

use crate::config::{NOTIFIER, Registered, Section, Settings};
use crate::drivers::{embedded, redis, websocket, wsgi};
use crate::error::StartError;
use crate::store::{
    OpenedStore, Presence, StoreContext, StoreDriver, StoreLocation, StoreRole, Stores,
};
use crate::transport::{Binding, Transport, TransportDriver};

/// Creates a stage of pipelines from the settings.
type MakeStage = dyn Fn(&Settings) -> Result<Arc<dyn Stage>, StartError> + Send + Sync;

/// Makes a channel to subscribers from the settings.
type MakeChannel = dyn Fn(&Settings) -> Result<Arc<dyn Channel>, StartError> + Send + Sync;

/// What can be configured.
pub struct Registry {
    channels: BTreeMap<String, Arc<MakeChannel>>,
    stages: BTreeMap<String, Arc<MakeStage>>,
    stores: BTreeMap<String, Arc<dyn StoreDriver>>,
    transports: BTreeMap<String, Arc<dyn TransportDriver>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("channels", &self.channels.keys())
            .field("stages", &self.stages.keys())
            .field("stores", &self.stores.keys())
            .field("transports", &self.transports.keys())
            .finish()
    }
}

impl Default for Registry {
    /// Everything in this crate: the stores `embedded`, `redis` and, with the feature of that name,
    /// `mongodb`; the transports `wsgi` and `websocket`; the stage `zaqar.notification.notifier`.
    fn default() -> Self {
        let registry = Self::empty()
            .stage(NOTIFIER, |_| Ok(Arc::new(Notifier)))
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
    fn empty() -> Self {
        let (stores, transports) = (BTreeMap::new(), BTreeMap::new());
        Self { channels: BTreeMap::new(), stages: BTreeMap::new(), stores, transports }
    }

    /// Adds or replaces a store.
    #[must_use]
    pub fn store(mut self, name: &str, driver: Arc<dyn StoreDriver>) -> Self {
        self.stores.insert(name.to_owned(), driver);
        self
    }

    /// Adds or replaces a transport.
    #[must_use]
    pub fn transport(mut self, name: &str, driver: Arc<dyn TransportDriver>) -> Self {
        self.transports.insert(name.to_owned(), driver);
        self
    }

    /// Adds or replaces a stage of pipelines. `make` is called once for each pipeline that names
    /// it; its options are in `[storage:stage:NAME]`.
    #[must_use]
    pub fn stage(
        mut self,
        name: &str,
        make: impl Fn(&Settings) -> Result<Arc<dyn Stage>, StartError> + Send + Sync + 'static,
    ) -> Self {
        self.stages.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Adds a channel to the subscribers of a scheme, or replaces the one that was added. Clients
    /// can subscribe them where `[transport] subscriber_types` names the scheme. `make` is called
    /// once; the channel's options are in `[notification:channel:SCHEME]`. The channels that come
    /// with this crate (`http`, `https`, `mailto`, `trust+http`, `trust+https`) stay.
    #[must_use]
    pub fn channel(
        mut self,
        scheme: &str,
        make: impl Fn(&Settings) -> Result<Arc<dyn Channel>, StartError> + Send + Sync + 'static,
    ) -> Self {
        self.channels.insert(scheme.to_ascii_lowercase(), Arc::new(make));
        self
    }

    /// The names with their options, for the configuration to check against.
    pub fn registered(&self) -> Registered {
        let mut registered = Registered::default();
        for scheme in self.channels.keys() {
            registered = registered.channel(scheme);
        }
        for name in self.stages.keys() {
            registered = registered.stage(name);
        }
        for (name, driver) in &self.transports {
            registered = registered.transport(name, driver.options());
        }
        for (name, driver) in &self.stores {
            for role in driver.roles() {
                let options = driver.options();
                registered = match role {
                    StoreRole::Management => registered.management_store(name, options),
                    StoreRole::Messages => registered.message_store(name, options),
                };
            }
        }
        registered
    }

    /// Opens the stores that the settings name. If both have one location, one store is opened with
    /// the options of the message store. A role without a location has that of the other role, if
    /// both have the same driver.
    ///
    /// # Errors
    /// The driver's error, or that the message store of a management store is gone.
    pub async fn open_stores(
        &self,
        settings: &Settings,
        context: &StoreContext,
    ) -> Result<Stores, StartError> {
        let names = &settings.drivers;
        let (messages, management) = self.locate_both(settings)?;
        let has_one_driver = names.message_store == names.management_store;
        let (message_driver, management_driver) = (messages.driver, management.driver);
        let (messages, management) = (messages.resolve()?, management.resolve()?);
        if has_one_driver && message_driver.is_same_store(&messages, &management)? {
            warn_of_unread(&messages.options, &management.options)?;
            let opened = message_driver.open(&messages, context).await?;
            return one_store(&names.message_store, opened);
        }
        // The message store is created first, so a management store without one has lost it, even
        // if the process was killed in between.
        if management_driver.presence(&management)? == Presence::Present
            && message_driver.presence(&messages)? == Presence::Absent
        {
            return Err(format!(
                "[{}] the message store is gone: there is none, but the management store has \
                 queues from before. Put it back, or set accept_loss to go on with an empty one",
                messages.options.name()
            )
            .into());
        }
        let messages = message_driver.open(&messages, context).await?;
        let management = management_driver.open(&management, context).await?;
        Ok(Stores {
            management: management.management.ok_or_else(|| lacks(&names.management_store))?,
            messages: messages.messages.ok_or_else(|| lacks(&names.message_store))?,
            is_one: false,
            message_figures: messages.figures,
            management_figures: management.figures,
        })
    }

    /// Checks the stores, pipelines, channels and transports that the settings name, without
    /// opening or binding anything.
    pub(crate) async fn check(&self, settings: &Settings) -> Vec<StartError> {
        let mut problems = match self.locate_both(settings) {
            Ok((messages, management)) => {
                let names = &settings.drivers;
                // One store, which is opened with the options of the message store.
                let is_one = names.message_store == names.management_store
                    && messages.uri == management.uri
                    && management.options.options().next().is_none();
                let mut found = Vec::from_iter(messages.check().await.err());
                if !is_one {
                    found.extend(management.check().await.err());
                }
                found
            }
            Err(error) => vec![error],
        };
        problems.extend(self.pipelines(settings).err());
        problems.extend(self.channels(settings).err());
        let transports = settings.drivers.transports.iter();
        let drivers = transports.filter_map(|name| self.transports.get(name));
        problems.extend(drivers.filter_map(|driver| driver.check(settings).err()));
        problems
    }

    /// Opens the store at a URI, with the driver for its scheme.
    ///
    /// # Errors
    /// No driver has the scheme, or the driver's error.
    pub async fn open_location(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError> {
        driver_of(self.stores.values(), location.uri.expose())?.open(location, context).await
    }

    /// The drivers of stores.
    pub(crate) fn store_drivers(&self) -> Vec<Arc<dyn StoreDriver>> {
        self.stores.values().cloned().collect()
    }

    /// Makes the channels that were added, by scheme.
    ///
    /// # Errors
    /// What the first channel that cannot be made says.
    pub(crate) fn channels(
        &self,
        settings: &Settings,
    ) -> Result<BTreeMap<String, Arc<dyn Channel>>, StartError> {
        self.channels.iter().map(|(scheme, make)| Ok((scheme.clone(), make(settings)?))).collect()
    }

    /// Makes the stages that the settings name.
    ///
    /// # Errors
    /// The error of the first stage that cannot be created.
    pub fn pipelines(&self, settings: &Settings) -> Result<Pipelines, StartError> {
        let make = |names: &[String]| -> Result<Vec<_>, StartError> {
            let stages = names.iter().map(|name| {
                let make = self.stages.get(name);
                make.ok_or_else(|| format!("no stage is registered under the name {name}"))?(
                    settings,
                )
            });
            stages.collect()
        };
        let names = &settings.pipelines;
        Ok(Pipelines {
            queue: make(&names.queue)?,
            topic: make(&names.topic)?,
            message: make(&names.message)?,
            claim: make(&names.claim)?,
            subscription: make(&names.subscription)?,
        })
    }

    /// Binds the transports that the settings name, or starts them on the sockets in `passed`, in
    /// the same order. Returns each with its name.
    ///
    /// # Errors
    /// The error of the first driver that fails.
    pub async fn bind_transports(
        &self,
        api: &Api,
        settings: &Settings,
        passed: Vec<Option<std::net::TcpListener>>,
    ) -> Result<Vec<(String, Box<dyn Transport>)>, StartError> {
        let mut bound = Vec::new();
        let passed = passed.into_iter().chain(std::iter::repeat_with(|| None));
        for (name, passed) in settings.drivers.transports.iter().zip(passed) {
            let driver = self
                .transports
                .get(name)
                .ok_or_else(|| format!("no transport is registered under the name {name}"))?;
            let binding = Binding { api: api.clone(), settings, passed };
            bound.push((name.clone(), driver.bind(binding).await?));
        }
        Ok(bound)
    }

    /// The driver and the location of the message store that the settings name.
    ///
    /// # Errors
    /// As [`Self::open_stores`], but nothing is opened.
    pub(crate) fn message_location(
        &self,
        settings: &Settings,
    ) -> Result<(Arc<dyn StoreDriver>, StoreLocation), StartError> {
        let name = &settings.drivers.message_store;
        let driver = self.stores.get(name).cloned().ok_or_else(|| unregistered(name))?;
        Ok((driver, self.locate_both(settings)?.0.resolve()?))
    }

    /// The message store and the management store that the settings name. One without a location
    /// has that of the other, if both have the same driver.
    fn locate_both(
        &self,
        settings: &Settings,
    ) -> Result<(Candidate<'_>, Candidate<'_>), StartError> {
        let names = &settings.drivers;
        let mut messages = self.locate(StoreRole::Messages, &names.message_store, settings)?;
        let mut management =
            self.locate(StoreRole::Management, &names.management_store, settings)?;
        if names.message_store == names.management_store {
            let other = messages.uri.clone();
            messages.uri = messages.uri.or_else(|| management.uri.clone());
            management.uri = management.uri.or(other);
        }
        Ok((messages, management))
    }

    fn locate(
        &self,
        role: StoreRole,
        name: &str,
        settings: &Settings,
    ) -> Result<Candidate<'_>, StartError> {
        let driver = self.stores.get(name).ok_or_else(|| unregistered(name))?.as_ref();
        let options = settings.driver_section(role.section(name));
        let uri = options.secret(driver.location_option())?;
        Ok(Candidate { driver, uri, options })
    }
}

/// The driver for a URI.
pub(crate) fn driver_of<'a>(
    mut drivers: impl Iterator<Item = &'a Arc<dyn StoreDriver>>,
    uri: &str,
) -> Result<&'a Arc<dyn StoreDriver>, String> {
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    let driver = drivers.find(|driver| driver.schemes().contains(&scheme));
    driver.ok_or_else(|| format!("no store has URIs that begin with {scheme}:"))
}

/// A store whose location is not resolved yet.
struct Candidate<'a> {
    driver: &'a dyn StoreDriver,
    uri: Option<Secret<String>>,
    options: Section,
}

impl Candidate<'_> {
    async fn check(self) -> Result<(), StartError> {
        let driver = self.driver;
        driver.check(&self.resolve()?).await
    }

    /// Uses the driver's default location if none is set.
    fn resolve(self) -> Result<StoreLocation, StartError> {
        let option = self.driver.location_option();
        let options = self.driver.options().iter();
        let default =
            || options.filter(|known| known.name == option).find_map(|known| known.default);
        let uri = self.uri.or_else(|| default().map(|uri| Secret::new(uri.to_owned())));
        let uri = uri.ok_or_else(|| self.options.missing(option))?;
        Ok(StoreLocation { uri, options: self.options })
    }
}

fn one_store(name: &str, opened: OpenedStore) -> Result<Stores, StartError> {
    Ok(Stores {
        messages: opened.messages.ok_or_else(|| lacks(name))?,
        management: opened.management.ok_or_else(|| lacks(name))?,
        is_one: true,
        message_figures: opened.figures,
        management_figures: None,
    })
}

fn unregistered(name: &str) -> String {
    format!("no store is registered under the name {name}")
}

fn lacks(name: &str) -> String {
    format!("the driver {name} did not open a store in the role that it was asked for")
}

/// If both roles share one store, warns of options of the management store that differ.
fn warn_of_unread(messages: &Section, management: &Section) -> Result<(), StartError> {
    for option in management.options() {
        if management.text(option)? != messages.text(option)? {
            warn!(
                origin = %management.origin(option),
                "[{}] {option} is not read: both stores are one, with the options of [{}]",
                management.name(),
                messages.name(),
            );
        }
    }
    Ok(())
}
