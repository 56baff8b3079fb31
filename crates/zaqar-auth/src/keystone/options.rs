//! The options of `[keystone_authtoken]`.

use std::path::PathBuf;
use std::time::Duration;

use zaqar_core::Secret;

use super::shared_cache::SharedCacheOptions;

/// How Keystone is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// `auth_url`, with or without `/v3` at its end.
    pub auth_url: String,
    /// This service's own credential.
    pub credential: Credential,
    /// `interface`: which endpoint of the identity service validates tokens.
    pub interface: Interface,
    /// `region_name`: the region of that endpoint; `None` takes the first one.
    pub region_name: Option<String>,
    /// TLS options.
    pub tls: Tls,
    /// `http_connect_timeout`: for connecting.
    pub connect_timeout: Duration,
    /// For a whole request, connecting included.
    pub timeout: Duration,
    /// `http_request_max_retries`: how often connecting is retried.
    pub retries: u32,
    /// `token_cache_time`: how long a validation is cached; zero disables the cache.
    pub cached_for: Duration,
    /// Validated tokens that are cached, at most.
    pub cached_tokens: u64,
    /// `memcached_servers` and what belongs to it: validations are shared there.
    pub shared_cache: Option<SharedCacheOptions>,
    /// Validations that wait for Keystone at a time, at most.
    pub max_waiting: usize,
    /// `service_token_roles` and `service_token_roles_required`.
    pub service_tokens: ServiceTokens,
    /// `service_type`, for the access rules of application credentials.
    pub service_type: Option<String>,
    /// `www_authenticate_uri`: where clients are told to authenticate; `None` means `auth_url`.
    pub www_authenticate_uri: Option<String>,
    /// `delay_auth_decision`: requests without a valid token go on, without an identity.
    pub delay_auth_decision: bool,
    /// `include_service_catalog`: request the catalog with each token.
    pub include_service_catalog: bool,
}

/// This service's own credential.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `auth_type = password` (or `v3password`).
    Password {
        /// `username`, or `user_id`.
        user: Name,
        /// `user_domain_name` or `user_domain_id`, for a user given by name.
        domain: Name,
        /// `password`.
        password: Secret<String>,
        /// The scope of the token.
        scope: Scope,
    },
    /// `auth_type = v3applicationcredential`.
    Application {
        /// `application_credential_id`, or its name and the user's.
        id: ApplicationId,
        /// `application_credential_secret`.
        secret: Secret<String>,
    },
}

/// A name or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// Unique on its own.
    Id(String),
    /// Unique within its domain.
    Name(String),
}

/// Which application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationId {
    /// By its id.
    Id(String),
    /// By its name and its owner.
    Name {
        /// Its name.
        name: String,
        /// The owner.
        user: Name,
        /// The owner's domain, for an owner given by name.
        domain: Name,
    },
}

/// The scope of our own token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// None: Keystone issues an unscoped token, or one for the user's default project.
    Unscoped,
    /// `project_name` or `project_id`, with `project_domain_name` or `project_domain_id`.
    Project {
        /// The project.
        project: Name,
        /// Its domain, for a project given by name.
        domain: Name,
    },
    /// `domain_name` or `domain_id`.
    Domain(Name),
    /// `system_scope = all`.
    System,
    /// A trust that somebody else made.
    Trust(String),
}

/// Which endpoint of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// For services (the default).
    Internal,
    /// For users.
    Public,
    /// For administrators.
    Admin,
}

impl Interface {
    /// Its name in a catalog.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }
}

/// How TLS is used with Keystone.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// `cafile`: the authorities to trust. Without it, those of the file that the environment
    /// variable `REQUESTS_CA_BUNDLE` names, else the system's.
    pub cafile: Option<PathBuf>,
    /// `certfile` and `keyfile`: our own certificate.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `insecure`: accept any server certificate.
    pub insecure: bool,
}

/// Which service tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTokens {
    /// A service token counts if it has one of these roles.
    pub roles: Vec<String>,
    /// Whether a token without such a role is rejected as a service token.
    pub required: bool,
}

impl Default for ServiceTokens {
    fn default() -> Self {
        Self { roles: vec!["service".to_owned()], required: true }
    }
}

impl Options {
    /// The defaults of keystonemiddleware, and ours where it has none: 5 s to connect, 15 s in all,
    /// 10 000 cached tokens, 256 validations at once.
    pub fn new(auth_url: &str, credential: Credential) -> Self {
        Self {
            auth_url: auth_url.to_owned(),
            credential,
            interface: Interface::Internal,
            region_name: None,
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            retries: 3,
            cached_for: Duration::from_secs(300),
            cached_tokens: 10_000,
            shared_cache: None,
            max_waiting: 256,
            service_tokens: ServiceTokens::default(),
            service_type: None,
            www_authenticate_uri: None,
            delay_auth_decision: false,
            include_service_catalog: true,
        }
    }
}
