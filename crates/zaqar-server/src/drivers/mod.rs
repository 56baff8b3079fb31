//! The drivers that come with the server, each made from its section of the settings.

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

/// Without a strategy a caller is who it says it is, which is fine among one machine's own
/// programs.
pub(crate) fn warn_of_strangers(local: SocketAddr, settings: &Settings) {
    if settings.auth_strategy == AuthStrategy::None && !local.ip().is_loopback() {
        tracing::warn!(
            address = %local,
            "auth_strategy is empty and the server listens on more than loopback: whoever reaches it is any project it says it is"
        );
    }
}

/// Says which section an error is about, and everything behind it.
fn in_section(name: &str, error: &(dyn std::error::Error + 'static)) -> StartError {
    format!("[{name}] {}", with_causes(error)).into()
}
