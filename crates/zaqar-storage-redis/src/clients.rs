//! Clients of the `redis` crate, made from a URI.

use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::io::tcp::{TcpSettings, socket2};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};

use crate::uri::{Host, Servers, Tls, Uri, User};

/// A peer that is silent for this long while data is on its way to it is taken to be gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn client(uri: &Uri, server: &Servers) -> RedisResult<Client> {
    let addr = match server {
        Servers::Socket(path) => ConnectionAddr::Unix(path.clone()),
        Servers::Single(host) => address(host, uri.tls.is_some()),
        Servers::Sentinel { .. } | Servers::Cluster(_) => {
            return Err((ErrorKind::InvalidClientConfig, "not one server").into());
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

pub(crate) fn cluster(
    uri: &Uri,
    hosts: &[Host],
    connect: Duration,
    answer: Duration,
) -> RedisResult<ClusterClient> {
    let nodes = hosts.iter().map(|host| address(host, uri.tls.is_some()));
    let mut builder = ClusterClient::builder(nodes)
        // It would repeat what may have been done. Redirections come back as errors, and the driver repeats those.
        .retries(0)
        .connection_timeout(connect)
        .response_timeout(answer)
        .overall_response_timeout(None)
        .tcp_settings(tcp());
    if let Some(user) = &uri.user {
        builder = builder.password(user.password.expose());
        if let Some(name) = &user.name {
            builder = builder.username(name);
        }
    }
    if let Some(tls) = &uri.tls {
        builder = builder.tls(TlsMode::Secure).certs(certificates(tls));
    }
    builder.build()
}

pub(crate) fn sentinel(
    uri: &Uri,
    hosts: &[Host],
    master: &str,
    user: Option<&User>,
) -> RedisResult<SentinelClient> {
    let hosts = hosts.iter().map(|host| address(host, uri.tls.is_some()));
    let mut builder = SentinelClientBuilder::new(hosts, master, SentinelServerType::Master)?
        .set_client_to_redis_db(uri.database)
        .set_client_to_redis_tcp_settings(tcp())
        .set_client_to_sentinel_tcp_settings(tcp());
    if let Some(user) = &uri.user {
        builder = builder.set_client_to_redis_password(user.password.expose());
        if let Some(name) = &user.name {
            builder = builder.set_client_to_redis_username(name);
        }
    }
    if let Some(user) = user {
        builder = builder.set_client_to_sentinel_password(user.password.expose());
        if let Some(name) = &user.name {
            builder = builder.set_client_to_sentinel_username(name);
        }
    }
    if let Some(tls) = &uri.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates(tls))
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates(tls));
    }
    builder.build()
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
