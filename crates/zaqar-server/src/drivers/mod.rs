//! The drivers that come with the server, each created from its section of the settings.

use std::net::SocketAddr;

use crate::config::{AuthStrategy, Settings};
use crate::error::{StartError, with_causes};

pub(crate) mod embedded;
#[cfg(feature = "mongodb")]
pub(crate) mod mongodb;
pub(crate) mod redis;
pub(crate) mod snapshots;
pub(crate) mod websocket;
pub(crate) mod wsgi;

/// Without an authentication strategy callers are trusted, which is only safe among programs on one
/// machine.
pub(crate) fn warn_of_untrusted_network(local: SocketAddr, settings: &Settings) {
    if settings.auth_strategy == AuthStrategy::None && !local.ip().is_loopback() {
        tracing::warn!(
            address = %local,
            "auth_strategy is empty and the server listens on more than loopback: any caller can act as any project"
        );
    }
}

/// Prefixes an error with its section, and adds its causes.
pub(crate) fn in_section(name: &str, error: &(dyn std::error::Error + 'static)) -> StartError {
    format!("[{name}] {}", with_causes(error)).into()
}
