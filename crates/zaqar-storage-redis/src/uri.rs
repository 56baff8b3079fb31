//! URIs of servers: those of the original, with TLS and Cluster added.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use zaqar_core::{Secret, canonical_host};

use crate::error::Error;
use crate::keys::KNOWN_LAYOUTS;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// A parsed URI: see `docs.md` for its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// The servers.
    pub servers: Servers,
    /// The user and password for the servers.
    pub user: Option<User>,
    /// How connections are encrypted; `None` for no encryption.
    pub tls: Option<Tls>,
    /// `dbid`: the database.
    pub database: i64,
    /// `socket_timeout`: how long a server may take to answer.
    pub socket_timeout: Duration,
    /// `layout`: the layout of an empty store, or the one to which an older store is raised.
    pub layout: Option<u32>,
}

/// The servers that a URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server.
    Single(Host),
    /// One server, by the path of its socket.
    Socket(PathBuf),
    /// The server that these Sentinels name as the master.
    Sentinel {
        /// The Sentinels.
        hosts: Vec<Host>,
        /// `master`: the name of the monitored master.
        master: String,
        /// `sentinel_username` and `sentinel_password`.
        user: Option<User>,
    },
    /// A Cluster, by some of its nodes.
    Cluster(Vec<Host>),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// A user and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user; `None` for the default one.
    pub name: Option<String>,
    /// The password.
    pub password: Secret<String>,
}

/// Certificates, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ssl_ca_certs`: the trusted authorities; `None` for those of the system.
    pub roots: Option<Vec<u8>>,
    /// `ssl_certfile`, `ssl_keyfile`: our own certificate and its key.
    pub own: Option<(Vec<u8>, Secret<Vec<u8>>)>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// The addresses, without credentials, for errors and the log.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |hosts: &[Host]| hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Single(host) => write!(f, "{host}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Sentinel { hosts, master, .. } => {
                write!(f, "the master {master} of Sentinel {}", list(hosts))
            }
            Self::Cluster(hosts) => write!(f, "the Cluster {}", list(hosts)),
        }
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| wrong("has no scheme"))?;
        let is_encrypted = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(wrong("must begin with redis: or rediss:")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut query = Query::parse(query)?;
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            },
            None => ("", rest),
        };
        let (user, hosts) = match authority.split_once('@') {
            Some((user, hosts)) => (credentials(user)?, hosts),
            None => (None, authority),
        };
        let servers = servers(hosts, path, &mut query)?;
        let uri = Self {
            user,
            tls: if is_encrypted { Some(Tls::read(&mut query)?) } else { None },
            database: query.number("dbid")?.unwrap_or(0),
            socket_timeout: query.seconds("socket_timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            layout: layout(&mut query)?,
            servers,
        };
        query.end()?;
        uri.check()
    }
}

impl Uri {
    /// Whether both lead to one store, as far as that is known without a connection: by the same
    /// server, or one node or Sentinel in common, whoever logs in and however. Names are not
    /// resolved.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.database == other.database && self.servers.is_one_with(&other.servers)
    }

    fn check(self) -> Result<Self, Error> {
        if matches!(self.servers, Servers::Socket(_)) && self.tls.is_some() {
            return Err(wrong("cannot have both a socket's path and rediss:"));
        }
        if matches!(self.servers, Servers::Cluster(_)) && self.database != 0 {
            return Err(wrong("cannot have dbid: a Cluster has one database"));
        }
        Ok(self)
    }
}

impl Servers {
    fn is_one_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Socket(one), Self::Socket(other)) => real(one) == real(other),
            (
                Self::Sentinel { hosts, master, .. },
                Self::Sentinel { hosts: others, master: other, .. },
            ) => master == other && have_common(hosts, others),
            (Self::Single(one), Self::Single(other)) => one.is_same(other),
            (Self::Cluster(hosts), Self::Cluster(others)) => have_common(hosts, others),
            // A node of a Cluster is not asked alone, but its keys are those of the Cluster.
            (Self::Single(one), Self::Cluster(hosts))
            | (Self::Cluster(hosts), Self::Single(one)) => {
                hosts.iter().any(|host| host.is_same(one))
            }
            (Self::Socket(_) | Self::Sentinel { .. }, _)
            | (_, Self::Socket(_) | Self::Sentinel { .. }) => false,
        }
    }
}

impl Host {
    fn is_same(&self, other: &Self) -> bool {
        self.port == other.port && canonical_host(&self.name) == canonical_host(&other.name)
    }
}

fn have_common(hosts: &[Host], others: &[Host]) -> bool {
    hosts.iter().any(|host| others.iter().any(|other| host.is_same(other)))
}

/// The path without links, if it is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

impl Tls {
    fn read(query: &mut Query) -> Result<Self, Error> {
        let own = match (query.file("ssl_certfile")?, query.file("ssl_keyfile")?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, Secret::new(key))),
            _ => return Err(wrong("must have ssl_certfile and ssl_keyfile, or neither")),
        };
        Ok(Self { roots: query.file("ssl_ca_certs")?, own })
    }
}

fn servers(hosts: &str, path: &str, query: &mut Query) -> Result<Servers, Error> {
    if !hosts.is_empty() && !matches!(path, "" | "/") {
        return Err(wrong(
            "has a path after its host, which does not choose a database: use the option dbid \
             (redis://host?dbid=5), without a path. Earlier releases, like the original, ignored \
             the path, so their data are in database 0 or the one of dbid",
        ));
    }
    let master = query.take("master");
    let is_cluster = query.boolean("cluster")?;
    match (master, is_cluster) {
        (Some(_), true) => Err(wrong("cannot have both master and cluster")),
        (Some(master), false) => Ok(Servers::Sentinel {
            hosts: all_hosts(hosts, SENTINEL_PORT)?,
            master,
            user: sentinel_user(query)?,
        }),
        (None, true) => Ok(Servers::Cluster(all_hosts(hosts, REDIS_PORT)?)),
        (None, false) if hosts.contains(',') => Err(wrong(
            "names several hosts: add master=NAME for Sentinels, or cluster=true for a Cluster",
        )),
        (None, false) if !hosts.is_empty() => Ok(Servers::Single(host(hosts, REDIS_PORT)?)),
        (None, false) if !path.is_empty() => Ok(Servers::Socket(PathBuf::from(path))),
        (None, false) => Err(wrong("names neither a host nor a socket")),
    }
}

fn layout(query: &mut Query) -> Result<Option<u32>, Error> {
    let Some(number) = query.number("layout")? else { return Ok(None) };
    match u32::try_from(number).ok().filter(|number| KNOWN_LAYOUTS.contains(number)) {
        Some(known) => Ok(Some(known)),
        None => Err(wrong(&format!("has a layout that is not one of {KNOWN_LAYOUTS:?}"))),
    }
}

fn sentinel_user(query: &mut Query) -> Result<Option<User>, Error> {
    let name = query.take("sentinel_username");
    match query.take("sentinel_password") {
        Some(password) => Ok(Some(User { name, password: Secret::new(password) })),
        None if name.is_some() => Err(wrong("has sentinel_username without sentinel_password")),
        None => Ok(None),
    }
}

/// Takes a password literally, as the original does: `%40` is these three characters.
fn credentials(text: &str) -> Result<Option<User>, Error> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    match (name, password) {
        ("", "") => Ok(None),
        (_, "") => Err(wrong("has a user without a password")),
        ("", password) => Ok(Some(User { name: None, password: Secret::new(password.to_owned()) })),
        (name, password) => Ok(Some(User {
            name: Some(name.to_owned()),
            password: Secret::new(password.to_owned()),
        })),
    }
}

fn all_hosts(text: &str, default_port: u16) -> Result<Vec<Host>, Error> {
    text.split(',').map(|text| host(text, default_port)).collect()
}

fn host(text: &str, default_port: u16) -> Result<Host, Error> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        rest.split_once(']').ok_or_else(|| wrong("has a host with [ and no ]"))?
    } else {
        match text.rfind(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        }
    };
    if name.is_empty() {
        return Err(wrong("has an empty host"));
    }
    let port = match port.strip_prefix(':') {
        Some("") => default_port,
        Some(port) => port.parse().map_err(|_| wrong("has an invalid port"))?,
        None if port.is_empty() => default_port,
        None => return Err(wrong("has unexpected text between a host and its port")),
    };
    Ok(Host { name: name.to_owned(), port })
}

struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(text: &str) -> Result<Self, Error> {
        let mut options = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| wrong(&format!("has a {name} that is not UTF-8")))?;
            options.insert(name.to_owned(), value.into_owned());
        }
        Ok(Self(options))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    fn number(&mut self, name: &str) -> Result<Option<i64>, Error> {
        let number = self.take(name).map(|text| text.parse().ok().filter(|n| *n >= 0));
        match number {
            Some(None) => Err(wrong(&format!("has a {name} that is not a number"))),
            Some(Some(number)) => Ok(Some(number)),
            None => Ok(None),
        }
    }

    fn seconds(&mut self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let seconds =
            text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match seconds {
            Some(seconds) if !seconds.is_zero() => Ok(Some(seconds)),
            _ => Err(wrong(&format!("has a {name} that is not a number of seconds above 0"))),
        }
    }

    fn boolean(&mut self, name: &str) -> Result<bool, Error> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(&format!("has a {name} that is neither true nor false"))),
        }
    }

    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = self.take(name) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// An unknown option is an error, because it may matter to whoever wrote it.
    fn end(self) -> Result<(), Error> {
        match self.0.keys().next() {
            Some(name) => Err(wrong(&format!("has the unknown option {name}"))),
            None => Ok(()),
        }
    }
}

fn wrong(reason: &str) -> Error {
    Error::Uri { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn at(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), port }
    }

    #[test]
    fn addresses_are_shown_without_credentials() {
        for (text, shown) in [
            ("redis://u:secret@h:7", "h:7"),
            ("redis://:secret@[::1]", "[::1]:6379"),
            ("redis://:secret@/run/redis.sock", "/run/redis.sock"),
            (
                "redis://u:secret@h1,h2:5?master=m&sentinel_password=secret",
                "the master m of Sentinel h1:26379,h2:5",
            ),
            ("redis://:secret@h1,h2?cluster=true", "the Cluster h1:6379,h2:6379"),
        ] {
            assert_eq!(uri(text).servers.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn one_place_has_many_spellings() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        std::fs::write(&socket, "").unwrap();
        let (socket, directory) = (socket.display(), directory.path().display());
        for (one, other, is_same) in [
            ("redis://localhost", "redis://127.0.0.1:6379/", true),
            ("redis://localhost", "redis://[::1]:6379?dbid=0", true),
            ("redis://H.example.", "rediss://u:p@h.EXAMPLE:6379?socket_timeout=9", true),
            ("redis://h", "redis://h:6380", false),
            ("redis://h", "redis://h?dbid=1", false),
            ("redis://h", "redis://other", false),
            ("redis://127.0.0.1", "redis://127.0.0.2", false),
            ("redis://a,b?master=m", "redis://b:26379,A?master=m", true),
            ("redis://a,b?master=m", "redis://b,c?master=m", true),
            ("redis://a,b?master=m", "redis://a,b?master=n", false),
            ("redis://a?master=m", "redis://a:26379", false),
            ("redis://a,b:7?cluster=true", "redis://B:7,c?cluster=true", true),
            ("redis://a,b:7?cluster=true", "redis://b:7", true),
            ("redis://a,b:7?cluster=true", "redis://b", false),
            (&format!("redis:{socket}"), &format!("redis://:p@{socket}"), true),
            (&format!("redis:{socket}"), &format!("redis:{directory}//./redis.sock"), true),
            (&format!("redis:{socket}"), &format!("redis:{directory}"), false),
            ("redis:/no/such/socket", "redis:/no/such/other", false),
        ] {
            let (first, second) = (uri(one), uri(other));
            assert_eq!(first.is_same_place(&second), is_same, "{one} and {other}");
            assert_eq!(second.is_same_place(&first), is_same, "{other} and {one}");
        }
    }

    #[test]
    fn the_forms_of_the_original_are_parsed() {
        assert_eq!(uri("redis://127.0.0.1:6379").servers, Servers::Single(at("127.0.0.1", 6379)));
        assert_eq!(uri("redis://h").servers, Servers::Single(at("h", 6379)));
        assert_eq!(uri("redis://[::1]").servers, Servers::Single(at("::1", 6379)));
        assert_eq!(uri("redis://[::1]:7").servers, Servers::Single(at("::1", 7)));
        assert_eq!(uri("redis://h/").servers, Servers::Single(at("h", 6379)));
        let socket = Servers::Socket("/run/redis.sock".into());
        for text in [
            "redis:/run/redis.sock",
            "redis:///run/redis.sock",
            "redis://:secret@/run/redis.sock?dbid=1",
        ] {
            assert_eq!(uri(text).servers, socket, "{text}");
        }
        let sentinel =
            uri("redis://u:p@h1,h2:5?master=m&socket_timeout=0.1&sentinel_password=s%26");
        let Servers::Sentinel { hosts, master, user } = sentinel.servers else {
            panic!("Sentinel")
        };
        assert_eq!((hosts, master.as_str()), (vec![at("h1", 26379), at("h2", 5)], "m"));
        assert_eq!(user.unwrap().password.expose(), "s&");
        assert_eq!(sentinel.user.unwrap().name.as_deref(), Some("u"));
        assert_eq!(sentinel.socket_timeout, Duration::from_millis(100));
    }

    #[test]
    fn a_layout_is_parsed() {
        assert_eq!(uri("redis://h").layout, None);
        assert_eq!(uri("redis://h?layout=2").layout, Some(2));
        assert_eq!(uri("redis://h?layout=3").layout, Some(3));
    }

    #[test]
    fn passwords_are_literal() {
        let user = uri("redis://:a%40b:c@h").user.unwrap();
        assert_eq!((user.name, user.password.expose().as_str()), (None, "a%40b:c"));
        assert_eq!(uri("redis://@h").user, None);
        assert!(!format!("{:?}", uri("redis://:hidden@h")).contains("hidden"));
    }

    #[test]
    fn tls_and_clusters_are_parsed() {
        assert_eq!(uri("rediss://h").tls, Some(Tls::default()));
        let cluster = uri("rediss://h1,h2:7000?cluster=true");
        assert_eq!(cluster.servers, Servers::Cluster(vec![at("h1", 6379), at("h2", 7000)]));
        assert_eq!(uri("redis://h?cluster=true").servers, Servers::Cluster(vec![at("h", 6379)]));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, says) in [
            ("h:6379", "must begin with redis:"),
            ("http://h", "must begin with redis:"),
            ("redis", "no scheme"),
            ("redis:", "neither a host nor a socket"),
            ("redis://", "neither a host nor a socket"),
            ("redis://h1,h2", "master=NAME"),
            ("redis://h:x", "an invalid port"),
            ("redis://h:70000", "an invalid port"),
            ("redis://,h?master=m", "an empty host"),
            ("redis://[::1", "no ]"),
            ("redis://[::1]x", "between a host and its port"),
            ("redis://u@h", "a user without a password"),
            ("redis://h/5", "the option dbid"),
            ("redis://h:7/5?dbid=5", "the option dbid"),
            ("redis://:p@h/0", "in database 0"),
            ("redis://h/zaqar", "the option dbid"),
            ("redis://h//", "the option dbid"),
            ("rediss://h/5", "the option dbid"),
            ("redis://h1,h2/5?master=m", "the option dbid"),
            ("redis://h1,h2/5?cluster=true", "the option dbid"),
            ("redis://h?dbid=x", "a dbid that is not a number"),
            ("redis://h?dbid=-1", "a dbid that is not a number"),
            ("redis://h?socket_timeout=0", "above 0"),
            ("redis://h?layout=x", "a layout that is not a number"),
            ("redis://h?layout=1", "a layout that is not one of [2, 3]"),
            ("redis://h?layout=4", "a layout that is not one of [2, 3]"),
            ("redis://h?timeout=1", "the unknown option timeout"),
            ("redis://h?cluster=true&dbid=1", "one database"),
            ("redis://h?cluster=true&master=m", "both master and cluster"),
            ("redis://h?cluster=yes", "neither true nor false"),
            ("redis://h?master=m&sentinel_username=u", "without sentinel_password"),
            ("rediss:/run/redis.sock", "both a socket's path and rediss:"),
            ("rediss://h?ssl_certfile=Cargo.toml", "or neither"),
            ("rediss://h?ssl_ca_certs=/no/such/file", "cannot read /no/such/file"),
        ] {
            let error = text.parse::<Uri>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
