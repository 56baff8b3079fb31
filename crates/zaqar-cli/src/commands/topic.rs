//! `zaqar topic`.

use clap::Subcommand;
use zaqar_client::Client;

use super::queue::{self, Create, List, Set, What};
use crate::Failure;
use crate::output::Output;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the project's topics
    List(List),
    /// Shows a topic's metadata, with defaults
    Show {
        /// The topic
        name: String,
    },
    /// Creates a topic; one that is there keeps its metadata
    Create(Create),
    /// Changes a topic's metadata
    Set(Set),
    /// Deletes a topic and everything in it
    Delete {
        /// The topic
        name: String,
    },
    /// Counts a topic's messages
    Stats {
        /// The topic
        name: String,
    },
    /// Removes what is in a topic
    Purge {
        /// The topic
        name: String,
        /// What goes
        #[arg(long, value_enum, default_value = "messages")]
        what: What,
    },
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List(list) => {
                let entries = client.topics(&list.filter());
                list.show(entries, output).await
            }
            Self::Show { name } => queue::show(&client.topic(&name)?, output).await,
            Self::Create(create) => {
                let topic = client.topic(create.name())?;
                create.run(&topic, output).await
            }
            Self::Set(set) => {
                let topic = client.topic(set.name())?;
                set.run(&topic, output).await
            }
            Self::Delete { name } => queue::delete(&client.topic(&name)?, output).await,
            Self::Stats { name } => queue::stats(&client.topic(&name)?, output).await,
            Self::Purge { name, what } => queue::purge(&client.topic(&name)?, what, output).await,
        }
    }
}
