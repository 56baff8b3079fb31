//! `zaqar queue`.

use clap::{Args, Subcommand, ValueEnum};
use futures_util::TryStreamExt;
use serde_json::Value;
use zaqar_client::{
    Client, Kind, Object, Purge, QueueFilter, QueueToMove, Resource, Share, SharedPath,
};

use super::{changes, object, pair};
use crate::output::Output;
use crate::{Failure, drain, top};

/// What to do with queues.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the project's queues
    List(List),
    /// Shows a queue's metadata, with defaults
    Show {
        /// The queue
        name: String,
    },
    /// Creates a queue; one that is there keeps its metadata
    Create(Create),
    /// Changes a queue's metadata
    Set(Set),
    /// Deletes a queue and everything in it
    Delete {
        /// The queue
        name: String,
    },
    /// Counts a queue's messages
    Stats {
        /// The queue
        name: String,
    },
    /// Removes what is in a queue
    Purge {
        /// The queue
        name: String,
        /// What goes
        #[arg(long, value_enum, default_value = "messages")]
        what: What,
    },
    /// Moves a queue to a pool, while it is in use; for administrators
    Move {
        /// The queue
        name: String,
        /// The pool that it goes to
        pool: String,
        /// The project that has it, if that is not the caller's
        #[arg(long)]
        project: Option<String>,
    },
    /// Signs a URL that opens parts of a queue without credentials
    Share(Sharing),
    /// Shows the fullest queues, and how fast they fill and empty, again and again
    Top(top::Arguments),
}

/// Which queues or topics are listed.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// A regular expression that the name contains
    #[arg(long)]
    name: Option<String>,
    /// An attribute that the metadata has, as NAME=VALUE
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = pair)]
    attributes: Vec<(String, Value)>,
    /// Shows the metadata
    #[arg(long, short)]
    detailed: bool,
    /// The most that are shown
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

/// What is created.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// Metadata: _default_message_ttl=600, _dead_letter_queue=jobs.dead, _max_claim_count=5, …
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, Value)>,
}

/// What is changed.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Its name
    name: String,
    /// Metadata to set
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, Value)>,
    /// Metadata to remove
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

/// What a purge removes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum What {
    /// Messages, claimed ones too
    Messages,
    /// Subscriptions
    Subscriptions,
    /// Both
    All,
}

impl From<What> for Purge {
    fn from(what: What) -> Self {
        match what {
            What::Messages => Self::Messages,
            What::Subscriptions => Self::Subscriptions,
            What::All => Self::Everything,
        }
    }
}

/// What is shared.
#[derive(Debug, Args)]
pub(crate) struct Sharing {
    /// The queue
    name: String,
    /// What it opens
    #[arg(long = "path", value_enum, default_value = "messages")]
    paths: Vec<Path>,
    /// What may be done
    #[arg(long = "method", default_value = "GET")]
    methods: Vec<String>,
    /// When it ends, as 2026-12-01T00:00:00 in UTC; in a day otherwise
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// A part of a queue.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Path {
    Messages,
    Claims,
    Subscriptions,
}

impl From<Path> for SharedPath {
    fn from(path: Path) -> Self {
        match path {
            Path::Messages => Self::Messages,
            Path::Claims => Self::Claims,
            Path::Subscriptions => Self::Subscriptions,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List(list) => {
                let entries = client.queues(&list.filter());
                list.show(entries, output).await
            }
            Self::Show { name } => show(&client.queue(&name)?, output).await,
            Self::Create(create) => {
                let queue = client.queue(&create.name)?;
                create.run(&queue, output).await
            }
            Self::Set(set) => {
                let queue = client.queue(&set.name)?;
                set.run(&queue, output).await
            }
            Self::Delete { name } => delete(&client.queue(&name)?, output).await,
            Self::Stats { name } => stats(&client.queue(&name)?, output).await,
            Self::Purge { name, what } => purge(&client.queue(&name)?, what, output).await,
            Self::Move { name, pool, project } => {
                let queue = QueueToMove { queue_name: name, project, ..QueueToMove::default() };
                drain::move_queue(client, &pool, queue, output).await
            }
            Self::Share(sharing) => {
                let share = Share {
                    paths: sharing.paths.into_iter().map(Into::into).collect(),
                    methods: sharing.methods,
                    expires: sharing.expires,
                };
                output.record(&client.queue(&sharing.name)?.share(&share).await?)
            }
            Self::Top(arguments) => arguments.run(client, output).await,
        }
    }
}

impl List {
    pub(super) fn filter(&self) -> QueueFilter {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), Into::into);
        let attributes = self.attributes.iter();
        QueueFilter {
            name: self.name.clone(),
            attributes: attributes.map(|(name, value)| (name.clone(), text(value))).collect(),
            detailed: self.detailed,
            page: None,
        }
    }

    pub(super) async fn show<S>(&self, entries: S, output: &Output) -> Result<(), Failure>
    where
        S: futures_util::Stream<Item = Result<zaqar_client::QueueEntry, zaqar_client::Error>>,
    {
        use futures_util::StreamExt;
        let rows: Vec<_> = entries.take(self.limit).try_collect().await?;
        let columns: &[&str] = if self.detailed { &["name", "metadata"] } else { &["name"] };
        output.list(columns, &rows)
    }
}

impl Create {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn run<K: Kind>(
        self,
        resource: &Resource<K>,
        output: &Output,
    ) -> Result<(), Failure> {
        let metadata: Object = object(self.metadata);
        let is_new = resource.create(metadata).await?;
        let what = if is_new { "created" } else { "was there already; its metadata is as it was" };
        output.done(&format!("{} {what}", self.name))
    }
}

impl Set {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn run<K: Kind>(
        self,
        resource: &Resource<K>,
        output: &Output,
    ) -> Result<(), Failure> {
        output.record(&resource.change(&changes(self.set, self.unset)?).await?)
    }
}

pub(super) async fn show<K: Kind>(resource: &Resource<K>, output: &Output) -> Result<(), Failure> {
    output.record(&resource.metadata().await?)
}

pub(super) async fn delete<K: Kind>(
    resource: &Resource<K>,
    output: &Output,
) -> Result<(), Failure> {
    resource.delete().await?;
    output.done(&format!("{} deleted", resource.name()))
}

pub(super) async fn stats<K: Kind>(resource: &Resource<K>, output: &Output) -> Result<(), Failure> {
    output.record(&resource.stats().await?)
}

pub(super) async fn purge<K: Kind>(
    resource: &Resource<K>,
    what: What,
    output: &Output,
) -> Result<(), Failure> {
    resource.purge(what.into()).await?;
    output.done(&format!("{} purged", resource.name()))
}
