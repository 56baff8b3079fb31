//! The embedded store, for either role or both.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::info;
use zaqar_core::pools::Capability;
use zaqar_core::{Clock, Secret};
use zaqar_storage_embedded::{Embedded, Error, Options, Sync};

use crate::config::known::{Known, boolean, choice, integer, text, unset};
use crate::config::{Section, Settings};
use crate::drivers::in_section;
use crate::drivers::snapshots::Snapshots;
use crate::error::StartError;
use crate::store::{
    Figure, FigureKind, OpenHere, OpenedStore, Presence, StoreContext, StoreDriver, StoreLocation,
    StoreRole,
};

const PATH: Known = text("path", "./zaqar-data");
const SYNC: Known = choice("sync", "always", &["always", "interval", "never"]);
const SYNC_INTERVAL: Known = integer("sync_interval_ms", "100", 1, 60_000);
const ACCEPT_LOSS: Known = boolean("accept_loss", "false");
const SNAPSHOT_INTERVAL: Known = integer("snapshot_interval", "0", 0, 31_536_000);
const SNAPSHOT_KEEP: Known = integer("snapshot_keep", "2", 1, 1000);
const SNAPSHOT_DIR: Known = unset("snapshot_dir");
const OPTIONS: &[Known] =
    &[PATH, SYNC, SYNC_INTERVAL, ACCEPT_LOSS, SNAPSHOT_INTERVAL, SNAPSHOT_KEEP, SNAPSHOT_DIR];

pub(crate) struct Driver;

#[async_trait]
impl StoreDriver for Driver {
    fn roles(&self) -> &'static [StoreRole] {
        &[StoreRole::Management, StoreRole::Messages]
    }

    fn options(&self) -> &'static [Known] {
        OPTIONS
    }

    fn location_option(&self) -> &'static str {
        PATH.name
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["embedded"]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::Fifo,
            Capability::Claims,
            Capability::Durability,
            Capability::Aod,
            Capability::HighThroughput,
        ]
    }

    async fn check(&self, location: &StoreLocation) -> Result<(), StartError> {
        let path = directory(location)?;
        read(&path, &location.options)?;
        // The start makes what is missing of it.
        match path.ancestors().find_map(|place| std::fs::metadata(place).ok()) {
            Some(found) if !found.is_dir() => {
                let allowed = "a directory, or one that can be made";
                Err(location.options.invalid(PATH.name, allowed).into())
            }
            _ => Ok(()),
        }
    }

    fn is_same_store(
        &self,
        one: &StoreLocation,
        other: &StoreLocation,
    ) -> Result<bool, StartError> {
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        Ok(real(directory(one)?) == real(directory(other)?))
    }

    fn presence(&self, location: &StoreLocation) -> Result<Presence, StartError> {
        let path = directory(location)?;
        if zaqar_storage_embedded::has_file(&path) {
            return Ok(Presence::Present);
        }
        let accepts = read(&path, &location.options)?.accept_loss;
        Ok(if accepts { Presence::Unknown } else { Presence::Absent })
    }

    async fn open(
        &self,
        location: &StoreLocation,
        context: &StoreContext,
    ) -> Result<OpenedStore, StartError> {
        let (path, options) = (directory(location)?, &location.options);
        let read = Options { tasks: context.tasks.clone(), ..read(&path, options)? };
        let sync = read.sync;
        let store = Embedded::open(read).map_err(|error| failed(options.name(), &error))?;
        info!(path = %path.display(), ?sync, "embedded store open");
        let watched = store.clone();
        Ok(OpenedStore::both(store).with_figures(move || figures(&watched, &path)))
    }
}

fn failed(section: &str, error: &Error) -> StartError {
    let own = std::process::id().to_string();
    let is_open_here = matches!(error, Error::InUse { owner, .. } if *owner == own);
    let named = in_section(section, error);
    if is_open_here { Box::new(OpenHere(named.to_string())) } else { named }
}

fn read(path: &Path, section: &Section) -> Result<Options, StartError> {
    let sync = match section.choice_of(&SYNC)? {
        "interval" => {
            let millis = section.number_of(&SYNC_INTERVAL)?;
            Sync::Interval(std::time::Duration::from_millis(millis))
        }
        "never" => Sync::Never,
        _ => Sync::Always,
    };
    let accept_loss = section.boolean(ACCEPT_LOSS.name)?.unwrap_or_default();
    Ok(Options { sync, accept_loss, ..Options::new(path) })
}

/// The store's directory in a role; `None` if the role has another store. A role without a location
/// is where the other one is, as when the stores are opened.
pub(crate) fn directory_of(
    settings: &Settings,
    role: StoreRole,
) -> Result<Option<PathBuf>, StartError> {
    const NAME: &str = "embedded";
    let names = &settings.drivers;
    let (own, other, other_name) = match role {
        StoreRole::Messages => {
            (&names.message_store, StoreRole::Management, &names.management_store)
        }
        StoreRole::Management => {
            (&names.management_store, StoreRole::Messages, &names.message_store)
        }
    };
    if own != NAME {
        return Ok(None);
    }
    let set = |role: StoreRole| settings.driver_section(role.section(NAME)).secret(PATH.name);
    let mut uri = set(role)?;
    if other_name == NAME && uri.is_none() {
        uri = set(other)?;
    }
    let default = || Secret::new(PATH.default.unwrap_or_default().to_owned());
    let options = settings.driver_section(role.section(NAME));
    directory(&StoreLocation { uri: uri.unwrap_or_else(default), options }).map(Some)
}

/// The snapshot tasks of the stores that the settings name, with their names.
///
/// # Errors
/// An option is invalid.
pub(crate) fn snapshots(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<(String, Snapshots)>, StartError> {
    let mut found: Vec<(String, Snapshots)> = Vec::new();
    for role in [StoreRole::Messages, StoreRole::Management] {
        let Some(store) = directory_of(settings, role)? else { continue };
        // If both roles are one store, the message store's options apply.
        if found.iter().any(|(_, other)| other.store == store) {
            continue;
        }
        let options = settings.driver_section(role.section("embedded"));
        if let Some(snapshots) = snapshots_of(store, &options, clock)? {
            found.push((format!("snapshots of {}", role.option()), snapshots));
        }
    }
    Ok(found)
}

/// What makes snapshots of the store of a pool; `None` where its options ask for none.
///
/// # Errors
/// An option that is wrong.
pub(crate) fn snapshots_of_pool(
    location: &StoreLocation,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Snapshots>, StartError> {
    snapshots_of(directory(location)?, &location.options, clock)
}

fn snapshots_of(
    store: PathBuf,
    options: &Section,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Snapshots>, StartError> {
    let interval = Duration::from_secs(options.number_of(&SNAPSHOT_INTERVAL)?);
    if interval.is_zero() {
        return Ok(None);
    }
    let keep = usize::try_from(options.number_of(&SNAPSHOT_KEEP)?).unwrap_or(usize::MAX);
    let directory = match options.text_of(&SNAPSHOT_DIR)? {
        Some(path) => std::path::absolute(path)?,
        None => store.join("snapshots"),
    };
    Ok(Some(Snapshots { store, directory, interval, keep, clock: Arc::clone(clock) }))
}

/// What the store tells of itself: its files, its checkpoints, and what is wrong with it.
#[expect(clippy::cast_precision_loss, reason = "no count and no file gets to 2^53")]
fn figures(store: &Embedded, directory: &Path) -> Vec<Figure> {
    let facts = store.facts();
    let gauge = |name, help, value| Figure { name, help, kind: FigureKind::Gauge, value };
    let count = |name, help, value: u64| Figure {
        name,
        help,
        kind: FigureKind::Counter,
        value: value as f64,
    };
    let file = std::fs::metadata(directory.join("zaqar.db")).ok();
    let file = file.map(|metadata| {
        gauge("file_bytes", "Bytes of the file of an embedded store", metadata.len() as f64)
    });
    let is_wrong = facts.is_damaged || facts.is_full || facts.is_unsynced || facts.is_replaced;
    let mut figures = Vec::from_iter(file);
    figures.extend([
        gauge("log_bytes", "Bytes of the log of an embedded store", facts.log_bytes as f64),
        gauge(
            "rejects_changes",
            "Whether an embedded store rejects changes: damaged, full, unsynced or replaced",
            f64::from(u8::from(is_wrong)),
        ),
        count(
            "checkpoints_done",
            "Checkpoints that copied the whole log of an embedded store into its file",
            facts.checkpoints_done,
        ),
        count(
            "checkpoints_busy",
            "Checkpoints after which a reader kept the log from being restarted",
            facts.checkpoints_busy,
        ),
        count(
            "checkpoints_failed",
            "Checkpoints of an embedded store that failed",
            facts.checkpoints_failed,
        ),
        count("syncs_failed", "Syncs of the log that failed between commits", facts.syncs_failed),
        count(
            "foreign_writes",
            "How often another program was found to have written to the file",
            facts.foreign_writes,
        ),
    ]);
    figures
}

/// The directory of a path or of a URI `embedded:PATH`. It is made absolute, so that logs are
/// unambiguous.
fn directory(location: &StoreLocation) -> Result<PathBuf, StartError> {
    let uri = location.uri.expose();
    let path = uri.strip_prefix("embedded:").unwrap_or(uri);
    let path = path.strip_prefix("//").unwrap_or(path);
    std::path::absolute(Path::new(path))
        .map_err(|_| location.options.invalid(PATH.name, "a directory").into())
}
