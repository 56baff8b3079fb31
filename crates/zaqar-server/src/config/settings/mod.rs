//! The typed settings, one module per part.

mod access;
mod drivers;
mod level;
mod limits;
mod log_config;
mod logging;
mod notification;
mod overload;
mod quotas;
mod traces;
mod transports;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zaqar_core::{Limits, Secret};

pub use access::Access;
pub(crate) use drivers::NOTIFIER;
pub use drivers::{Drivers, Registered};
pub use level::Level;
pub use logging::Logging;
pub use notification::{MailTemplate, Mailer, Notification, SmtpSecurity};
pub use overload::Overload;
pub use traces::{Otlp, Profiler, ProfilerTarget, Traces};
pub use transports::{Admin, Cors, Websocket, Wsgi};

use super::error::Warning;
use super::layer::Layer;
use super::raw::Raw;
use super::reader::{Options, Reader};
use super::section::Section;

/// A checked and typed configuration; options that are not set have their defaults. Printing it
/// shows what is set, and masks secrets and the passwords of URLs.
#[derive(Clone)]
pub struct Settings {
    /// `[DEFAULT] admin_mode`: health, pools and flavors are served.
    pub admin_mode: bool,
    /// `[DEFAULT] unreliable`: a store may be used whose own configuration can lose acknowledged
    /// messages.
    pub unreliable: bool,
    /// `[DEFAULT] pooling`: queues are spread over pools.
    pub pooling: bool,
    /// `[pooling:catalog] enable_virtual_pool`: with pooling, the configured message store takes
    /// queues that no pool takes.
    pub virtual_pool: bool,
    /// `[DEFAULT] enable_checksum`: messages have a checksum of their body.
    pub enable_checksum: bool,
    /// `[DEFAULT] graceful_shutdown_timeout`: how long a stop may take until the stores are closed.
    pub graceful_shutdown_timeout: Duration,
    /// `[DEFAULT] auth_strategy`.
    pub auth_strategy: AuthStrategy,
    /// `[keystone_authtoken]` and `[oslo_policy]`.
    pub access: Access,
    /// Logging options of `[DEFAULT]`.
    pub logging: Logging,
    /// `[admin]`; `None` without a `port`, which disables it.
    pub admin: Option<Admin>,
    /// `[drivers]`.
    pub drivers: Drivers,
    /// `[drivers:transport:wsgi]`.
    pub wsgi: Wsgi,
    /// `[drivers:transport:websocket]`.
    pub websocket: Websocket,
    /// `[cors]`; `None` without an `allowed_origin`, which disables it.
    pub cors: Option<Cors>,
    /// `[transport]`, except encryption.
    pub limits: Limits,
    /// `[limits]`.
    pub overload: Overload,
    /// `[quotas]`; `None` if nothing is limited.
    pub quotas: Option<zaqar_auth::quotas::Options>,
    /// `[traces]` and `[profiler]`.
    pub traces: Traces,
    /// `[transport] message_encryption_key`; there is no default key.
    pub message_encryption_key: Option<Secret<String>>,
    /// `[signed_url] secret_key`; without it no URL can be signed.
    pub signed_url_key: Option<Secret<String>>,
    /// `[storage]`.
    pub pipelines: Pipelines,
    /// `[notification]`.
    pub notification: Notification,
    pub(super) raw: Arc<Raw>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.raw).finish()
    }
}

/// How callers are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthStrategy {
    /// Not at all: the headers of the caller, or of the proxy in front, are trusted.
    None,
    /// By tokens that Keystone validates.
    Keystone,
}

/// Stages in front of the store, by resource, in order. A pipeline that is set to nothing has no
/// stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipelines {
    /// `queue_pipeline`.
    pub queue: Vec<String>,
    /// `message_pipeline`; the notifier if it is not set.
    pub message: Vec<String>,
    /// `claim_pipeline`.
    pub claim: Vec<String>,
    /// `subscription_pipeline`.
    pub subscription: Vec<String>,
    /// `topic_pipeline`.
    pub topic: Vec<String>,
}

impl Settings {
    /// The part of the stop's time that connections and deliveries may use. The rest is for the
    /// tasks that they depend on.
    pub(crate) fn drain_timeout(&self) -> Duration {
        self.graceful_shutdown_timeout * 5 / 6
    }

    /// The section of a driver or stage, which reads its own options.
    pub fn driver_section(&self, name: impl Into<String>) -> Section {
        Section::new(&self.raw, name)
    }

    /// The merged texts: files, origins, and all options for a report.
    pub fn raw(&self) -> &Raw {
        &self.raw
    }

    /// The merged texts as a source of the `config` crate.
    pub fn source(&self) -> Layer {
        Layer::new(&self.raw)
    }

    /// A warning if pools have to be registered elsewhere: until then nothing can be posted.
    pub(super) fn pools_from_elsewhere(&self) -> Option<Warning> {
        if !self.pooling || self.admin_mode || self.virtual_pool {
            return None;
        }
        let what = "[DEFAULT] pooling without admin_mode and without [pooling:catalog] \
                    enable_virtual_pool: nothing can be posted until another server with \
                    admin_mode and the same management store has registered a pool";
        let origin = self.raw.origin("DEFAULT", "pooling");
        Some(Warning::Conflict { origin, what: what.to_owned() })
    }

    pub(super) fn read(reader: &mut Reader, registered: &Registered) -> Self {
        let drivers = drivers::read(reader, registered);
        let strategy = AuthStrategy::read(&mut reader.section("DEFAULT"));
        let access = Access::read(reader, strategy);
        let mut default = reader.section("DEFAULT");
        Self {
            admin_mode: default.boolean("admin_mode"),
            unreliable: default.boolean("unreliable"),
            pooling: default.boolean("pooling"),
            enable_checksum: default.boolean("enable_checksum"),
            graceful_shutdown_timeout: Duration::from_secs(
                default.number("graceful_shutdown_timeout"),
            ),
            auth_strategy: strategy,
            access,
            logging: Logging::read(&mut default),
            virtual_pool: reader.section("pooling:catalog").boolean("enable_virtual_pool"),
            admin: Admin::read(&mut reader.section("admin")),
            drivers,
            wsgi: Wsgi::read(&mut reader.section("drivers:transport:wsgi")),
            websocket: Websocket::read(&mut reader.section("drivers:transport:websocket")),
            cors: Cors::read(&mut reader.section("cors")),
            limits: limits::read(&mut reader.section("transport"), registered.channels()),
            overload: Overload::read(&mut reader.section("limits")),
            quotas: quotas::read(reader),
            traces: Traces::read(reader),
            message_encryption_key: encryption_key(&mut reader.section("transport")),
            signed_url_key: reader.section("signed_url").secret("secret_key"),
            pipelines: Pipelines::read(&mut reader.section("storage"), registered.stages()),
            notification: Notification::read(&mut reader.section("notification")),
            raw: Arc::clone(&reader.raw),
        }
    }
}

impl AuthStrategy {
    fn read(options: &mut Options<'_>) -> Self {
        match options.choice("auth_strategy") {
            "keystone" => Self::Keystone,
            _ => Self::None,
        }
    }
}

impl Pipelines {
    fn read(options: &mut Options<'_>, stages: &[String]) -> Self {
        let mut read = |option| {
            let mut names = options.list(option);
            if names.iter().any(|name| is_extra_spec(name)) {
                names.retain(|name| !is_extra_spec(name));
                options.warn(option, EXTRA_SPEC);
            }
            if !names.iter().all(|name| stages.contains(name)) {
                options.refuse(option, format!("a comma-separated list of: {}", stages.join(", ")));
            }
            names
        };
        Self {
            queue: read("queue_pipeline"),
            message: read("message_pipeline"),
            claim: read("claim_pipeline"),
            subscription: read("subscription_pipeline"),
            topic: read("topic_pipeline"),
        }
    }
}

const EXTRA_SPEC: &str =
    "zaqar.extraspec stages are skipped: this server does not read the header EXTRA-SPEC";

/// Stages of the original that read the header EXTRA-SPEC.
fn is_extra_spec(name: &str) -> bool {
    name == "zaqar.extraspec" || name.starts_with("zaqar.extraspec.")
}

/// The only algorithm is checked by name; the key can be anything.
fn encryption_key(options: &mut Options<'_>) -> Option<Secret<String>> {
    options.choice("message_encryption_algorithms");
    options.secret("message_encryption_key")
}
