//! Connections: only to allowed addresses, and with a timeout.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tower_service::Service;
use tracing::warn;
use zaqar_core::{ProjectId, StateLog};

use super::Resolve;
use super::open::{CountedStream, Open, OpenConnections};
use crate::address::{Networks, Refused};
use crate::target::literal;

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    /// The project whose request is being sent: a connector is only given the URI.
    pub(super) static PROJECT: ProjectId;
}

/// Why connecting failed, in words that a tenant may read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The address that the URI names is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The name has no address, or one that is refused. Which of them would tell a tenant what
    /// names exist inside the operator's network, so only the log says it.
    #[error("the name leads to no address that webhooks may reach")]
    Name,
    /// None of the addresses accepts a connection.
    #[error("no address accepts a connection")]
    Dial(#[source] io::Error),
}

/// Logs names that lead nowhere: tenants choose them, so not each one.
static NAMES: StateLog = StateLog::new();

/// Why a name leads nowhere, for the operator.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("the name does not resolve")]
    Resolve(#[from] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("the name leads to an address that is refused")]
    Refused(#[from] Refused),
}

fn hide(name: &str, error: &LookupError) -> ConnectError {
    if let Some(failures) = NAMES.failure() {
        let error = error as &dyn std::error::Error;
        warn!(error, host = name, failures, "the host of a webhook leads nowhere");
    }
    ConnectError::Name
}

/// Resolves a host, checks all its addresses, and dials one after the other.
#[derive(Clone)]
pub(super) struct Guarded {
    resolver: Arc<dyn Resolve>,
    networks: Arc<Networks>,
    open: OpenConnections,
    is_kept: bool,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("networks", &self.networks).finish_non_exhaustive()
    }
}

impl Guarded {
    /// Connections are kept when their requests have ended.
    pub(super) fn new(
        resolver: impl Resolve + 'static,
        networks: Networks,
        open: OpenConnections,
    ) -> Self {
        let (resolver, networks) = (Arc::new(resolver), Arc::new(networks));
        Self { resolver, networks, open, is_kept: true }
    }

    /// The same, for connections that are not kept.
    pub(super) fn unkept(&self) -> Self {
        Self { is_kept: false, ..self.clone() }
    }

    /// The addresses of a host; an error if one of them is refused.
    async fn resolve(
        &self,
        project: &ProjectId,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        let addresses = match literal(host) {
            Some(address) => {
                self.networks.check(address)?;
                vec![address]
            }
            None => self.look_up(project, host).await.map_err(|error| hide(host, &error))?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn look_up(&self, project: &ProjectId, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let addresses = self.resolver.resolve(project, name).await?;
        if addresses.is_empty() {
            return Err(LookupError::NoAddress);
        }
        self.networks.check_all(addresses.iter().copied())?;
        Ok(addresses)
    }

    async fn connect(self, uri: Uri, open: Open) -> Result<CountedStream, ConnectError> {
        let is_secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let host = uri.host().unwrap_or_default();
        let mut last = None;
        for address in self.resolve(open.project(), host, port).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(ConnectError::Dial)?;
                    return Ok(CountedStream::new(stream, self.is_kept, open));
                }
                Err(error) => last = Some(error),
            }
        }
        // A name has at least one address.
        last.map_or(Err(ConnectError::Name), |error| Err(ConnectError::Dial(error)))
    }
}

impl Service<Uri> for Guarded {
    type Response = CountedStream;
    type Error = ConnectError;
    type Future = Connecting<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match PROJECT.try_with(ProjectId::clone) {
            Ok(project) => Box::pin(self.clone().connect(uri, self.open.open(project))),
            Err(error) => Box::pin(async move { Err(ConnectError::Dial(io::Error::other(error))) }),
        }
    }
}

/// Applies a timeout to connecting, including the TLS handshake, and chooses between connections
/// that are kept and ones that are not.
#[derive(Debug, Clone)]
pub(super) struct Bounded<C> {
    kept: C,
    /// Without HTTP/2, whose connections are in the pool as soon as they are open.
    unkept: C,
    open: OpenConnections,
    timeout: Duration,
}

impl<C> Bounded<C> {
    pub(super) const fn new(kept: C, unkept: C, open: OpenConnections, timeout: Duration) -> Self {
        Self { kept, unkept, open, timeout }
    }
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Connecting<C::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.kept.poll_ready(context) {
            Poll::Ready(Ok(())) => self.unkept.poll_ready(context),
            other @ (Poll::Ready(Err(_)) | Poll::Pending) => other,
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_kept = PROJECT.try_with(|project| self.open.has_room(project)).unwrap_or(false);
        let connector = if is_kept { &mut self.kept } else { &mut self.unkept };
        let connecting = connector.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    let millis = timeout.as_millis();
                    Err(format!("not connected within {millis} ms").into())
                }
            }
        })
    }
}
