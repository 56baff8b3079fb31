//! `zaqar-manage export` and `zaqar-manage import FILE`: pools, flavors, queues, topics and
//! subscriptions as lines of JSON, without messages.

mod import;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zaqar_api::{Context, ListQueues, ListSubscriptions, QueueRef};
use zaqar_core::pools::{FlavorName, MAX_POOLS, masked};
use zaqar_core::{ClientId, Kind, ProjectId, SubscriptionId};

pub(crate) use import::import;

use crate::error::StartError;
use crate::left_out::counted;
use crate::offline::{Offline, Setup};

/// The format of the file. A file of a later one is refused.
const FORMAT: u32 = 1;

/// What to export.
pub(crate) struct Export {
    /// A store cannot list its projects.
    pub(crate) projects: Vec<String>,
    /// Pools too.
    pub(crate) pools: bool,
    /// The passwords in URIs of pools too.
    pub(crate) secrets: bool,
    /// Where to; standard output without one.
    pub(crate) file: Option<PathBuf>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    /// The first one.
    Definitions {
        format: u32,
    },
    Pool {
        name: String,
        uri: String,
        weight: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flavor: Option<String>,
        #[serde(default)]
        options: Map<String, Value>,
    },
    Flavor {
        project: String,
        name: String,
        pools: Vec<String>,
    },
    Queue {
        project: String,
        name: String,
        metadata: Map<String, Value>,
    },
    Topic {
        project: String,
        name: String,
        metadata: Map<String, Value>,
    },
    /// The last one.
    End {
        /// Lines between the first one and this one.
        lines: u64,
    },
    /// Of the queue or topic whose line came last.
    Subscription {
        subscriber: String,
        /// Seconds since 1970.
        expires: u64,
        confirmed: bool,
        options: Map<String, Value>,
    },
}

impl Line {
    const fn name(&self) -> &'static str {
        match self {
            Self::Definitions { .. } => "definitions",
            Self::End { .. } => "end",
            Self::Pool { .. } => "pool",
            Self::Flavor { .. } => "flavor",
            Self::Queue { .. } => "queue",
            Self::Topic { .. } => "topic",
            Self::Subscription { .. } => "subscription",
        }
    }
}

/// Lines by their kind.
#[derive(Debug, Default)]
struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    fn add(&mut self, line: &Line) {
        *self.0.entry(line.name()).or_default() += 1;
    }

    fn text(&self, done: &str) -> String {
        let all = self.0.iter().map(|(name, count)| counted(*count, name));
        let all = all.collect::<Vec<_>>().join(", ");
        format!("{done}: {}\n", if all.is_empty() { "nothing" } else { &all })
    }
}

/// Exports; what there is to say.
///
/// # Errors
/// Stores that cannot be opened or read, a file that exists or cannot be written.
pub(crate) async fn export(export: &Export, setup: Setup<'_>) -> Result<String, StartError> {
    let projects = export.projects.iter().map(|id| ProjectId::new(id));
    let projects: Vec<_> = projects.collect::<Result<_, _>>()?;
    let offline = Offline::open(setup).await?;
    let partial = export.file.as_deref().map(partial).transpose()?;
    let done = async {
        let out: Box<dyn Write + Send> = match &partial {
            Some(file) => Box::new(create(file)?),
            None => Box::new(std::io::stdout()),
        };
        let mut exporter =
            Exporter { offline: &offline, out: BufWriter::new(out), counts: Counts::default() };
        exporter.write(&Line::Definitions { format: FORMAT })?;
        if export.pools {
            exporter.pools(export.secrets).await?;
        }
        for project in projects {
            exporter.project(&project).await?;
        }
        let lines = exporter.counts.0.values().sum();
        exporter.write(&Line::End { lines })?;
        exporter.out.flush()?;
        Ok::<_, StartError>(exporter.counts)
    };
    let mut done = done.await;
    if let (Some(partial), Some(file)) = (&partial, &export.file) {
        done = match done {
            Ok(counts) => File::open(partial)
                .and_then(|written| written.sync_all())
                .and_then(|()| fs::rename(partial, file))
                .map(|()| counts)
                .map_err(Into::into),
            Err(error) => {
                // The error says more than one of the removal would.
                let _ = fs::remove_file(partial);
                Err(error)
            }
        };
    }
    offline.close().await?;
    let counts = done?;
    // Standard output has the definitions.
    Ok(if export.file.is_some() { counts.text("exported") } else { String::new() })
}

/// What the file is called until all is in it.
fn partial(file: &Path) -> Result<PathBuf, StartError> {
    if file.exists() {
        return Err(format!("{} exists already", file.display()).into());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    Ok(name.into())
}

/// A new file that its owner alone can read: addresses of subscribers may have secrets in them.
fn create(file: &Path) -> Result<File, StartError> {
    // A file that a killed export left is overwritten.
    let created = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    created.map_err(|error| format!("{}: {error}", file.display()).into())
}

struct Exporter<'a> {
    offline: &'a Offline,
    out: BufWriter<Box<dyn Write + Send>>,
    counts: Counts,
}

impl Exporter<'_> {
    fn write(&mut self, line: &Line) -> Result<(), StartError> {
        if !matches!(line, Line::Definitions { .. } | Line::End { .. }) {
            self.counts.add(line);
        }
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")?;
        Ok(())
    }

    async fn pools(&mut self, secrets: bool) -> Result<(), StartError> {
        let Some(pools) = &self.offline.pools else {
            return Err("[DEFAULT] pooling is off: there are no pools".into());
        };
        for pool in pools.pools(None, MAX_POOLS).await? {
            let uri = pool.uri.expose();
            self.write(&Line::Pool {
                name: pool.name.to_string(),
                uri: if secrets { uri.clone() } else { masked(uri) },
                weight: pool.weight,
                flavor: pool.flavor.map(|flavor| flavor.to_string()),
                options: pool.options,
            })?;
        }
        Ok(())
    }

    async fn project(&mut self, project: &ProjectId) -> Result<(), StartError> {
        self.flavors(project).await?;
        let context = Context::new(project.clone(), ClientId::new(""));
        for kind in [Kind::Queue, Kind::Topic] {
            let mut marker = None;
            loop {
                let page = ListQueues {
                    kind,
                    marker: marker.clone(),
                    limit: None,
                    detailed: true,
                    name: None,
                    with_count: false,
                    filters: Vec::new(),
                };
                let page = self.offline.api.call(&context, page).await?;
                for queue in page.queues {
                    let metadata = queue.metadata.map(|it| it.as_object().clone());
                    let (name, metadata) = (queue.name.to_string(), metadata.unwrap_or_default());
                    let project = project.to_string();
                    self.write(&match kind {
                        Kind::Topic => Line::Topic { project, name, metadata },
                        Kind::Queue | Kind::Internal => Line::Queue { project, name, metadata },
                    })?;
                    self.subscriptions(&context, QueueRef { kind, name: queue.name }).await?;
                }
                let Some(next) = page.next else { break };
                marker = Some(next.to_string());
            }
        }
        Ok(())
    }

    async fn flavors(&mut self, project: &ProjectId) -> Result<(), StartError> {
        let Some(pools) = &self.offline.pools else { return Ok(()) };
        let mut after: Option<FlavorName> = None;
        loop {
            let page = pools.flavors(project, after.as_ref(), 100).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.name.clone());
            for flavor in page {
                self.write(&Line::Flavor {
                    project: project.to_string(),
                    name: flavor.name.to_string(),
                    pools: flavor.pools.iter().map(ToString::to_string).collect(),
                })?;
            }
        }
    }

    async fn subscriptions(
        &mut self,
        context: &Context,
        queue: QueueRef,
    ) -> Result<(), StartError> {
        let mut last: Option<SubscriptionId> = None;
        loop {
            let marker = last.map(|id| id.to_string());
            let page = ListSubscriptions { queue: queue.clone(), marker, limit: None };
            let page = self.offline.api.call(context, page).await?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.id);
            // Those of connections end with them.
            for one in page.into_iter().filter(|one| one.lease.is_none()) {
                self.write(&Line::Subscription {
                    subscriber: one.subscriber,
                    expires: one.since.plus_secs(one.ttl).as_secs(),
                    confirmed: one.confirmed,
                    options: serde_json::from_str(&one.options).unwrap_or_default(),
                })?;
            }
        }
    }
}
