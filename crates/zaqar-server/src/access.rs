//! Who may do what: the layers that the settings ask for.

use std::sync::Arc;

use tracing::{info, warn};
use zaqar_api::{Authenticator, Layers, Policy};
use zaqar_auth::{Keystone, Permissions};
use zaqar_core::Clock;

use crate::config::Settings;
use crate::error::{StartError, with_causes};

/// What identity and policy need.
pub(crate) struct Access {
    authenticator: Option<Arc<dyn Authenticator>>,
    /// Reloads itself while [`Permissions::watch`] runs.
    pub(crate) permissions: Arc<Permissions>,
}

impl Access {
    /// Reads the policies. Keystone is asked when the first token comes.
    pub(crate) fn new(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        let access = &settings.access;
        let authenticator = access.keystone.as_ref().map(|options| {
            info!(url = options.auth_url, "tokens are checked with Keystone");
            if options.tls.insecure {
                warn!("[keystone_authtoken] insecure is set: anybody may answer for Keystone");
            }
            Keystone::new(options.clone(), Arc::clone(clock))
        });
        let authenticator = authenticator.transpose()?;
        let permissions = Permissions::load(access.policies.clone())
            .map_err(|error| format!("[oslo_policy] {}", with_causes(&error)))?;
        Ok(Self {
            authenticator: authenticator.map(|keystone| Arc::new(keystone) as _),
            permissions: Arc::new(permissions),
        })
    }

    /// Adds the layers.
    pub(crate) fn layers(&self, layers: Layers) -> Layers {
        let policy = Some(Arc::clone(&self.permissions) as Arc<dyn Policy>);
        Layers { authenticator: self.authenticator.clone(), policy, ..layers }
    }
}
