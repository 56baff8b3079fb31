//! `zaqar-manage export` and `zaqar-manage import FILE`: pools, flavors, queues, topics and
//! subscriptions as lines of JSON, without messages.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zaqar_api::{
    ConfirmSubscription, Context, CreateQueue, CreateSubscription, ListQueues, ListSubscriptions,
    QueueRef, Subscriber, SubscriptionRef,
};
use zaqar_core::limits::MIN_TTL;
use zaqar_core::pools::{FlavorName, MAX_POOLS, Pool, PoolName, Pools, masked};
use zaqar_core::{
    ClientId, Clock, Kind, Metadata, ProjectId, QueueName, Secret, SubscriptionId, SystemClock,
    Timestamp,
};

use crate::error::StartError;
use crate::left_out::{LeftOut, counted};
use crate::offline::{Offline, Setup};

/// The format of the file. A file of a later one is refused.
const FORMAT: u32 = 1;
/// A longer line is refused: no metadata and no options are as long.
const MAX_LINE: usize = 4 << 20;

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
#[derive(Debug, Serialize, Deserialize)]
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

/// What a line is about, for [`LeftOut`].
fn thing(line: &Line, last_queue: &str) -> String {
    match line {
        Line::Definitions { .. } | Line::End { .. } => "a line".to_owned(),
        Line::Pool { name, .. } => format!("pool {name}"),
        Line::Flavor { project, name, .. } => format!("flavor {project}/{name}"),
        Line::Queue { project, name, .. } => format!("queue {project}/{name}"),
        Line::Topic { project, name, .. } => format!("topic {project}/{name}"),
        Line::Subscription { .. } => format!("a subscription of {last_queue}"),
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

/// Imports a file that [`export`] wrote; what there is to say. With `is_dry` no store is opened.
///
/// # Errors
/// A file that cannot be read or is none of definitions, stores that cannot be opened or written.
pub(crate) async fn import(
    file: &Path,
    is_dry: bool,
    setup: Setup<'_>,
) -> Result<String, StartError> {
    // All of it is read first: of a file that is cut off, nothing is imported.
    let checked = import_into(None, file, "would be imported").await?;
    if is_dry {
        return Ok(checked);
    }
    let offline = Offline::open(setup).await?;
    let imported = import_into(Some(&offline), file, "imported").await;
    offline.close().await?;
    imported
}

/// Without stores it only checks and counts.
async fn import_into(
    offline: Option<&Offline>,
    file: &Path,
    done: &str,
) -> Result<String, StartError> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let opened = File::open(file).map_err(|error| named(&error))?;
    let mut importer = Importer {
        offline,
        queue: None,
        began: SystemClock.now(),
        counts: Counts::default(),
        left_out: LeftOut::default(),
    };
    importer.read(BufReader::new(opened)).await.map_err(|error| named(&error))?;
    Ok(format!("{}{}", importer.counts.text(done), importer.left_out))
}

struct Importer<'a> {
    /// `None` only checks and counts.
    offline: Option<&'a Offline>,
    /// The queue or topic whose line came last; `None` where it was left out.
    queue: Option<(Context, QueueRef)>,
    began: Timestamp,
    counts: Counts,
    left_out: LeftOut,
}

impl Importer<'_> {
    async fn read(&mut self, mut lines: impl BufRead) -> Result<(), StartError> {
        let mut ended = false;
        let mut last_queue = String::new();
        for number in 1_u64.. {
            let mut text = String::new();
            let limit = u64::try_from(MAX_LINE)?;
            let read = std::io::Read::take(&mut lines, limit).read_line(&mut text);
            let read = read.map_err(|error| {
                let is_text = error.kind() != std::io::ErrorKind::InvalidData;
                let reason = if is_text { error.to_string() } else { "not UTF-8".to_owned() };
                format!("line {number}: {reason}")
            });
            if read? == 0 {
                break;
            }
            let line: Line = serde_json::from_str(&text)
                .map_err(|error| format!("line {number} is no definition: {error}"))?;
            match (&line, number) {
                (Line::Definitions { format: FORMAT }, 1) => continue,
                (Line::Definitions { format }, 1) => {
                    return Err(format!("format {format}, and this release reads {FORMAT}").into());
                }
                (_, 1) => return Err("the first line names no format: no export".into()),
                (Line::End { lines }, _) if *lines + 2 == number => {
                    ended = true;
                    continue;
                }
                (Line::End { lines }, _) => {
                    return Err(
                        format!("{} lines, and it was written with {lines}", number - 2).into()
                    );
                }
                _ => {}
            }
            if let Line::Queue { project, name, .. } | Line::Topic { project, name, .. } = &line {
                last_queue = format!("{project}/{name}");
            }
            match self.take(&line).await {
                Ok(()) => self.counts.add(&line),
                Err(reason) => self.left_out.add(thing(&line, &last_queue), reason.to_string()),
            }
        }
        if ended { Ok(()) } else { Err("it ends early: the export was cut off".into()) }
    }

    /// Takes one line over.
    async fn take(&mut self, line: &Line) -> Result<(), StartError> {
        match line {
            Line::Definitions { .. } | Line::End { .. } => Err("a second beginning".into()),
            Line::Pool { name, uri, weight, flavor, options } => {
                if masked(uri) == *uri && uri.contains("***") {
                    return Err("its password is masked in the file".into());
                }
                let pool = Pool {
                    name: PoolName::new(name)?,
                    uri: Secret::new(uri.clone()),
                    weight: *weight,
                    flavor: flavor.as_deref().map(FlavorName::new).transpose()?,
                    options: options.clone(),
                };
                let Some(pools) = self.pools()? else { return Ok(()) };
                Ok(pools.put_pool(pool).await?)
            }
            Line::Flavor { project, name, pools: of } => {
                let (project, name) = (ProjectId::new(project)?, FlavorName::new(name)?);
                let of =
                    of.iter().map(|pool| PoolName::new(pool)).collect::<Result<Vec<_>, _>>()?;
                let Some(pools) = self.pools()? else { return Ok(()) };
                Ok(pools.put_flavor(&project, &name, &of).await.map(drop)?)
            }
            Line::Queue { project, name, metadata } => {
                self.queue(Kind::Queue, project, name, metadata).await
            }
            Line::Topic { project, name, metadata } => {
                self.queue(Kind::Topic, project, name, metadata).await
            }
            Line::Subscription { subscriber, expires, confirmed, options } => {
                let queue = self.queue.clone().ok_or("of a queue that is left out")?;
                self.subscription(queue, (subscriber, *expires, *confirmed), options).await
            }
        }
    }

    /// The registry of pools; `None` in a dry run.
    fn pools(&self) -> Result<Option<&dyn Pools>, StartError> {
        let Some(offline) = self.offline else { return Ok(None) };
        match &offline.pools {
            Some(pools) => Ok(Some(pools.as_ref())),
            None => Err("[DEFAULT] pooling is off".into()),
        }
    }

    /// A queue that exists keeps its metadata.
    async fn queue(
        &mut self,
        kind: Kind,
        project: &str,
        name: &str,
        metadata: &Map<String, Value>,
    ) -> Result<(), StartError> {
        self.queue = None;
        let context = Context::new(ProjectId::new(project)?, ClientId::new(""));
        let name = QueueName::new(name)?;
        let queue = QueueRef { kind, name };
        if let Some(offline) = self.offline {
            let metadata = Metadata::new(metadata.clone());
            let create = CreateQueue { queue: queue.clone(), metadata };
            let is_new = offline.api.call(&context, create).await?;
            self.queue = Some((context, queue));
            return if is_new { Ok(()) } else { Err("it exists".into()) };
        }
        self.queue = Some((context, queue));
        Ok(())
    }

    async fn subscription(
        &self,
        (context, queue): (Context, QueueRef),
        (subscriber, expires, confirmed): (&str, u64, bool),
        options: &Map<String, Value>,
    ) -> Result<(), StartError> {
        let left = expires.saturating_sub(SystemClock.now().as_secs());
        if left == 0 {
            return Err("expired".into());
        }
        if options.contains_key("signing") {
            return Err("its secret is not in the file (signing): subscribe again".into());
        }
        if subscriber.get(..6).is_some_and(|it| it.eq_ignore_ascii_case("trust+")) {
            return Err("its Keystone trust is not in the file (trust+): subscribe again".into());
        }
        let Some(offline) = self.offline else { return Ok(()) };
        let create = CreateSubscription {
            queue: queue.clone(),
            subscriber: Subscriber::Address(subscriber.to_owned()),
            ttl: Some(i64::try_from(left.max(MIN_TTL)).unwrap_or(i64::MAX)),
            options: options.clone(),
        };
        let made = offline.api.call(&context, create).await?;
        if confirmed {
            let subscription = SubscriptionRef { queue, id: made.id.to_string() };
            let confirm = ConfirmSubscription { subscription, confirmed: true };
            offline.api.call(&context, confirm).await?;
        } else if made.id < SubscriptionId::new(u128::from(self.began.as_millis()) << 80) {
            // Ids begin with the time. One that awaits its confirmation stays as it is.
            return Err("it exists".into());
        }
        Ok(())
    }
}
