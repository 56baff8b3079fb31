//! SIGHUP: reads the configuration again, applies what can change at run time, and logs what was
//! applied and what needs a restart.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};
use zaqar_auth::Quotas;

use crate::config::{self, Raw, Registered, Settings, Sources};
use crate::logs::Logs;
use crate::status::Status;

/// Options of `[DEFAULT]` that are applied.
const LIVE: [&str; 2] = ["debug", "default_log_levels"];

/// The section that is applied if the server has quotas, and its option that is not.
const QUOTAS: &str = "quotas";
const MANAGED: &str = "managed";

/// Texts of options, by section and name.
type Values = BTreeMap<(String, String), Vec<String>>;

/// Reloads the configuration of one server.
pub(crate) struct Reloader {
    sources: Sources,
    registered: Registered,
    /// The values at the start.
    started: Values,
    /// The values that are in force, of options that can be applied.
    applied: Values,
    logs: Logs,
    status: Status,
}

impl Reloader {
    pub(crate) fn new(
        sources: Sources,
        registered: Registered,
        settings: &Settings,
        logs: Logs,
        status: Status,
    ) -> Self {
        let started = values(settings.raw());
        Self { sources, registered, applied: started.clone(), started, logs, status }
    }

    /// Reopens the log file, applies log levels and quotas, and reloads the policy files. If the
    /// configuration is wrong, nothing changes. This blocks on file I/O.
    pub(crate) fn reload(&mut self) {
        self.logs.reopen();
        if let Some(permissions) = self.status.permissions() {
            permissions.reload();
        }
        let loaded = match config::load(&self.sources, &self.registered) {
            Ok(loaded) => loaded,
            Err(errors) => {
                let errors = errors.to_string().replace('\n', "; ");
                error!(errors, "the configuration is wrong: the previous one stays in force");
                return;
            }
        };
        let read = values(loaded.settings.raw());
        // The layer exists only if something was limited at the start.
        let quotas = self.status.quotas();
        let has_quotas = quotas.is_some();
        let is_live = |(section, option): &(String, String)| match section.as_str() {
            "DEFAULT" => LIVE.contains(&option.as_str()),
            QUOTAS => has_quotas && option != MANAGED,
            _ => false,
        };
        let has_levels = self.apply_levels(&loaded.settings);
        let takes_quotas = quotas.is_some_and(|quotas| apply_quotas(&quotas, &loaded.settings));
        let is_taken = |key: &(String, String)| {
            is_live(key) && if key.0 == QUOTAS { takes_quotas } else { has_levels }
        };
        info!(
            changed = names(&self.applied, &read, is_taken),
            needs_restart = names(&self.started, &read, |key| !is_live(key)),
            "configuration reloaded; policy files are read again where they changed"
        );
        // What was rejected is still to be applied.
        self.applied.retain(|key, _| !is_taken(key));
        self.applied.extend(read.into_iter().filter(|(key, _)| is_taken(key)));
    }

    /// Returns whether they are in force.
    fn apply_levels(&self, settings: &Settings) -> bool {
        let applied = self.logs.set_levels(&settings.logging);
        applied.inspect_err(|error| error!(%error, "the log levels were not changed")).is_ok()
    }
}

/// Returns whether they are in force.
fn apply_quotas(quotas: &Quotas, settings: &Settings) -> bool {
    let applied = quotas.reload(&settings.quotas.clone().unwrap_or_default());
    let applied = applied.inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        error!(error, "[quotas] is wrong: the previous quotas stay in force");
    });
    applied.is_ok()
}

/// The options whose values differ, as text.
fn names(before: &Values, after: &Values, is_wanted: impl Fn(&(String, String)) -> bool) -> String {
    let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = all.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let names: Vec<_> = differ
        .filter(|key| is_wanted(key))
        .map(|(section, option)| format!("[{section}] {option}"))
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn values(raw: &Raw) -> Values {
    let mut values = BTreeMap::new();
    for section in raw.sections() {
        for option in raw.options(section) {
            let texts = raw.values(section, option).iter().map(|value| value.text.clone());
            values.insert((section.to_owned(), option.to_owned()), texts.collect());
        }
    }
    values
}
