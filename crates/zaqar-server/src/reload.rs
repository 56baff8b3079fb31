//! SIGHUP: reads the configuration again, applies what can change at run time, and logs what was
//! applied and what needs a restart.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};

use crate::config::{self, Raw, Registered, Settings, Sources};
use crate::logs::Logs;
use crate::status::Status;

/// Options of `[DEFAULT]` that are applied.
const LIVE: [&str; 2] = ["debug", "default_log_levels"];

/// The section that is applied if the server has quotas, and its option that is not.
const QUOTAS: &str = "quotas";
const MANAGED: &str = "managed";

/// Reloads the configuration of one server.
pub(crate) struct Reloader {
    sources: Sources,
    registered: Registered,
    /// The settings at the start.
    started: Settings,
    /// The settings that were read last.
    last: Settings,
    logs: Logs,
    status: Status,
}

impl Reloader {
    pub(crate) fn new(
        sources: Sources,
        registered: Registered,
        settings: Settings,
        logs: Logs,
        status: Status,
    ) -> Self {
        Self { sources, registered, last: settings.clone(), started: settings, logs, status }
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
        let settings = loaded.settings;
        let quotas = self.status.quotas();
        // The layer exists only if something was limited at the start.
        let has_quotas = quotas.is_some();
        let is_live = |section: &str, option: &str| {
            is_live(section, option) || has_quotas && section == QUOTAS && option != MANAGED
        };
        let names = |before: &Settings, is_wanted: &dyn Fn(&str, &str) -> bool| {
            let differences = differences(before.raw(), settings.raw());
            let wanted = differences.iter().filter(|(section, option)| is_wanted(section, option));
            let names: Vec<_> =
                wanted.map(|(section, option)| format!("[{section}] {option}")).collect();
            names.join(", ")
        };
        let taken = names(&self.last, &is_live);
        let waiting = names(&self.started, &|section, option| !is_live(section, option));
        if let Some(quotas) = quotas {
            let options = settings.quotas.clone().unwrap_or_default();
            if let Err(error) = quotas.reload(&options) {
                let error = &error as &dyn std::error::Error;
                error!(error, "[quotas] is wrong: the previous quotas stay in force");
            }
        }
        match self.logs.set_levels(&settings.logging) {
            Ok(()) => info!(
                changed = or_nothing(&taken),
                needs_restart = or_nothing(&waiting),
                "configuration reloaded; policy files are read again where they changed"
            ),
            Err(error) => error!(%error, "the log levels were not changed"),
        }
        self.last = settings;
    }
}

/// Whether an option can be applied at run time.
fn is_live(section: &str, option: &str) -> bool {
    section == "DEFAULT" && LIVE.contains(&option)
}

fn or_nothing(names: &str) -> &str {
    if names.is_empty() { "nothing" } else { names }
}

/// The options whose values differ, by section and name.
fn differences(before: &Raw, after: &Raw) -> BTreeSet<(String, String)> {
    let (before, after) = (values(before), values(after));
    let all = before.keys().chain(after.keys());
    all.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

fn values(raw: &Raw) -> BTreeMap<(String, String), Vec<String>> {
    let mut values = BTreeMap::new();
    for section in raw.sections() {
        for option in raw.options(section) {
            let texts = raw.values(section, option).iter().map(|value| value.text.clone());
            values.insert((section.to_owned(), option.to_owned()), texts.collect());
        }
    }
    values
}
