//! `[drivers]`: which transports and stores run, and the embedded store's own section.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::error::{Error, Warning};
use crate::config::raw::Raw;
use crate::config::reader::{Options, Reader};
use crate::config::value::one_of;

const ROLES: [&str; 2] = ["message_store", "management_store"];
const EMBEDDED: &str = "embedded";
const MONGODB: &str = "mongodb";
/// The original's other MongoDB message store; every store here is first in, first out.
const FIFO: &str = "mongodb.fifo";
/// Stores of the original that are not offered here.
const UNSUPPORTED: [&str; 2] = ["swift", "sqlalchemy"];

/// The names that configuration may pick: whoever starts the server registers a factory under each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Transports.
    pub transports: Vec<String>,
    /// Message stores.
    pub message_stores: Vec<String>,
    /// Management stores.
    pub management_stores: Vec<String>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drivers {
    /// `transport`: one name or more, each once.
    pub transports: Vec<String>,
    /// `message_store`; `mongodb.fifo` is `mongodb`.
    pub message_store: String,
    /// `management_store`.
    pub management_store: String,
}

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// `path`: its directory.
    pub path: PathBuf,
    /// `sync` and `sync_interval_ms`.
    pub sync: Sync,
}

/// When what is acknowledged is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before the answer.
    Always,
    /// At most this much later: a power cut loses what came since.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}

impl Default for Registered {
    /// The names that this crate knows: `wsgi`, `websocket`; `embedded`, `redis`, `mongodb`.
    fn default() -> Self {
        let stores = [EMBEDDED, "redis", MONGODB].map(str::to_owned).to_vec();
        Self {
            transports: ["wsgi", "websocket"].map(str::to_owned).to_vec(),
            message_stores: stores.clone(),
            management_stores: stores,
        }
    }
}

impl Registered {
    /// Adds a transport.
    #[must_use]
    pub fn transport(mut self, name: &str) -> Self {
        self.transports.push(name.to_owned());
        self
    }

    /// Adds a message store.
    #[must_use]
    pub fn message_store(mut self, name: &str) -> Self {
        self.message_stores.push(name.to_owned());
        self
    }

    /// Adds a management store.
    #[must_use]
    pub fn management_store(mut self, name: &str) -> Self {
        self.management_stores.push(name.to_owned());
        self
    }

    /// The sections that these drivers may read.
    pub(in crate::config) fn sections(&self) -> Vec<String> {
        let of = |role: &str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("drivers:{role}:{name}")).collect()
        };
        [
            of("transport", &self.transports),
            of(ROLES[0], &self.message_stores),
            of(ROLES[1], &self.management_stores),
        ]
        .concat()
    }

    fn stores(&self, role: &str) -> &[String] {
        if role == ROLES[0] { &self.message_stores } else { &self.management_stores }
    }
}

pub(super) fn read(reader: &mut Reader, registered: &Registered) -> (Drivers, Option<Embedded>) {
    let mut options = reader.section("drivers");
    let drivers = Drivers {
        transports: transports(&mut options, &registered.transports),
        message_store: store(&mut options, ROLES[0], registered),
        management_store: store(&mut options, ROLES[1], registered),
    };
    let problem = unnamed(&reader.raw, registered);
    reader.problems.extend(problem);
    let embedded = embedded(reader, &drivers);
    (drivers, embedded)
}

fn transports(options: &mut Options<'_>, registered: &[String]) -> Vec<String> {
    let names = options.list("transport");
    let is_good =
        |(at, name): (usize, &String)| registered.contains(name) && !names[..at].contains(name);
    if names.is_empty() || !names.iter().enumerate().all(is_good) {
        options
            .refuse("transport", format!("{}; each once, with commas between", words(registered)));
    }
    names
}

fn store(options: &mut Options<'_>, role: &'static str, registered: &Registered) -> String {
    let name = options.text(role);
    let stores = registered.stores(role);
    if stores.contains(&name) {
        return name;
    }
    if name == FIFO && role == ROLES[0] && stores.iter().any(|store| store == MONGODB) {
        return MONGODB.to_owned();
    }
    if UNSUPPORTED.contains(&name.as_str()) {
        let instead = stores.join(" or ").into();
        let origin = options.section.origin(role);
        let problem =
            Error::Unsupported { origin, option: role, value: name.as_str().into(), instead };
        options.reader.problems.push(problem);
    } else {
        options.refuse(role, words(stores));
    }
    name
}

fn words(names: &[String]) -> String {
    one_of(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A store that is configured must be named, and one that is named wants the other named too: otherwise the server would come up on an
/// empty store.
fn unnamed(raw: &Raw, registered: &Registered) -> Option<Error> {
    let named = ROLES.map(|role| Some(last(raw, role)).filter(|name| !name.is_empty()));
    let configured = ROLES.map(|role| configured(raw, role));
    let missing: Vec<_> =
        (0..2).filter(|at| named[*at].is_none() && calls(&named, &configured, *at)).collect();
    let at = *missing.first()?;
    let (origin, what) = match configured[at].first() {
        Some(name) => {
            let section = format!("drivers:{}:{name}", ROLES[at]);
            (raw.section_origin(&section)?.clone(), format!("[{section}] configures a store"))
        }
        None => {
            let other = ROLES[1 - at];
            let name = named[1 - at]?;
            (raw.origin("drivers", other), format!("[drivers] {other} is {name}"))
        }
    };
    let suggest = |at: usize| suggestion(&named, &configured, registered, at);
    Some(Error::Unnamed {
        origin,
        what: what.into(),
        missing: if missing.len() == 2 { "store" } else { ROLES[at] },
        message_store: suggest(0).into(),
        management_store: suggest(1).into(),
    })
}

fn last<'a>(raw: &'a Raw, role: &str) -> &'a str {
    raw.values("drivers", role).last().map_or("", |value| value.text.as_str())
}

/// Stores of a role, other than the embedded one, that have an option set. A section without any, as in a sample file, configures nothing.
fn configured<'a>(raw: &'a Raw, role: &str) -> Vec<&'a str> {
    let prefix = format!("drivers:{role}:");
    raw.sections()
        .filter(|section| raw.options(section).next().is_some())
        .filter_map(|section| section.strip_prefix(&prefix))
        .filter(|name| *name != EMBEDDED)
        .collect()
}

/// Whether a role that is not named has to be: it is configured, or the other role is named as another store than the embedded one.
fn calls(named: &[Option<&str>; 2], configured: &[Vec<&str>; 2], at: usize) -> bool {
    let other = named[1 - at].is_some_and(|name| name != EMBEDDED && !UNSUPPORTED.contains(&name));
    !configured[at].is_empty()
        || other
        || (named[1 - at].is_none() && !configured[1 - at].is_empty())
}

/// What to write for a role: what is there, what is configured, what the other role has.
fn suggestion(
    named: &[Option<&str>; 2],
    configured: &[Vec<&str>; 2],
    registered: &Registered,
    at: usize,
) -> String {
    let stores = registered.stores(ROLES[at]);
    let candidates = [at, 1 - at]
        .into_iter()
        .flat_map(|at| named[at].into_iter().chain(configured[at].iter().copied()));
    let is_offered = |name: &&str| stores.iter().any(|store| store == name);
    let found = candidates.map(|name| if name == FIFO { MONGODB } else { name }).find(is_offered);
    let other = || stores.iter().map(String::as_str).find(|name| *name != EMBEDDED);
    found.or_else(other).unwrap_or(EMBEDDED).to_owned()
}

fn embedded(reader: &mut Reader, drivers: &Drivers) -> Option<Embedded> {
    let of = |role: &str| format!("drivers:{role}:{EMBEDDED}");
    let message = drivers.message_store == EMBEDDED;
    let management = drivers.management_store == EMBEDDED;
    let stores = ROLES.map(|role| Embedded::read(&mut reader.section(&of(role))));
    let [of_messages, of_management] = stores;
    if message && management && of_messages != of_management {
        warn_shared(reader, &of(ROLES[1]));
    }
    match (message, management) {
        (true, _) => Some(of_messages),
        (false, true) => Some(of_management),
        (false, false) => None,
    }
}

fn warn_shared(reader: &mut Reader, section: &str) {
    if reader.raw.options(section).next().is_none() {
        return;
    }
    let what =
        format!("[{section}] is not read: both stores share [drivers:message_store:{EMBEDDED}]");
    let origin = reader.raw.section_origin(section).cloned();
    reader.warnings.extend(origin.map(|origin| Warning::Conflict { origin, what }));
}

impl Embedded {
    fn read(options: &mut Options<'_>) -> Self {
        let interval = Duration::from_millis(options.number("sync_interval_ms"));
        Self {
            path: PathBuf::from(options.text("path")),
            sync: match options.choice("sync") {
                "interval" => Sync::Interval(interval),
                "never" => Sync::Never,
                _ => Sync::Always,
            },
        }
    }
}
