//! What a transport driver is.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_transport::{ConnectionCounts, Listener, Tls, TlsFiles};

use crate::config::Settings;
use crate::config::known::Known;
use crate::drivers::warn_of_strangers;
use crate::error::StartError;

/// Starts one transport.
#[async_trait]
pub trait TransportDriver: Send + Sync {
    /// The options of its section, `drivers:transport:NAME`; anything else there is warned of.
    fn options(&self) -> &'static [Known];

    /// Binds its address, so that a port in use is an error at the start; where the service
    /// manager passed a socket for it, it listens on that one instead.
    async fn bind(&self, binding: Binding<'_>) -> Result<Box<dyn Transport>, StartError>;
}

/// What a transport is started with.
pub struct Binding<'a> {
    /// The operations.
    pub api: Api,
    /// The configuration.
    pub settings: &'a Settings,
    /// A listening socket from the service manager, which does not block.
    pub passed: Option<std::net::TcpListener>,
}

/// Where a transport listens, and how.
pub(crate) struct Endpoint<'a> {
    /// The section that says so, for errors.
    pub(crate) section: &'static str,
    /// The wire's name in addresses, without and within TLS.
    pub(crate) schemes: [&'static str; 2],
    /// `bind`
    pub(crate) host: &'a str,
    /// `port`
    pub(crate) port: u16,
    /// `unix_socket`
    pub(crate) unix_socket: Option<&'a Path>,
    /// `cert_file` and the others.
    pub(crate) tls: Option<&'a TlsFiles>,
    /// What the wire is called in TLS.
    pub(crate) protocols: &'a [&'a str],
}

/// A transport's listener.
pub(crate) struct Bound {
    pub(crate) listener: Listener,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Where it listens, as a URL.
    pub(crate) address: String,
}

impl Binding<'_> {
    /// Listens on the socket that was passed, or else where the endpoint says.
    ///
    /// # Errors
    /// What the system said, or what is wrong with the TLS files, with the section's name.
    pub(crate) async fn listen(&mut self, endpoint: Endpoint<'_>) -> Result<Bound, StartError> {
        let Endpoint { section, schemes, host, port, unix_socket, tls, protocols } = endpoint;
        let tls = tls.map(|files| Tls::load(files.clone(), protocols)).transpose();
        let tls = tls.map_err(|error| format!("[{section}] {error}"))?.map(Arc::new);
        let refused = |at: String| {
            move |error: std::io::Error| format!("[{section}] cannot listen on {at}: {error}")
        };
        if let (Some(path), None) = (unix_socket, &self.passed) {
            let listener = Listener::bind_unix(path).await;
            let listener = listener.map_err(refused(path.display().to_string()))?;
            return Ok(Bound { listener, tls, address: format!("unix:{}", path.display()) });
        }
        let listener = match self.passed.take() {
            Some(passed) => TcpListener::from_std(passed),
            None => TcpListener::bind((host, port)).await,
        };
        let listener = listener.map_err(refused(format!("{host} port {port}")))?;
        let local = listener.local_addr()?;
        warn_of_strangers(local, self.settings);
        let address = format!("{}://{local}", schemes[usize::from(tls.is_some())]);
        Ok(Bound { listener: listener.into(), tls, address })
    }
}

impl fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("passed", &self.passed).finish_non_exhaustive()
    }
}

/// A transport that has bound its address.
#[async_trait]
pub trait Transport: Send {
    /// Where it listens, for the log.
    fn address(&self) -> String;

    /// Its counts of connections, for metrics, where it has any.
    fn connections(&self) -> Option<ConnectionCounts>;

    /// Serves until `shutdown`, then answers what was accepted, and returns. A transport that
    /// panics or returns earlier ends the whole server.
    async fn run(self: Box<Self>, shutdown: CancellationToken);
}
