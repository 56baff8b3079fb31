//! Authentication, policies and quotas: builds the layers from the settings.

use std::sync::Arc;

use tracing::{info, warn};
use zaqar_api::{Authenticator, Layers, Policy, ProjectQuotas, Quota};
use zaqar_auth::keystone::Session;
use zaqar_auth::{Keystone, Permissions, Quotas};
use zaqar_core::Clock;

use crate::config::Settings;
use crate::drivers::in_section;
use crate::error::StartError;
use crate::store::Stores;

/// The parts of authentication and authorization.
pub(crate) struct Access {
    authenticator: Option<Arc<dyn Authenticator>>,
    /// This server's own session with Keystone.
    pub(crate) session: Option<Arc<Session>>,
    /// Reloaded while [`Permissions::watch`] runs.
    pub(crate) permissions: Arc<Permissions>,
    /// `None` if the settings limit nothing.
    pub(crate) quotas: Option<Quotas>,
}

/// Checks what [`Access::new`] reads besides the stores: certificates for Keystone, policies, and
/// the quotas of projects. Returns errors, and warnings.
pub(crate) fn check(settings: &Settings, clock: &Arc<dyn Clock>) -> (Vec<StartError>, Vec<String>) {
    let (mut errors, mut warnings): (Vec<StartError>, _) = (Vec::new(), Vec::new());
    if let Some(options) = &settings.access.keystone {
        errors.extend(Session::new(options.clone(), Arc::clone(clock)).err().map(StartError::from));
    }
    match settings.access.policies.load() {
        Ok(loaded) => {
            warnings.extend(loaded.problems.iter().map(|one| format!("[oslo_policy] {one}")));
        }
        Err(error) => errors.push(in_section("oslo_policy", &error)),
    }
    if let Some(Err(error)) = settings.quotas.as_ref().map(zaqar_auth::quotas::Options::check) {
        errors.push(in_section("quotas", &error));
    }
    (errors, warnings)
}

impl Access {
    /// Reads the policies and the quotas. Keystone is first contacted for the first token.
    pub(crate) fn new(
        settings: &Settings,
        stores: &Stores,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let access = &settings.access;
        let session = access.keystone.as_ref().map(|options| {
            info!(url = options.auth_url, "tokens are validated by Keystone");
            if options.tls.insecure {
                warn!(
                    "[keystone_authtoken] insecure is set: Keystone's certificate is not verified"
                );
            }
            Session::new(options.clone(), Arc::clone(clock))
        });
        let session = session.transpose()?.map(Arc::new);
        let authenticator = session
            .as_ref()
            .map(|session| Keystone::with_session(Arc::clone(session), Arc::clone(clock)));
        let permissions = Permissions::load(access.policies.clone())
            .map_err(|error| in_section("oslo_policy", &error))?;
        Ok(Self {
            authenticator: authenticator.map(|keystone| Arc::new(keystone) as _),
            session,
            permissions: Arc::new(permissions),
            quotas: quotas(settings, stores, clock)?,
        })
    }

    /// Adds the layers.
    pub(crate) fn layers(&self, layers: Layers) -> Layers {
        let policy = Some(Arc::clone(&self.permissions) as Arc<dyn Policy>);
        let quota = self.quotas.clone().map(|quotas| Arc::new(quotas) as Arc<dyn Quota>);
        let managed = self.quotas.clone().filter(Quotas::is_managed);
        let project_quotas = managed.map(|quotas| Arc::new(quotas) as Arc<dyn ProjectQuotas>);
        let authenticator = self.authenticator.clone();
        Layers { authenticator, quota, project_quotas, policy, ..layers }
    }

    /// Reads what must be in force before the first request, for a bounded time.
    pub(crate) async fn begin(&self) {
        if let Some(quotas) = self.quotas.as_ref().filter(|quotas| quotas.is_managed()) {
            quotas.begin().await;
        }
    }
}

fn quotas(
    settings: &Settings,
    stores: &Stores,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Quotas>, StartError> {
    let Some(options) = &settings.quotas else { return Ok(None) };
    let management = Arc::clone(&stores.management) as _;
    let messages = Arc::clone(&stores.messages);
    let quotas = Quotas::load(options, management, messages, Arc::clone(clock));
    Ok(Some(quotas.map_err(|error| in_section("quotas", &error))?))
}
