//! What a start with these settings would reject or warn of, besides the options themselves: for
//! `config check` and `zaqar-status`.
//!
//! It uses the functions that the start uses, but opens no store and no port, and connects to
//! nothing.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use zaqar_api::Keyring;
use zaqar_core::{Clock, SystemClock, TaskMonitor};

use crate::config::{AuthStrategy, Settings};
use crate::drivers::embedded;
use crate::error::with_causes;
use crate::registry::Registry;
use crate::report::{RecentErrors, Reporter};
use crate::traces::Traces;
use crate::{access, logs, notify};

/// What was found, as text.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The server would not start.
    pub(crate) errors: Vec<String>,
    /// It would start, but hardly as it was meant.
    pub(crate) warnings: Vec<String>,
}

/// Checks settings as the start reads them, with the files that they name.
pub(crate) async fn check(registry: &Registry, settings: &Settings) -> Findings {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut errors = registry.check(settings).await;
    let reporter = Reporter::new(settings, TaskMonitor::default(), RecentErrors::default());
    errors.extend(reporter.err().map(Into::into));
    errors.extend(logs::check(&settings.logging).err());
    errors.extend(embedded::snapshots(settings, &clock).err());
    errors.extend(Traces::new(&settings.traces).err());
    let (more, mut warnings) = access::check(settings, &clock);
    errors.extend(more);
    errors.extend(notify::check(settings, &clock).err());
    warnings.extend(missing_strategy(settings).map(|(origin, problem)| match origin {
        Some(origin) => format!("{origin}: {problem}"),
        None => problem,
    }));
    warnings.extend(invalid_key(settings));
    warnings.extend(notify::missing_signing_key(settings).map(str::to_owned));
    let mut errors: Vec<String> = errors.iter().map(|error| with_causes(&**error)).collect();
    errors.extend(shared_addresses(settings));
    // Both roles of one store have the same problem.
    let mut known = std::collections::BTreeSet::new();
    errors.retain(|error| known.insert(error.clone()));
    Findings { errors, warnings }
}

/// A file with the settings of Keystone's middleware, but without the line that enables it, was
/// meant to protect the server: the original's guide enables the middleware elsewhere. Returns
/// where it begins, and the problem.
pub(crate) fn missing_strategy(settings: &Settings) -> Option<(Option<String>, String)> {
    const SECTION: &str = "keystone_authtoken";
    let section = settings.driver_section(SECTION);
    let is_filled = section.options().any(|option| {
        section.text(option).is_ok_and(|text| text.is_some_and(|text| !text.is_empty()))
    });
    if settings.auth_strategy != AuthStrategy::None || !is_filled {
        return None;
    }
    let origin = settings.raw().section_origin(SECTION).map(ToString::to_string);
    let problem = format!(
        "NO AUTHENTICATION: [{SECTION}] is configured, but without auth_strategy = keystone in \
         [DEFAULT] no token is checked, and every caller is the project that it names"
    );
    Some((origin, problem))
}

/// Where a listener is to listen.
#[derive(Debug, PartialEq, Eq)]
enum Address<'a> {
    Tcp(&'a str, u16),
    Unix(&'a Path),
}

impl Address<'_> {
    /// Whether the system cannot have listeners on both.
    fn excludes(&self, other: &Self) -> bool {
        let (Self::Tcp(one, port), Self::Tcp(second, other_port)) = (self, other) else {
            return self == other;
        };
        // 0 is any free port.
        if port != other_port || *port == 0 {
            return false;
        }
        match (one.parse::<IpAddr>(), second.parse::<IpAddr>()) {
            (Ok(one), Ok(second)) => {
                let is_any = one.is_unspecified() || second.is_unspecified();
                one == second || (is_any && one.is_ipv4() == second.is_ipv4())
            }
            _ => one.eq_ignore_ascii_case(second),
        }
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host} port {port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Listeners of this server that cannot both listen.
fn shared_addresses(settings: &Settings) -> Vec<String> {
    let address = |unix_socket, host, port| match unix_socket {
        Some(path) => Address::Unix(path),
        None => Address::Tcp(host, port),
    };
    let (wsgi, websocket) = (&settings.wsgi, &settings.websocket);
    let listeners = [
        ("wsgi", address(wsgi.unix_socket.as_deref(), wsgi.bind.as_str(), wsgi.port)),
        (
            "websocket",
            address(websocket.unix_socket.as_deref(), websocket.bind.as_str(), websocket.port),
        ),
    ];
    let mut listeners: Vec<_> = listeners
        .into_iter()
        .filter(|(name, _)| settings.drivers.transports.iter().any(|chosen| chosen == name))
        .map(|(name, address)| (format!("drivers:transport:{name}"), address))
        .collect();
    let admin = settings.admin.as_ref();
    let admin = admin.map(|admin| ("admin".to_owned(), Address::Tcp(&admin.bind, admin.port)));
    listeners.extend(admin);
    let mut problems = Vec::new();
    for (at, (section, address)) in listeners.iter().enumerate() {
        for (other, second) in &listeners[..at] {
            if address.excludes(second) {
                problems.push(format!(
                    "[{section}] cannot listen on {address}: [{other}] listens on {second}"
                ));
            }
        }
    }
    problems
}

fn invalid_key(settings: &Settings) -> Option<String> {
    let error = Keyring::parse(settings.message_encryption_key.as_ref()?).err()?;
    let origin = settings.raw().origin("transport", "message_encryption_key");
    Some(format!(
        "{origin}: [transport] message_encryption_key is invalid, no queue can be encrypted: {}",
        with_causes(&error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    /// Errors, warnings of the options, and other warnings about a configuration with this text.
    async fn found(text: &str) -> (Vec<String>, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let registry = Registry::default();
        let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
        let loaded = load(&sources, &registry.registered()).unwrap();
        let Findings { errors, mut warnings } = check(&registry, &loaded.settings).await;
        warnings.extend(loaded.warnings.iter().map(ToString::to_string));
        (errors, warnings)
    }

    const REDIS: &str = "[drivers]\nmessage_store = redis\nmanagement_store = redis\n\
                         [drivers:message_store:redis]\n";
    const MONGODB: &str = "[drivers]\nmessage_store = mongodb\nmanagement_store = mongodb\n\
                           [drivers:message_store:mongodb]\n";

    #[tokio::test]
    async fn problems_that_the_start_rejects_are_errors() {
        for (text, part) in [
            (format!("{REDIS}uri = redis://h:99999"), "[drivers:message_store:redis] uri"),
            (format!("{REDIS}uri = foo"), "[drivers:message_store:redis] uri"),
            (format!("{MONGODB}uri = mongodb://"), "[drivers:message_store:mongodb] uri"),
            (format!("{MONGODB}uri = mongodb://h\nssl_ca_certs = /none/a"), "cannot read /none/a"),
            ("[drivers:transport:wsgi]\ncert_file = /none/b\nkey_file = /none/c".into(), "/none/b"),
            ("[DEFAULT]\nlog_dir = /none".into(), "cannot open /none/zaqar-server.log"),
            ("[quotas]\nprojects_file = /none/q".into(), "[quotas] /none/q cannot be read"),
            ("[notification]\nca_file = /none/ca".into(), "/none/ca"),
            ("[drivers:message_store:embedded]\npath = /dev/null/x".into(), "a directory"),
        ] {
            let (errors, _) = found(&text).await;
            assert!(errors.len() == 1 && errors[0].contains(part), "{text}: {errors:?}");
        }
    }

    #[tokio::test]
    async fn two_listeners_with_one_address_are_an_error() {
        let text = |wsgi: &str, websocket: &str, admin: &str| {
            format!(
                "[drivers]\ntransport = wsgi, websocket\n[drivers:transport:wsgi]\n{wsgi}\n\
                 [drivers:transport:websocket]\n{websocket}\n[admin]\n{admin}\n"
            )
        };
        for (text, count) in [
            (text("port = 7", "port = 7", "port = 7"), 3),
            (text("port = 7", "port = 8", "port = 7"), 1),
            (text("bind = 0.0.0.0\nport = 7", "port = 7", ""), 1),
            (text("bind = h\nport = 7", "bind = H\nport = 7", ""), 1),
            (text("unix_socket = /a", "unix_socket = /a", ""), 1),
            (text("port = 0", "port = 0", "port = 0"), 0),
            (text("bind = 127.0.0.2\nport = 7", "port = 7", "bind = ::1\nport = 7"), 0),
            (text("bind = ::1\nport = 7", "bind = 0.0.0.0\nport = 7", ""), 0),
            (text("unix_socket = /a\nport = 7", "unix_socket = /b\nport = 7", "port = 7"), 0),
            // A transport that is not chosen.
            ("[drivers:transport:websocket]\nport = 8888".to_owned(), 0),
        ] {
            let (errors, _) = found(&text).await;
            assert_eq!(errors.len(), count, "{text}: {errors:?}");
            assert!(errors.iter().all(|error| error.contains("cannot listen on")), "{errors:?}");
        }
    }

    #[tokio::test]
    async fn problems_that_only_keep_it_from_serving_are_warnings() {
        for (text, part) in [
            ("", ""),
            ("[transport]\nmessage_encryption_key = short", "no queue can be encrypted"),
            ("[notification]\nrequire_confirmation = true", "[signed_url] secret_key is not"),
            ("[oslo_policy]\npolicy_file = /none/p.yaml", "there is no file /none/p.yaml"),
            ("[keystone_authtoken]\nauth_url = http://k", "NO AUTHENTICATION"),
            ("[DEFAULT]\npooling = true", "nothing can be posted until"),
            ("[DEFAULT]\npooling = true\nadmin_mode = true", ""),
        ] {
            let (errors, warnings) = found(text).await;
            assert!(errors.is_empty(), "{text}: {errors:?}");
            assert_eq!(warnings.len(), usize::from(!part.is_empty()), "{text}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.contains(part)), "{text}: {warnings:?}");
        }
    }
}
