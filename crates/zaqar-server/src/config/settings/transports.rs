//! The sections of the two transports, `[admin]` and `[cors]`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Method};
use zaqar_transport::TlsFiles;

use crate::config::reader::Options;

/// The HTTP transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wsgi {
    /// `bind`: an IP address or a host name.
    pub bind: String,
    /// `port`; 0 means any free port.
    pub port: u16,
    /// `unix_socket`: a Unix socket, instead of `bind` and `port`.
    pub unix_socket: Option<PathBuf>,
    /// `cert_file`, `key_file` and `ca_file`.
    pub tls: Option<TlsFiles>,
}

/// The WebSocket transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Websocket {
    /// `bind`: an IP address or a host name.
    pub bind: String,
    /// `port`; 0 means any free port.
    pub port: u16,
    /// `unix_socket`: a Unix socket, instead of `bind` and `port`.
    pub unix_socket: Option<PathBuf>,
    /// `cert_file`, `key_file` and `ca_file`.
    pub tls: Option<TlsFiles>,
    /// `max_connections`: at once, at most.
    pub max_connections: u64,
    /// `max_message_size`: the largest message from a client in bytes; 0 means twice
    /// `max_messages_post_size`, at least 1 MiB.
    pub max_message_size: u64,
    /// `ping_interval`: a peer that is silent for this long is pinged.
    pub ping_interval: Duration,
    /// `idle_timeout`: a peer that is silent for this long is disconnected.
    pub idle_timeout: Duration,
    /// `unused_timeout`: a peer without token, subscription and requests is disconnected.
    pub unused_timeout: Duration,
    /// `allowed_origin`: origins of pages that may connect; any if it is empty.
    pub allowed_origins: Vec<String>,
}

/// The listener for operators: probes, metrics and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `bind`: an IP address or a host name.
    pub bind: String,
    /// `port`; 0 means any free port.
    pub port: u16,
}

/// Which pages of other origins may send requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `allowed_origin`: origins, or `*`.
    pub allowed_origins: Vec<String>,
    /// `allow_credentials`.
    pub allow_credentials: bool,
    /// `expose_headers`: response headers that a page may read.
    pub expose_headers: Vec<String>,
    /// `max_age`: seconds that a browser may cache the answer; -1 disables caching.
    pub max_age: i64,
    /// `allow_methods`.
    pub allow_methods: Vec<String>,
    /// `allow_headers`: request headers that a page may set.
    pub allow_headers: Vec<String>,
}

impl Wsgi {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        Self {
            bind: options.host("bind"),
            port: options.port("port"),
            unix_socket: unix_socket(options),
            tls: tls(options),
        }
    }
}

/// The longest path of a Unix socket, in bytes, on Linux.
const MAX_SOCKET_PATH: usize = 107;

fn unix_socket(options: &mut Options<'_>) -> Option<PathBuf> {
    const OPTION: &str = "unix_socket";
    let path = options.optional_text(OPTION)?;
    if path.len() > MAX_SOCKET_PATH {
        options.refuse(OPTION, format!("a path of at most {MAX_SOCKET_PATH} bytes"));
    }
    Some(path.into())
}

impl Admin {
    pub(super) fn read(options: &mut Options<'_>) -> Option<Self> {
        let bind = options.host("bind");
        options.optional_port("port").map(|port| Self { bind, port })
    }
}

impl Websocket {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        Self {
            bind: options.host("bind"),
            port: options.port("port"),
            unix_socket: unix_socket(options),
            tls: tls(options),
            max_connections: options.number("max_connections"),
            max_message_size: options.number("max_message_size"),
            ping_interval: Duration::from_secs(options.number("ping_interval")),
            idle_timeout: Duration::from_secs(options.number("idle_timeout")),
            unused_timeout: Duration::from_secs(options.number("unused_timeout")),
            allowed_origins: origins(options),
        }
    }
}

impl Cors {
    pub(super) fn read(options: &mut Options<'_>) -> Option<Self> {
        let cors = Self {
            allowed_origins: origins(options),
            allow_credentials: options.boolean("allow_credentials"),
            expose_headers: parsed::<HeaderName>(options, "expose_headers", "names of headers"),
            max_age: options.integer("max_age"),
            allow_methods: parsed::<Method>(options, "allow_methods", "HTTP methods"),
            allow_headers: parsed::<HeaderName>(options, "allow_headers", "names of headers"),
        };
        (!cors.allowed_origins.is_empty()).then_some(cors)
    }
}

/// A certificate and its key, or neither. The options are named as in oslo.service's `[ssl]`.
fn tls(options: &mut Options<'_>) -> Option<TlsFiles> {
    let certificate = options.optional_text("cert_file");
    let key = options.optional_text("key_file");
    let authorities = options.optional_text("ca_file");
    if key.is_none() && certificate.is_some() {
        options.missing("key_file");
    }
    if certificate.is_none() && (key.is_some() || authorities.is_some()) {
        options.missing("cert_file");
    }
    Some(TlsFiles {
        certificate: certificate?.into(),
        key: key?.into(),
        client_authorities: authorities.map(PathBuf::from),
    })
}

/// Checked because a mistyped origin would silently match no page.
fn origins(options: &mut Options<'_>) -> Vec<String> {
    let origins = options.list("allowed_origin");
    if !origins.iter().all(|origin| is_origin(origin)) {
        let allowed = "origins such as https://console.example.org, or *, separated by commas";
        options.refuse("allowed_origin", allowed);
    }
    origins
}

fn is_origin(text: &str) -> bool {
    let is_host = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@".contains(&b))
    };
    let is_web = |(scheme, host): (&str, &str)| !scheme.is_empty() && is_host(host);
    ["*", "null"].contains(&text) || text.split_once("://").is_some_and(is_web)
}

fn parsed<T: FromStr>(options: &mut Options<'_>, option: &str, what: &str) -> Vec<String> {
    let texts = options.list(option);
    if texts.iter().any(|text| text.parse::<T>().is_err()) {
        options.refuse(option, format!("{what}, separated by commas"));
    }
    texts
}
