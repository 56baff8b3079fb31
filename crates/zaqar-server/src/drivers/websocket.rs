//! The WebSocket transport.

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_transport_ws::{Options, Server, ServerOptions, WsService};

use crate::config::{Settings, Websocket};
use crate::drivers::warn_of_strangers;
use crate::registry::{StartError, Transport, TransportDriver};

/// A message that is not allowed to be posted must still fit: its sender is to be told why.
const LEAST_MESSAGE_SIZE: u64 = 1024 * 1024;

pub(crate) struct Driver;

struct Bound {
    server: Server,
    address: String,
}

#[async_trait]
impl TransportDriver for Driver {
    async fn bind(&self, api: Api, settings: &Settings) -> Result<Box<dyn Transport>, StartError> {
        let section = &settings.websocket;
        let (host, port) = (section.bind.as_str(), section.port);
        let listener = TcpListener::bind((host, port)).await.map_err(|error| {
            format!("[drivers:transport:websocket] cannot listen on {host} port {port}: {error}")
        })?;
        let local = listener.local_addr()?;
        warn_of_strangers(local, settings);
        let service = WsService::new(api, options(section, settings)?);
        let max_connections = usize::try_from(section.max_connections)?;
        let server = Server { listener, service, options: ServerOptions { max_connections } };
        Ok(Box::new(Bound { server, address: format!("ws://{local}") }))
    }
}

#[async_trait]
impl Transport for Bound {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn run(self: Box<Self>, shutdown: CancellationToken) {
        self.server.run(shutdown).await;
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
        let allowed = "such that no client is gone before it is asked: ping_interval must be less than idle_timeout";
        let is_set = raw.options().any(|option| option == "idle_timeout");
        let option = if is_set { "idle_timeout" } else { "ping_interval" };
        return Err(raw.invalid(option, allowed).into());
    }
    Ok(Options {
        max_message_size: usize::try_from(max_message_size)?,
        ping_interval: section.ping_interval,
        idle_timeout: section.idle_timeout,
        allowed_origins: section.allowed_origins.clone(),
        admin: settings.admin_mode,
        ..Options::default()
    })
}
