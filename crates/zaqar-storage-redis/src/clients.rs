//! Clients and connections of the `redis` crate, made from a URI.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
};

use crate::config::Options;
use crate::uri::{Host, Servers, Tls, Uri, User};

/// A peer that acknowledges nothing for this long while data is in flight is considered dead.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum time for connecting, whatever `socket_timeout` says: it includes name resolution and the
/// TLS handshake.
const MIN_CONNECT: Duration = Duration::from_secs(1);

/// Timeouts of requests to servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

impl Timeouts {
    pub(crate) fn new(options: &Options) -> Self {
        let answer = options.uri.socket_timeout;
        // The answer of `WAIT` may take this much longer.
        let waits = if options.wait_replicas > 0 { answer } else { Duration::ZERO };
        Self { connect: answer.max(MIN_CONNECT), answer: answer + waits }
    }
}

/// Opens a connection.
pub(crate) async fn connect(
    client: &Client,
    timeouts: Timeouts,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(Some(timeouts.answer));
    client.get_multiplexed_async_connection_with_config(&config).await
}

pub(crate) fn timed_out() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer").into()
}

pub(crate) fn client(uri: &Uri, server: &Servers) -> RedisResult<Client> {
    let addr = match server {
        Servers::Socket(path) => ConnectionAddr::Unix(path.clone()),
        Servers::Single(host) => address(host, uri.tls.is_some()),
        Servers::Sentinel { .. } | Servers::Cluster(_) => {
            return Err((ErrorKind::InvalidClientConfig, "not a single server").into());
        }
    };
    let info: ConnectionInfo = addr
        .into_connection_info()?
        .set_tcp_settings(tcp())
        .set_redis_settings(login(uri.user.as_ref(), uri.database));
    match &uri.tls {
        Some(tls) => Client::build_with_tls(info, certificates(tls)),
        None => Client::open(info),
    }
}

fn address(host: &Host, is_encrypted: bool) -> ConnectionAddr {
    let Host { name, port } = host.clone();
    if is_encrypted {
        ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(name, port)
    }
}

fn login(user: Option<&User>, database: i64) -> RedisConnectionInfo {
    let login = RedisConnectionInfo::default().set_db(database);
    let Some(user) = user else { return login };
    let login = login.set_password(user.password.expose());
    match &user.name {
        Some(name) => login.set_username(name),
        None => login,
    }
}

fn certificates(tls: &Tls) -> TlsCertificates {
    TlsCertificates {
        client_tls: tls.own.as_ref().map(|(certificate, key)| ClientTlsConfig {
            client_cert: certificate.clone(),
            client_key: key.expose().clone(),
        }),
        root_cert: tls.roots.clone(),
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(socket2::TcpKeepalive::new().with_time(PEER_TIMEOUT))
        .set_user_timeout(PEER_TIMEOUT)
}
