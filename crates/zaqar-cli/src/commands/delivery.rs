//! `zaqar delivery`.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use futures_util::{StreamExt, TryStreamExt};
use zaqar_client::{Client, DeliveryFilter, MessageId, RecoveryId, RecoveryRange};

use super::subscription::One;
use crate::Failure;
use crate::output::{Output, progress};

/// How often a recovery is looked at.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What to do with deliveries.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists what became of the last messages
    List {
        #[command(flatten)]
        one: One,
        /// Only those of this state
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Only those that changed at this time or later, as 2026-11-29T12:00:00
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// The most that are shown
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows a delivery with its attempts
    Show {
        #[command(flatten)]
        one: One,
        /// The message's id
        delivery: String,
    },
    /// Delivers once more what failed
    Retry {
        #[command(flatten)]
        one: One,
        /// The message's id
        delivery: String,
    },
    /// Delivers once more all that failed and is still kept, and waits until all were taken
    Recover {
        #[command(flatten)]
        one: One,
        /// Only messages posted at this time or later, as 2026-11-29T12:00:00Z
        #[arg(long, value_name = "TIME", conflicts_with_all = ["show", "stop"])]
        since: Option<String>,
        /// Only messages posted before this time
        #[arg(long, value_name = "TIME", conflicts_with_all = ["show", "stop"])]
        until: Option<String>,
        /// Shows how far the recovery of this id is, and changes nothing
        #[arg(long, value_name = "ID", conflicts_with = "stop")]
        show: Option<String>,
        /// Has the recovery of this id take no more
        #[arg(long, value_name = "ID")]
        stop: Option<String>,
    },
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Status {
    Pending,
    Delivered,
    Failed,
    Expired,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List { one, status, since, limit } => {
                let status = status.map(|status| status.name().to_owned());
                let filter = DeliveryFilter { status, since, page: None };
                let all = one.handle(client)?.deliveries(&filter);
                let rows: Vec<_> = all.take(limit).try_collect().await?;
                output.list(&["id", "status", "posted", "changed", "attempt_count"], &rows)
            }
            Self::Show { one, delivery } => {
                let delivery = one.handle(client)?.delivery(&MessageId::new(delivery)).await?;
                if output.is_json() {
                    return output.line(&delivery);
                }
                output.record(&delivery.summary)?;
                let columns = ["at", "milliseconds", "status", "error", "answer"];
                output.list(&columns, &delivery.attempts)
            }
            Self::Retry { one, delivery } => {
                one.handle(client)?.retry_delivery(&MessageId::new(delivery)).await?;
                output.done("it will be tried")
            }
            Self::Recover { one, show: Some(id), .. } => {
                output.record(&one.handle(client)?.recovery(&RecoveryId::new(id)).await?)
            }
            Self::Recover { one, stop: Some(id), .. } => {
                one.handle(client)?.cancel_recovery(&RecoveryId::new(id)).await?;
                output.done("it takes no more")
            }
            Self::Recover { one, since, until, .. } => {
                let subscription = one.handle(client)?;
                let begun = subscription.recover(&RecoveryRange { since, until }).await?;
                let bar = progress(Some(begun.total), "deliveries taken");
                let mut recovery = begun;
                while recovery.status == "running" {
                    bar.set_position(recovery.total.saturating_sub(recovery.remaining));
                    tokio::time::sleep(ASK_EVERY).await;
                    recovery = subscription.recovery(&recovery.id).await?;
                }
                bar.finish_and_clear();
                output.record(&recovery)
            }
        }
    }
}
