//! The API on the stores of a configuration, for programs that do not serve.

use std::path::Path;
use std::sync::Arc;

use zaqar_api::{Api, Keyring, Layers, Options, Pipelines};
use zaqar_core::TaskMonitor;
use zaqar_core::pools::Pools;
use zaqar_storage_embedded::Embedded;

use crate::config::Settings;
use crate::error::StartError;
use crate::pools::Pooling;
use crate::registry::Registry;
use crate::status::Status;
use crate::store::{StoreContext, Stores};

/// The drivers of this program, and its configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) settings: &'a Settings,
}

/// Open stores, and the API's operations on them without quotas, policies and pipelines.
pub(crate) struct Offline {
    pub(crate) api: Api,
    /// Pools and flavors, with `[DEFAULT] pooling`.
    pub(crate) pools: Option<Arc<dyn Pools>>,
    stores: Stores,
}

impl Offline {
    /// Opens the stores, with their pools.
    ///
    /// # Errors
    /// A store that cannot be opened.
    pub(crate) async fn open(setup: Setup<'_>) -> Result<Self, StartError> {
        let (Setup { registry, settings }, tasks) = (setup, TaskMonitor::default());
        let context = StoreContext { unreliable: settings.unreliable, tasks: tasks.clone() };
        let stores = registry.open_stores(settings, &context).await?;
        let pooling = Pooling::if_set(registry, settings, &context, &stores)?;
        let stores = Pooling::spread(stores, pooling.as_ref()).await;
        let pools = pooling.as_ref().map(|it| Arc::clone(&it.registry) as Arc<dyn Pools>);
        let options = api_options(settings, tasks.clone())?;
        let options = Pooling::register(pooling.as_ref(), &Status::new(tasks), options);
        let api = Api::new(Arc::clone(&stores.management), Arc::clone(&stores.messages), options);
        Ok(Self { api, pools, stores })
    }

    /// An empty store in a directory that is to be deleted, with the limits of the configuration
    /// and without its stores and pools.
    ///
    /// # Errors
    /// The store cannot be created.
    pub(crate) fn scratch(settings: &Settings, directory: &Path) -> Result<Self, StartError> {
        let options = zaqar_storage_embedded::Options {
            sync: zaqar_storage_embedded::Sync::Never,
            reserve: 0,
            ..zaqar_storage_embedded::Options::new(directory)
        };
        let store = Arc::new(Embedded::open(options)?);
        let stores = Stores {
            management: Arc::clone(&store) as _,
            messages: store,
            is_one: true,
            message_figures: None,
            management_figures: None,
        };
        let options = api_options(settings, TaskMonitor::default())?;
        let api = Api::new(Arc::clone(&stores.management), Arc::clone(&stores.messages), options);
        Ok(Self { api, pools: None, stores })
    }

    /// Closes the stores.
    ///
    /// # Errors
    /// A store that cannot be closed.
    pub(crate) async fn close(self) -> Result<(), StartError> {
        self.stores.messages.shut_down().await?;
        self.stores.management.shut_down().await?;
        Ok(())
    }
}

/// The limits and the key of a configuration, without anything that serves.
fn api_options(settings: &Settings, tasks: TaskMonitor) -> Result<Options, StartError> {
    let key = settings.message_encryption_key.as_ref();
    let keyring = key.map(Keyring::parse).transpose()?.map(Arc::new);
    let layers = Layers { pipelines: Pipelines::none(), ..Layers::default() };
    Ok(Options { limits: settings.limits.clone(), layers, keyring, tasks, ..Options::default() })
}
