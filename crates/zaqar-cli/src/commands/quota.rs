//! `zaqar quota`.

use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use zaqar_client::{Client, QuotaChange};

use crate::Failure;
use crate::output::Output;

/// What to do with the quotas of a project.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the projects for which quotas are set, with what is set; 0 is no limit
    List,
    /// Shows what holds for a project; 0 is no limit
    Show {
        /// The project whose quotas they are
        #[arg(value_name = "PROJECT")]
        of_project: String,
    },
    /// Sets quotas in the place of all that were set for the project
    Set {
        /// The project whose quotas they are
        #[arg(value_name = "PROJECT")]
        of_project: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Forgets what was set for a project: what the server is configured with holds again
    Unset {
        /// The project whose quotas they are
        #[arg(value_name = "PROJECT")]
        of_project: String,
    },
}

/// The limits; 0 is none.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Queues and topics
    #[arg(long)]
    max_queues: Option<u64>,
    /// Subscriptions
    #[arg(long)]
    max_subscriptions: Option<u64>,
    /// Messages of one queue or topic
    #[arg(long)]
    max_messages_per_queue: Option<u64>,
    /// Bytes of the messages of one queue or topic
    #[arg(long)]
    max_bytes_per_queue: Option<u64>,
    /// Messages of all queues and topics
    #[arg(long)]
    max_messages: Option<u64>,
    /// Bytes of the messages of all queues and topics
    #[arg(long)]
    max_bytes: Option<u64>,
    /// Requests a second
    #[arg(long)]
    max_requests_per_second: Option<u64>,
    /// Bytes a second, posted and pushed
    #[arg(long)]
    max_bytes_per_second: Option<u64>,
}

impl From<Limits> for QuotaChange {
    fn from(limits: Limits) -> Self {
        Self {
            max_queues: limits.max_queues,
            max_subscriptions: limits.max_subscriptions,
            max_messages_per_queue: limits.max_messages_per_queue,
            max_bytes_per_queue: limits.max_bytes_per_queue,
            max_messages: limits.max_messages,
            max_bytes: limits.max_bytes,
            max_requests_per_second: limits.max_requests_per_second,
            max_bytes_per_second: limits.max_bytes_per_second,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List => {
                let rows: Vec<_> = client.managed_quotas().try_collect().await?;
                output.list(&["project", "quotas"], &rows)
            }
            Self::Show { of_project } => output.record(&client.quotas(&of_project).await?),
            Self::Set { of_project, limits } => {
                let change = QuotaChange::from(limits);
                if change == QuotaChange::default() {
                    let what = "say what to set, as --max-messages 1000; `quota unset` forgets it";
                    return Err(Failure::Usage(what.to_owned()));
                }
                output.record(&client.set_quotas(&of_project, &change).await?)
            }
            Self::Unset { of_project } => {
                client.unset_quotas(&of_project).await?;
                output.done(&format!("{of_project} has the quotas that are configured"))
            }
        }
    }
}
