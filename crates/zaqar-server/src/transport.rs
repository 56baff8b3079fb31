//! Transport drivers.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_transport::{ConnectionCounts, Listener, Tls, TlsFiles};

use crate::config::Settings;
use crate::config::known::Known;
use crate::drivers::warn_of_untrusted_network;
use crate::error::StartError;

/// Starts one transport.
#[async_trait]
pub trait TransportDriver: Send + Sync {
    /// The options of its section, `drivers:transport:NAME`; anything else there causes a warning.
    fn options(&self) -> &'static [Known];

    /// Checks its options as [`TransportDriver::bind`] reads them, with the files that they name,
    /// but binds nothing: for `config check`.
    ///
    /// # Errors
    /// An option or a file is invalid.
    fn check(&self, settings: &Settings) -> Result<(), StartError>;

    /// Binds its address, so that a port in use is an error at the start. If the service manager
    /// passed a socket for it, it listens on that instead.
    async fn bind(&self, binding: Binding<'_>) -> Result<Box<dyn Transport>, StartError>;
}

/// What a transport is started with.
pub struct Binding<'a> {
    /// The operations.
    pub api: Api,
    /// The configuration.
    pub settings: &'a Settings,
    /// A listening, non-blocking socket from the service manager.
    pub passed: Option<std::net::TcpListener>,
}

/// The configured address of a transport.
pub(crate) struct Endpoint<'a> {
    /// Its section, for errors.
    pub(crate) section: &'static str,
    /// The scheme of its URLs, without and with TLS.
    pub(crate) schemes: [&'static str; 2],
    /// `bind`
    pub(crate) host: &'a str,
    /// `port`
    pub(crate) port: u16,
    /// `unix_socket`
    pub(crate) unix_socket: Option<&'a Path>,
    /// `cert_file` and the others.
    pub(crate) tls: Option<&'a TlsFiles>,
    /// Its protocol names in TLS (ALPN).
    pub(crate) protocols: &'a [&'a str],
}

/// A transport's listener.
pub(crate) struct Bound {
    pub(crate) listener: Listener,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Its address as a URL.
    pub(crate) address: String,
}

/// Reads the certificate and the key of a section.
///
/// # Errors
/// What is wrong with them, with the section's name.
pub(crate) fn load_tls(
    section: &str,
    files: Option<&TlsFiles>,
    protocols: &[&str],
) -> Result<Option<Arc<Tls>>, StartError> {
    let tls = files.map(|files| Tls::load(files.clone(), protocols)).transpose();
    Ok(tls.map_err(|error| format!("[{section}] {error}"))?.map(Arc::new))
}

/// Connections that the system accepts before the server does, as far as `net.core.somaxconn`
/// allows. With Tokio's default, a burst of clients waits a second for the next try of their
/// system.
const BACKLOG: u32 = 4096;

/// Listens on the first address of a host that can be bound.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = None;
    for address in lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As Tokio does: a restart finds connections of the server before.
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("the host has no address")))
}

impl Binding<'_> {
    /// Listens on the passed socket, or else on the endpoint's address.
    ///
    /// # Errors
    /// The system's error, or what is wrong with the TLS files, with the section's name.
    pub(crate) async fn listen(&mut self, endpoint: Endpoint<'_>) -> Result<Bound, StartError> {
        let Endpoint { section, schemes, host, port, unix_socket, tls, protocols } = endpoint;
        let tls = load_tls(section, tls, protocols)?;
        let refused = |at: String| {
            move |error: io::Error| format!("[{section}] cannot listen on {at}: {error}")
        };
        if let (Some(path), None) = (unix_socket, &self.passed) {
            let listener = Listener::bind_unix(path).await;
            let listener = listener.map_err(refused(path.display().to_string()))?;
            return Ok(Bound { listener, tls, address: format!("unix:{}", path.display()) });
        }
        let listener = match self.passed.take() {
            Some(passed) => TcpListener::from_std(passed),
            None => listen(host, port).await,
        };
        let listener = listener.map_err(refused(format!("{host} port {port}")))?;
        let local = listener.local_addr()?;
        warn_of_untrusted_network(local, self.settings);
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
    /// Its address, for the log.
    fn address(&self) -> String;

    /// Its counts of connections for metrics, if it has any.
    fn connections(&self) -> Option<ConnectionCounts>;

    /// Serves until `shutdown`, then answers accepted requests and returns. A transport that panics
    /// or returns earlier stops the whole server.
    async fn run(self: Box<Self>, shutdown: CancellationToken);
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::runtime::raise_descriptor_limit;

    /// None of them is accepted.
    #[tokio::test]
    async fn a_burst_of_connections_is_taken() {
        raise_descriptor_limit();
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let listener = listen("localhost", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let open: Vec<_> = (0..most.min(300)).map(connect).collect();
        assert!(open.len() > 128, "of {most}");
    }
}
