//! `zaqar claim`.

use clap::Subcommand;
use serde_json::json;
use zaqar_client::{ClaimId, ClaimOptions, Client};

use crate::Failure;
use crate::output::Output;

/// What to do with claims.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Claims the first free messages; nobody renews the claim
    Create {
        /// The queue
        queue: String,
        /// The most messages
        #[arg(long, default_value_t = 10)]
        limit: u32,
        /// Seconds that the claim lives
        #[arg(long, default_value_t = 300)]
        ttl: u64,
        /// Seconds that its messages outlive it, at least
        #[arg(long, default_value_t = 60)]
        grace: u64,
    },
    /// Shows a claim and its messages
    Show {
        /// The queue
        queue: String,
        /// The claim's id
        claim: String,
    },
    /// Gives a claim a new life from now
    Renew {
        /// The queue
        queue: String,
        /// The claim's id
        claim: String,
        /// Seconds that the claim lives
        #[arg(long, default_value_t = 300)]
        ttl: u64,
        /// Seconds that its messages outlive it, at least
        #[arg(long, default_value_t = 60)]
        grace: u64,
    },
    /// Ends a claim: its messages are free again
    Release {
        /// The queue
        queue: String,
        /// The claim's id
        claim: String,
    },
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Create { queue, limit, ttl, grace } => {
                let options = ClaimOptions { limit, ttl, grace, ..ClaimOptions::default() };
                let Some(claim) = client.queue(&queue)?.claim(&options).await? else {
                    return if output.is_json() {
                        output.line(&json!({"claim": null, "messages": []}))
                    } else {
                        output.done("there is nothing to claim")
                    };
                };
                let (id, messages) = claim.leave();
                if output.is_json() {
                    return output.line(&json!({"claim": id, "messages": messages}));
                }
                output.done(&format!("claim {id}"))?;
                output.list(&["id", "age", "ttl", "body"], &messages)
            }
            Self::Show { queue, claim } => {
                let claim = client.queue(&queue)?.claim_by_id(&ClaimId::new(claim)).get().await?;
                if output.is_json() {
                    return output.line(&claim);
                }
                output.done(&format!("age {} of {} s", claim.age, claim.ttl))?;
                output.list(&["id", "age", "ttl", "body"], &claim.messages)
            }
            Self::Renew { queue, claim, ttl, grace } => {
                client.queue(&queue)?.claim_by_id(&ClaimId::new(claim)).renew(ttl, grace).await?;
                output.done("renewed")
            }
            Self::Release { queue, claim } => {
                client.queue(&queue)?.claim_by_id(&ClaimId::new(claim)).release().await?;
                output.done("released")
            }
        }
    }
}
