//! The Guru Meditation Report: the state of the process, on SIGUSR2, when a file is touched, or on
//! the listener for operators.
//!
//! The layout and the sections up to Configuration are those of `oslo.reports`, so that its readers
//! work; the server's own sections follow. Secrets are masked. The size is bounded: [`MAX_BYTES`].

mod configuration;
mod layout;
mod output;
mod process;
mod recent;

use std::fmt::Write as _;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};
use zaqar_core::TaskMonitor;

use crate::config::{Error, Settings};
use crate::status::{Status, TransportStatus};

pub(crate) use recent::RecentErrors;

use layout::Section;

/// The largest report, in bytes; a longer one is cut off, with a line that says so.
const MAX_BYTES: usize = 1024 * 1024;

/// The timeout of a store's ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

const SECTION: &str = "oslo_reports";

/// Writes the reports of one server.
#[derive(Clone)]
pub(crate) struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    status: Status,
    recent: RecentErrors,
    started: Instant,
    requested: Notify,
    /// The directory of reports; `None` writes them to standard error.
    directory: Option<PathBuf>,
    /// A file that triggers a report when its modification time increases, and the seconds between
    /// checks.
    watched: Option<(PathBuf, Duration)>,
}

/// A report.
pub(crate) struct Report {
    sections: Vec<Section>,
}

impl Report {
    /// As text, in the layout of `oslo.reports`.
    pub(crate) fn text(&self) -> String {
        layout::render(&self.sections, MAX_BYTES)
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> String {
        layout::render_json(&self.sections, MAX_BYTES)
    }
}

impl Reporter {
    /// A reporter for a server with these settings.
    ///
    /// # Errors
    /// An option of `[oslo_reports]` is invalid.
    pub(crate) fn new(
        settings: &Settings,
        tasks: TaskMonitor,
        recent: RecentErrors,
    ) -> Result<Self, Error> {
        let section = settings.driver_section(SECTION);
        let path = |option| Ok(section.text(option)?.filter(|text| !text.is_empty()));
        let interval = section.integer("file_event_handler_interval", 1..=86_400)?.unwrap_or(1);
        let interval = Duration::from_secs(interval.unsigned_abs());
        let watched = path("file_event_handler")?.map(|file| (PathBuf::from(file), interval));
        Ok(Self {
            inner: Arc::new(Inner {
                settings: settings.clone(),
                status: Status::new(tasks),
                recent,
                started: Instant::now(),
                requested: Notify::new(),
                directory: path("log_dir")?.map(PathBuf::from),
                watched,
            }),
        })
    }

    /// Requests a report. Requests during the writing of one become a single further one.
    pub(crate) fn request(&self) {
        self.inner.requested.notify_one();
    }

    /// The status of the server, to add to or read.
    pub(crate) fn status(&self) -> &Status {
        &self.inner.status
    }

    /// The last warnings and errors.
    pub(crate) fn recent(&self) -> &RecentErrors {
        &self.inner.recent
    }

    /// Writes reports on request. Never returns.
    pub(crate) async fn run(self) {
        let mut last = self.modified().await;
        loop {
            let trigger = tokio::select! {
                () = self.inner.requested.notified() => "SIGUSR2",
                () = self.file_is_touched(&mut last) => "file_event_handler",
            };
            let report = self.report().await.text();
            let directory = self.inner.directory.clone();
            let written = tokio::task::spawn_blocking(move || output::write(directory, &report));
            match written.await {
                Ok(Ok(Some(path))) => info!(trigger, path = %path.display(), "report written"),
                Ok(Ok(None)) => info!(trigger, "report written to standard error"),
                Ok(Err(error)) => warn!(trigger, %error, "the report cannot be written"),
                Err(error) => warn!(trigger, %error, "the report cannot be written"),
            }
        }
    }

    /// Waits until the watched file was modified after `last`, and updates it. A deleted file
    /// triggers a report when it exists again.
    async fn file_is_touched(&self, last: &mut Option<SystemTime>) {
        let Some((_, interval)) = &self.inner.watched else { return pending().await };
        loop {
            tokio::time::sleep(*interval).await;
            let before = std::mem::replace(last, self.modified().await);
            if *last > before {
                return;
            }
        }
    }

    /// When the watched file was last modified; `None` if it does not exist.
    async fn modified(&self) -> Option<SystemTime> {
        let (file, _) = self.inner.watched.as_ref()?;
        tokio::fs::metadata(file).await.ok()?.modified().ok()
    }

    /// Creates a report. Waits for each store for at most 2 s.
    pub(crate) async fn report(&self) -> Report {
        let mut sections = process::sections();
        sections.push(configuration::section(self.inner.settings.raw()));
        sections.push(self.stores().await);
        sections.push(self.pools());
        sections.push(self.transports());
        sections.push(self.tasks());
        sections.push(self.deliveries());
        sections.push(self.recent_errors());
        Report { sections }
    }

    async fn stores(&self) -> Section {
        let (mut text, mut data) = (String::new(), Vec::new());
        for store in self.inner.status.stores() {
            let before = Instant::now();
            let state = match tokio::time::timeout(PING_TIMEOUT, store.upkeep.ping()).await {
                Ok(Ok(())) => "reachable".to_owned(),
                Ok(Err(error)) => crate::error::with_causes(&error),
                Err(_) => format!("no answer within {} s", PING_TIMEOUT.as_secs()),
            };
            let (name, elapsed) = (store.name, before.elapsed());
            let millis = elapsed.as_millis();
            let _ = writeln!(text, "{name}:\n  state = {state}\n  answered in = {millis} ms");
            let mut one = json!({
                "name": name, "state": state, "answered_in_seconds": elapsed.as_secs_f64()
            });
            for figure in store.figures.as_ref().map(|figures| figures()).unwrap_or_default() {
                let _ = writeln!(text, "  {} = {}", figure.name, figure.value);
                one[figure.name] = figure.value.into();
            }
            data.push(one);
        }
        Section::new("Stores", or_none(text), data.into())
    }

    /// The state of the pools at the last ping, which is repeated every second.
    fn pools(&self) -> Section {
        let Some(pools) = self.inner.status.pools() else {
            return Section::new("Pools", "pooling is not configured\n".to_owned(), Value::Null);
        };
        let (mut text, mut data) = (String::new(), Vec::new());
        for pool in pools {
            let state = pool.problem.unwrap_or_else(|| "serves".to_owned());
            let _ = writeln!(text, "{}: {state}", pool.name);
            data.push(json!({ "name": pool.name.as_str(), "state": state }));
        }
        Section::new("Pools", or_none(text), data.into())
    }

    fn transports(&self) -> Section {
        let (mut text, mut data) = (String::new(), Vec::new());
        for transport in self.inner.status.transports() {
            let TransportStatus { name, address, connections } = transport;
            let _ = writeln!(text, "{name}:\n  address = {address}");
            let mut one = json!({ "name": name, "address": address });
            if let Some(counts) = connections {
                let (open, accepted, rejected) =
                    (counts.open(), counts.accepted(), counts.rejected());
                let _ = writeln!(
                    text,
                    "  connections = {open} open, {accepted} accepted, {rejected} rejected"
                );
                one["connections"] =
                    json!({ "open": open, "accepted": accepted, "rejected": rejected });
            }
            data.push(one);
        }
        Section::new("Transports", or_none(text), data.into())
    }

    fn tasks(&self) -> Section {
        let uptime = self.inner.started.elapsed().as_secs();
        let mut text = format!("uptime = {uptime} s\n");
        let tasks = &self.inner.status.tasks;
        let mut running = Vec::new();
        for (task, running_for) in tasks.running() {
            let _ = writeln!(text, "{task}: running for {} s", running_for.as_secs());
            running.push(json!({ "name": task, "seconds": running_for.as_secs() }));
        }
        let failures: Vec<_> = tasks.failures().iter().map(ToString::to_string).collect();
        for failure in &failures {
            let _ = writeln!(text, "{failure}");
        }
        let data = json!({ "uptime_seconds": uptime, "running": running, "failures": failures });
        Section::new("Tasks", text, data)
    }

    fn deliveries(&self) -> Section {
        let Some(handle) = self.inner.status.deliveries() else {
            return Section::new("Deliveries", "none yet\n".to_owned(), Value::Null);
        };
        let (counts, circuits) = (handle.counts(), handle.circuits());
        let data = json!({
            "in_flight": handle.in_flight(),
            "subscriptions_served": handle.served(),
            "delivered": counts.delivered,
            "retried": counts.retried,
            "failed": counts.failed,
            "expired": counts.expired,
            "suspended": counts.suspended,
            "destinations_ok": circuits.ok,
            "destinations_open": circuits.open,
        });
        let members = data.as_object().into_iter().flatten();
        let text = members.map(|(name, value)| format!("{name} = {value}\n")).collect();
        Section::new("Deliveries", text, data)
    }

    fn recent_errors(&self) -> Section {
        let lines = self.inner.recent.lines();
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let text = if text.is_empty() { "none\n".to_owned() } else { text };
        Section::new("Recent Errors", text, lines.into())
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none yet\n".to_owned() } else { text }
}
