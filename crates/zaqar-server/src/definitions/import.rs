//! Takes a file of definitions over.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use zaqar_api::{
    ConfirmSubscription, Context, CreateQueue, CreateSubscription, Error, QueueRef, Subscriber,
    SubscriptionRef,
};
use zaqar_core::limits::MIN_TTL;
use zaqar_core::pools::{FlavorName, Pool, PoolName, Pools, masked};
use zaqar_core::{
    ClientId, Clock, Kind, Metadata, ProjectId, QueueName, Secret, SubscriptionId, SystemClock,
    Timestamp,
};

use super::{Counts, FORMAT, Line};
use crate::error::StartError;
use crate::left_out::{LeftOut, counted};
use crate::manage::Outcome;
use crate::notify::SubscriberRules;
use crate::offline::{Offline, Setup};

/// A longer line is refused: no metadata and no options are as long.
const MAX_LINE: usize = 4 << 20;

/// Imports a file that [`export`](super::export) wrote. A dry run does so into a store of its own,
/// which it deletes, so that it checks what the import checks; what the configured stores have
/// already, and pools, it does not see.
///
/// # Errors
/// A file that cannot be read or is none of definitions, stores that cannot be opened or written.
pub(crate) async fn import(
    file: &Path,
    is_dry: bool,
    setup: Setup<'_>,
) -> Result<Outcome, StartError> {
    // All of it is read first: of a file that is cut off, nothing is imported.
    import_into(None, file, "read").await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let channels = setup.registry.channels(setup.settings)?;
    let scratch = if is_dry { Some(ScratchDirectory::create()?) } else { None };
    let offline = match &scratch {
        Some(directory) => Offline::scratch(setup.settings, &directory.0)?,
        None => Offline::open(setup).await?,
    };
    let target = Target {
        offline: &offline,
        is_dry,
        has_pools: setup.settings.pooling,
        max_metadata: setup.settings.limits.max_queue_metadata,
        subscribers: SubscriberRules::new(setup.settings, &clock, channels)?,
    };
    let done = if is_dry { "would be imported" } else { "imported" };
    let imported = import_into(Some(target), file, done).await;
    offline.close().await?;
    imported
}

/// Without a target it only reads the file.
async fn import_into(
    target: Option<Target<'_>>,
    file: &Path,
    done: &str,
) -> Result<Outcome, StartError> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let opened = File::open(file).map_err(|error| named(&error))?;
    let mut importer = Importer {
        target,
        queue: None,
        began: SystemClock.now(),
        counts: Counts::default(),
        left_out: LeftOut::default(),
        refused: 0,
    };
    importer.read(BufReader::new(opened)).await.map_err(|error| named(&error))?;
    let text = format!("{}{}", importer.counts.text(done), importer.left_out);
    let problem = match importer.refused {
        0 => None,
        refused => Some(format!("{} refused", counted(refused, "definition"))),
    };
    Ok(Outcome { text, problem })
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

/// What an import writes to, and what it accepts.
struct Target<'a> {
    offline: &'a Offline,
    is_dry: bool,
    /// `[DEFAULT] pooling`
    has_pools: bool,
    /// Bytes of a queue's metadata, at most: the transports check them.
    max_metadata: u64,
    subscribers: SubscriberRules,
}

/// A new directory that is deleted with what is in it.
struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    fn create() -> Result<Self, StartError> {
        let name = format!("zaqar-import-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        // What cannot be deleted is left to the system, as other temporary files are.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Why a line was left out.
enum Reason {
    /// It is there already, is over, or the file does not have all of it.
    NotNeeded(&'static str),
    /// The configuration or a store does not accept it.
    Refused(StartError),
}

impl Reason {
    fn refused(error: impl Into<StartError>) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Reason {
    fn from(error: E) -> Self {
        Self::refused(error)
    }
}

struct Importer<'a> {
    /// `None` only reads.
    target: Option<Target<'a>>,
    /// The queue or topic whose line came last; `None` where it was left out.
    queue: Option<(Context, QueueRef)>,
    began: Timestamp,
    counts: Counts,
    left_out: LeftOut,
    /// How many lines were refused.
    refused: u64,
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
                Err(Reason::NotNeeded(why)) => {
                    self.left_out.add(thing(&line, &last_queue), why.to_owned());
                }
                Err(Reason::Refused(error)) => {
                    self.refused += 1;
                    self.left_out.add(thing(&line, &last_queue), error.to_string());
                }
            }
        }
        if ended { Ok(()) } else { Err("it ends early: the export was cut off".into()) }
    }

    /// Takes one line over.
    async fn take(&mut self, line: &Line) -> Result<(), Reason> {
        match line {
            Line::Definitions { .. } | Line::End { .. } => {
                Err(Reason::refused("a second beginning"))
            }
            Line::Pool { name, uri, weight, flavor, options } => {
                if masked(uri) == *uri && uri.contains("***") {
                    return Err(Reason::NotNeeded("its password is masked in the file"));
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
                let left_out = Reason::NotNeeded("of a queue that is left out");
                let queue = self.queue.clone().ok_or(left_out)?;
                self.subscription(queue, (subscriber, *expires, *confirmed), options).await
            }
        }
    }

    /// The registry of pools; `None` where none is to be changed.
    fn pools(&self) -> Result<Option<&dyn Pools>, Reason> {
        match &self.target {
            Some(target) if !target.has_pools => Err(Reason::refused("[DEFAULT] pooling is off")),
            Some(target) if !target.is_dry => Ok(target.offline.pools.as_deref()),
            Some(_) | None => Ok(None),
        }
    }

    /// A queue that exists keeps its metadata.
    async fn queue(
        &mut self,
        kind: Kind,
        project: &str,
        name: &str,
        metadata: &Map<String, Value>,
    ) -> Result<(), Reason> {
        self.queue = None;
        let context = Context::new(ProjectId::new(project)?, ClientId::new(""));
        let name = QueueName::new(name)?;
        let queue = QueueRef { kind, name };
        let mut is_new = true;
        if let Some(target) = &self.target {
            let metadata = Metadata::new(metadata.clone());
            let max = target.max_metadata;
            if metadata.to_json().len() as u64 > max {
                let problem = format!("its metadata has more than {max} bytes");
                return Err(Reason::refused(problem));
            }
            let create = CreateQueue { queue: queue.clone(), metadata };
            is_new = target.offline.api.call(&context, create).await?;
        }
        self.queue = Some((context, queue));
        if is_new { Ok(()) } else { Err(Reason::NotNeeded("it exists")) }
    }

    async fn subscription(
        &self,
        (context, queue): (Context, QueueRef),
        (subscriber, expires, confirmed): (&str, u64, bool),
        options: &Map<String, Value>,
    ) -> Result<(), Reason> {
        let left = expires.saturating_sub(SystemClock.now().as_secs());
        let why = if left == 0 {
            Some("expired")
        } else if options.contains_key("signing") {
            Some("its secret is not in the file (signing): subscribe again")
        } else if subscriber.get(..6).is_some_and(|it| it.eq_ignore_ascii_case("trust+")) {
            Some("its Keystone trust is not in the file (trust+): subscribe again")
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Reason::NotNeeded(why));
        }
        let Some(target) = &self.target else { return Ok(()) };
        target.subscribers.check(Some(subscriber), Some(options)).map_err(Reason::refused)?;
        let create = CreateSubscription {
            queue: queue.clone(),
            subscriber: Subscriber::Address(subscriber.to_owned()),
            ttl: Some(i64::try_from(left.max(MIN_TTL)).unwrap_or(i64::MAX)),
            options: options.clone(),
        };
        let api = &target.offline.api;
        let made = match api.call(&context, create).await {
            Err(Error::SubscriptionExists) => return Err(Reason::NotNeeded("it exists")),
            made => made?,
        };
        if confirmed {
            let subscription = SubscriptionRef { queue, id: made.id.to_string() };
            let confirm = ConfirmSubscription { subscription, confirmed: true };
            api.call(&context, confirm).await?;
        } else if made.id < SubscriptionId::new(u128::from(self.began.as_millis()) << 80) {
            // Ids begin with the time. One that awaits its confirmation stays as it is.
            return Err(Reason::NotNeeded("it exists"));
        }
        Ok(())
    }
}
