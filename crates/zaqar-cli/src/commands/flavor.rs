//! `zaqar flavor`.

use clap::Subcommand;
use futures_util::TryStreamExt;
use zaqar_client::Client;

use crate::Failure;
use crate::output::Output;

/// What to do with flavors.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the project's flavors
    List {
        /// Shows what their pools can do
        #[arg(long, short)]
        detailed: bool,
    },
    /// Shows a flavor with what its pools can do
    Show {
        /// The flavor
        name: String,
    },
    /// Creates a flavor of pools
    Create {
        /// The flavor
        name: String,
        /// Its pools
        #[arg(required = true)]
        pools: Vec<String>,
    },
    /// Gives a flavor other pools
    Set {
        /// The flavor
        name: String,
        /// Its pools
        #[arg(required = true)]
        pools: Vec<String>,
    },
    /// Deletes a flavor
    Delete {
        /// The flavor
        name: String,
    },
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List { detailed } => {
                let rows: Vec<_> = client.flavors(detailed).try_collect().await?;
                let columns: &[&str] = if detailed {
                    &["name", "pool_list", "capabilities"]
                } else {
                    &["name", "pool_list"]
                };
                output.list(columns, &rows)
            }
            Self::Show { name } => output.record(&client.flavor(&name).await?),
            Self::Create { name, pools } => {
                client.create_flavor(&name, &names(&pools)).await?;
                output.done(&format!("{name} created"))
            }
            Self::Set { name, pools } => {
                output.record(&client.change_flavor(&name, &names(&pools)).await?)
            }
            Self::Delete { name } => {
                client.delete_flavor(&name).await?;
                output.done(&format!("{name} deleted"))
            }
        }
    }
}

fn names(pools: &[String]) -> Vec<&str> {
    pools.iter().map(String::as_str).collect()
}
