//! The WebSocket transport.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tracing::error;
use zaqar_transport_ws::{ALPN, ConnectionCounts, Options, Server, ServerOptions, WsService};

use crate::config::known::{Known, WEBSOCKET};
use crate::config::{Settings, Websocket};
use crate::error::StartError;
use crate::transport::{Binding, Bound, Endpoint, Transport, TransportDriver, load_tls};

/// A message that is too large to be posted must still be received, so that its sender gets an
/// error.
const LEAST_MESSAGE_SIZE: u64 = 1024 * 1024;

const SECTION: &str = "drivers:transport:websocket";

pub(crate) struct Driver;

struct WebSocket {
    server: Server,
    address: String,
}

#[async_trait]
impl TransportDriver for Driver {
    fn options(&self) -> &'static [Known] {
        WEBSOCKET
    }

    fn check(&self, settings: &Settings) -> Result<(), StartError> {
        options(&settings.websocket, settings)?;
        load_tls(SECTION, settings.websocket.tls.as_ref(), ALPN).map(drop)
    }

    async fn bind(&self, mut binding: Binding<'_>) -> Result<Box<dyn Transport>, StartError> {
        let settings = binding.settings;
        let section = &settings.websocket;
        let endpoint = Endpoint {
            section: SECTION,
            schemes: ["ws", "wss"],
            host: &section.bind,
            port: section.port,
            unix_socket: section.unix_socket.as_deref(),
            tls: section.tls.as_ref(),
            protocols: ALPN,
        };
        let Bound { listener, tls, address } = binding.listen(endpoint).await?;
        let service = WsService::new(binding.api, options(section, settings)?);
        let max_connections = usize::try_from(section.max_connections)?;
        let options = ServerOptions { max_connections, tls, ..ServerOptions::default() };
        let server = Server { listener, service, options };
        Ok(Box::new(WebSocket { server, address }))
    }
}

#[async_trait]
impl Transport for WebSocket {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn connections(&self) -> Option<ConnectionCounts> {
        Some(self.server.options.connections.clone())
    }

    async fn run(self: Box<Self>, shutdown: CancellationToken) {
        if let Err(error) = self.server.run(shutdown).await {
            let error = &error as &dyn std::error::Error;
            error!(error, "a transport failed");
        }
    }
}

fn options(section: &Websocket, settings: &Settings) -> Result<Options, StartError> {
    let raw = settings.driver_section("drivers:transport:websocket");
    let post_size = settings.limits.max_messages_post_size;
    let max_message_size = match section.max_message_size {
        0 => LEAST_MESSAGE_SIZE.max(post_size.saturating_mul(2)),
        size if size < post_size => {
            let allowed = format!("0, or at least [transport] max_messages_post_size, {post_size}");
            return Err(raw.invalid("max_message_size", allowed).into());
        }
        size => size,
    };
    if section.idle_timeout <= section.ping_interval {
        let allowed = "such that clients are pinged before they are disconnected: ping_interval must be less than idle_timeout";
        let is_set = raw.options().any(|option| option == "idle_timeout");
        let option = if is_set { "idle_timeout" } else { "ping_interval" };
        return Err(raw.invalid(option, allowed).into());
    }
    Ok(Options {
        max_message_size: usize::try_from(max_message_size)?,
        ping_interval: section.ping_interval,
        idle_timeout: section.idle_timeout,
        unused_timeout: section.unused_timeout,
        allowed_origins: section.allowed_origins.clone(),
        grace: settings.drain_timeout(),
        admin: settings.admin_mode,
        ..Options::default()
    })
}
