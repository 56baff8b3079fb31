//! `zaqar pool`.

use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use serde_json::Value;
use zaqar_client::{Client, PoolChange};

use super::{object, pair};
use crate::output::Output;
use crate::{Failure, drain};

/// What to do with pools.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists pools
    List {
        /// Shows their options
        #[arg(long, short)]
        detailed: bool,
    },
    /// Shows a pool with its options
    Show {
        /// The pool
        name: String,
    },
    /// Registers a store as a pool; the server opens it first
    Create {
        /// The pool
        name: String,
        /// Where the store is: redis://HOST:6379
        uri: String,
        /// Its share of new queues
        weight: u64,
        #[command(flatten)]
        more: More,
    },
    /// Changes a pool
    Set {
        /// The pool
        name: String,
        /// Where the store is
        #[arg(long)]
        uri: Option<String>,
        /// Its share of new queues
        #[arg(long)]
        weight: Option<u64>,
        #[command(flatten)]
        more: More,
    },
    /// Moves all queues of a pool to the others of its flavor, while they are in use
    Drain {
        /// The pool
        name: String,
        /// Moves no further queues
        #[arg(long)]
        stop: bool,
        /// Shows what it has come to, and moves of single queues, and changes nothing
        #[arg(long, conflicts_with = "stop")]
        show: bool,
    },
    /// Removes a pool; its store keeps what it has
    Delete {
        /// The pool
        name: String,
    },
}

/// What a pool may have besides.
#[derive(Debug, Args)]
pub(crate) struct More {
    /// The flavor that it belongs to
    #[arg(long)]
    flavor: Option<String>,
    /// Options of its driver
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = pair)]
    options: Vec<(String, Value)>,
}

impl More {
    fn change(self, uri: Option<String>, weight: Option<u64>) -> PoolChange {
        let options = (!self.options.is_empty()).then(|| object(self.options));
        PoolChange { uri, weight, flavor: self.flavor, options }
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List { detailed } => {
                let rows: Vec<_> = client.pools(detailed).try_collect().await?;
                let columns: &[&str] = if detailed {
                    &["name", "uri", "weight", "flavor", "options"]
                } else {
                    &["name", "uri", "weight", "flavor"]
                };
                output.list(columns, &rows)
            }
            Self::Show { name } => output.record(&client.pool(&name).await?),
            Self::Create { name, uri, weight, more } => {
                client.create_pool(&name, &more.change(Some(uri), Some(weight))).await?;
                output.done(&format!("{name} registered"))
            }
            Self::Set { name, uri, weight, more } => {
                let change = more.change(uri, weight);
                if change == PoolChange::default() {
                    let what = "say what to change: --uri, --weight, --flavor or --option";
                    return Err(Failure::Usage(what.to_owned()));
                }
                output.record(&client.change_pool(&name, &change).await?)
            }
            Self::Drain { name, show: true, .. } => {
                drain::show(&client.drain(&name).await?, output)
            }
            Self::Drain { name, stop: true, .. } => {
                client.stop_drain(&name).await?;
                output.done(&format!("{name} is not drained any more"))
            }
            Self::Drain { name, .. } => {
                client.drain_pool(&name).await?;
                drain::wait(client, &name, output).await
            }
            Self::Delete { name } => {
                client.delete_pool(&name).await?;
                output.done(&format!("{name} removed"))
            }
        }
    }
}
