//! What the configuration says of Keystone.

use std::path::PathBuf;
use std::time::Duration;

use zaqar_core::Secret;

/// How Keystone is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// `auth_url`, with or without `/v3` at its end.
    pub auth_url: String,
    /// Who we are.
    pub credential: Credential,
    /// `interface`: which endpoint of the identity service validates tokens.
    pub interface: Interface,
    /// `region_name`: the region of that endpoint; the first one where it is `None`.
    pub region_name: Option<String>,
    /// How TLS is spoken.
    pub tls: Tls,
    /// `http_connect_timeout`: until a connection stands.
    pub connect_timeout: Duration,
    /// Until an answer is there, the connection included.
    pub timeout: Duration,
    /// `http_request_max_retries`: how often a connection that failed is tried again.
    pub retries: u32,
    /// `token_cache_time`: how long a validation holds; zero for no cache.
    pub cached_for: Duration,
    /// Validations that are remembered, at most.
    pub cached_tokens: u64,
    /// Validations that wait for Keystone at a time, at most.
    pub max_waiting: usize,
    /// `service_token_roles` and `service_token_roles_required`.
    pub service_tokens: ServiceTokens,
    /// `service_type`, for the access rules of application credentials.
    pub service_type: Option<String>,
    /// `www_authenticate_uri`: where clients are told to authenticate; `auth_url` where it is
    /// `None`.
    pub www_authenticate_uri: Option<String>,
    /// `delay_auth_decision`: requests without a valid token go on, without an identity.
    pub delay_auth_decision: bool,
    /// `include_service_catalog`: ask for the catalog with each token.
    pub include_service_catalog: bool,
}

/// Who we are to Keystone.
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
        /// What the token is for.
        scope: Scope,
    },
    /// `auth_type = v3applicationcredential`.
    Application {
        /// `application_credential_id`, or its name with the user's.
        id: ApplicationId,
        /// `application_credential_secret`.
        secret: Secret<String>,
    },
}

/// A name or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// Unique by itself.
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

/// What our own token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: Keystone gives an unscoped token, or one for the user's default project.
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
    /// A trust of somebody else's.
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

/// How TLS is spoken with Keystone.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// `cafile`: the authorities to trust, instead of the system's.
    pub cafile: Option<PathBuf>,
    /// `certfile` and `keyfile`: our own certificate.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `insecure`: whose certificate it is does not matter.
    pub insecure: bool,
}

/// Which tokens of services count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTokens {
    /// A service token counts if it has one of these roles.
    pub roles: Vec<String>,
    /// Whether one without such a role is no service token at all.
    pub required: bool,
}

impl Default for ServiceTokens {
    fn default() -> Self {
        Self { roles: vec!["service".to_owned()], required: true }
    }
}

impl Options {
    /// The defaults of keystonemiddleware, and ours where it has none: five seconds to connect, 15
    /// in all, 10 000 tokens remembered, 256 validations at a time.
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
            max_waiting: 256,
            service_tokens: ServiceTokens::default(),
            service_type: None,
            www_authenticate_uri: None,
            delay_auth_decision: false,
            include_service_catalog: true,
        }
    }
}
