//! `[drivers]`: the transports and stores to run.

use crate::config::error::Error;
use crate::config::known::{Known, Table};
use crate::config::raw::Raw;
use crate::config::reader::{Options, Reader};
use crate::config::section::Section;
use crate::config::value::one_of;

const ROLES: [&str; 2] = ["message_store", "management_store"];
const EMBEDDED: &str = "embedded";
const MONGODB: &str = "mongodb";
/// The original's other MongoDB message store; here every store is first in, first out.
const FIFO: &str = "mongodb.fifo";
/// The stage that writes posts to the outbox for subscribers.
pub(crate) const NOTIFIER: &str = "zaqar.notification.notifier";
/// The original's management store in an SQL database.
const SQL: &str = "sqlalchemy";
/// Stores of the original that this server does not have.
const UNSUPPORTED: [&str; 2] = ["swift", SQL];
/// The warning if [`SQL`] is set beside a store that supports both roles.
const NO_SQL: &str =
    "the message store keeps queues, topics, pools and flavors, too: the SQL database is not read";

/// The names that a configuration can choose from, each with the options of its section.
#[derive(Debug, Clone, Default)]
pub struct Registered {
    transports: Vec<Driver>,
    message_stores: Vec<Driver>,
    management_stores: Vec<Driver>,
    stages: Vec<String>,
    channels: Vec<String>,
}

#[derive(Debug, Clone)]
struct Driver {
    name: String,
    options: &'static [Known],
}

/// The chosen drivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drivers {
    /// `transport`: at least one name, each once.
    pub transports: Vec<String>,
    /// `message_store`; `mongodb.fifo` is `mongodb`.
    pub message_store: String,
    /// `management_store`.
    pub management_store: String,
}

impl Registered {
    /// Adds a transport, with the options of its section `drivers:transport:NAME`.
    #[must_use]
    pub fn transport(mut self, name: &str, options: &'static [Known]) -> Self {
        self.transports.push(Driver { name: name.to_owned(), options });
        self
    }

    /// Adds a message store, with the options of its section `drivers:message_store:NAME`.
    #[must_use]
    pub fn message_store(mut self, name: &str, options: &'static [Known]) -> Self {
        self.message_stores.push(Driver { name: name.to_owned(), options });
        self
    }

    /// Adds a management store, with the options of its section `drivers:management_store:NAME`.
    #[must_use]
    pub fn management_store(mut self, name: &str, options: &'static [Known]) -> Self {
        self.management_stores.push(Driver { name: name.to_owned(), options });
        self
    }

    /// Adds a stage of pipelines, which can read any option of its section `storage:stage:NAME`.
    #[must_use]
    pub fn stage(mut self, name: &str) -> Self {
        self.stages.push(name.to_owned());
        self
    }

    /// Adds a channel to subscribers of a scheme, which may read any option of its section
    /// `notification:channel:SCHEME`.
    #[must_use]
    pub fn channel(mut self, scheme: &str) -> Self {
        self.channels.push(scheme.to_owned());
        self
    }

    /// The schemes of the channels.
    pub fn channels(&self) -> &[String] {
        &self.channels
    }

    /// The names of the stages.
    pub fn stages(&self) -> &[String] {
        &self.stages
    }

    /// All known options: those of the service and of these drivers.
    pub fn known(&self) -> Table {
        let roles = [
            ("transport", &self.transports),
            (ROLES[0], &self.message_stores),
            (ROLES[1], &self.management_stores),
        ];
        let drivers = roles
            .into_iter()
            .flat_map(|(role, drivers)| drivers.iter().map(move |driver| (role, driver)));
        let stages = self.stages.iter().map(|name| format!("storage:stage:{name}"));
        let channels = self.channels.iter().map(|name| format!("notification:channel:{name}"));
        let known = stages.chain(channels).fold(Table::default(), Table::with_any);
        drivers.fold(known, |known, (role, driver)| {
            known.with(format!("drivers:{role}:{}", driver.name), driver.options)
        })
    }

    fn stores(&self, role: &str) -> Vec<&str> {
        names(self.drivers(role))
    }

    fn options(&self, role: &str, name: &str) -> &'static [Known] {
        self.drivers(role).iter().find(|driver| driver.name == name).map_or(&[], |one| one.options)
    }

    fn drivers(&self, role: &str) -> &[Driver] {
        if role == ROLES[0] { &self.message_stores } else { &self.management_stores }
    }
}

fn names(drivers: &[Driver]) -> Vec<&str> {
    drivers.iter().map(|driver| driver.name.as_str()).collect()
}

pub(super) fn read(reader: &mut Reader, registered: &Registered) -> Drivers {
    let mut options = reader.section("drivers");
    let transports = transports(&mut options, &names(&registered.transports));
    let message_store = store(&mut options, ROLES[0], registered);
    let management_store = if keeps_both(&options.text(ROLES[1]), &message_store, registered) {
        options.warn(ROLES[1], NO_SQL);
        message_store.clone()
    } else {
        store(&mut options, ROLES[1], registered)
    };
    let drivers = Drivers { transports, message_store, management_store };
    let problem = unnamed(&reader.raw, registered);
    reader.problems.extend(problem);
    for (role, name) in ROLES.into_iter().zip([&drivers.message_store, &drivers.management_store]) {
        let section = Section::new(&reader.raw, format!("drivers:{role}:{name}"));
        let options = registered.options(role, name);
        reader.problems.extend(options.iter().filter_map(|option| section.check(option).err()));
    }
    drivers
}

fn transports(options: &mut Options<'_>, registered: &[&str]) -> Vec<String> {
    let names = options.list("transport");
    let is_good = |(at, name): (usize, &String)| {
        registered.contains(&name.as_str()) && !names[..at].contains(name)
    };
    if names.is_empty() || !names.iter().enumerate().all(is_good) {
        options
            .refuse("transport", format!("{}; each once, separated by commas", one_of(registered)));
    }
    names
}

fn store(options: &mut Options<'_>, role: &'static str, registered: &Registered) -> String {
    let name = options.text(role);
    let stores = registered.stores(role);
    if stores.contains(&name.as_str()) {
        return name;
    }
    if name == FIFO && role == ROLES[0] && stores.contains(&MONGODB) {
        return MONGODB.to_owned();
    }
    if UNSUPPORTED.contains(&name.as_str()) {
        let instead = stores.join(" or ").into();
        let origin = options.section.origin(role);
        let problem =
            Error::Unsupported { origin, option: role, value: name.as_str().into(), instead };
        options.reader.problems.push(problem);
    } else {
        options.refuse(role, one_of(&stores));
    }
    name
}

/// Whether the SQL database is set as management store beside a shared message store that can
/// replace it: DevStack and openstack-helm configure Redis like this.
fn keeps_both(management_store: &str, message_store: &str, registered: &Registered) -> bool {
    management_store == SQL
        && !registered.stores(ROLES[1]).contains(&SQL)
        && message_store != EMBEDDED
        && registered.stores(ROLES[1]).contains(&message_store)
}

/// A configured store must be named, and if one role is named, so must the other be: otherwise the
/// server would start with an empty store.
fn unnamed(raw: &Raw, registered: &Registered) -> Option<Error> {
    let named = ROLES.map(|role| Some(last(raw, role)).filter(|name| !name.is_empty()));
    let configured = ROLES.map(|role| configured(raw, role));
    for at in (0..2).filter(|at| named[*at].is_none()) {
        let stores = registered.stores(ROLES[at]);
        let is_known =
            |name: &&&str| stores.contains(*name) || **name == FIFO || UNSUPPORTED.contains(*name);
        if let Some(name) = configured[at].iter().find(|name| !is_known(name)) {
            let section = format!("drivers:{}:{name}", ROLES[at]);
            let origin = raw.section_origin(&section)?.clone();
            let offered = one_of(&stores).into();
            return Some(Error::UnknownStore { origin, section: section.into(), offered });
        }
    }
    let missing: Vec<_> =
        (0..2).filter(|at| named[*at].is_none() && needs_name(&named, &configured, *at)).collect();
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

/// Stores of a role, other than the embedded one, with at least one option set. A section without
/// options, as in a sample file, does not count.
fn configured<'a>(raw: &'a Raw, role: &str) -> Vec<&'a str> {
    let prefix = format!("drivers:{role}:");
    raw.sections()
        .filter(|section| raw.options(section).next().is_some())
        .filter_map(|section| section.strip_prefix(&prefix))
        .filter(|name| *name != EMBEDDED)
        .collect()
}

/// Whether a role without a name needs one: its store is configured, or the other role is not the
/// embedded store.
fn needs_name(named: &[Option<&str>; 2], configured: &[Vec<&str>; 2], at: usize) -> bool {
    let other = named[1 - at].is_some_and(|name| name != EMBEDDED && !UNSUPPORTED.contains(&name));
    !configured[at].is_empty()
        || other
        || (named[1 - at].is_none() && !configured[1 - at].is_empty())
}

/// The suggestion for a role: the named store, the configured one, or that of the other role.
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
    let is_offered = |name: &&str| stores.contains(name);
    let found = candidates.map(|name| if name == FIFO { MONGODB } else { name }).find(is_offered);
    let other = || stores.iter().copied().find(|name| *name != EMBEDDED);
    found.or_else(other).unwrap_or(EMBEDDED).to_owned()
}
