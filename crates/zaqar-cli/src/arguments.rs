//! The command line.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{claim, delivery, flavor, message, pool, queue, quota, subscription, topic};
use crate::connect::Connection;
use crate::output::{Format, Output, counted};
use crate::{Failure, redrive};
use zaqar_client::{Client, Health, PoolsHealth, StoreHealth};

/// Queues, messages, claims, subscriptions, topics and pools of OpenStack Zaqar's v2 API
///
/// The server and the credentials come from the command line, OS_* variables, or clouds.yaml.
#[derive(Debug, Parser)]
#[command(name = "zaqar", version, about)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    pub(crate) format: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Queues
    #[command(subcommand)]
    Queue(queue::Command),
    /// Messages of a queue
    #[command(subcommand)]
    Message(message::Command),
    /// Claims of a queue
    #[command(subcommand)]
    Claim(claim::Command),
    /// Subscriptions of a queue, or of a topic with --topic
    #[command(subcommand)]
    Subscription(subscription::Command),
    /// What became of messages to a subscriber
    #[command(subcommand)]
    Delivery(delivery::Command),
    /// Topics
    #[command(subcommand)]
    Topic(topic::Command),
    /// Stores that queues are spread over, for administrators
    #[command(subcommand)]
    Pool(pool::Command),
    /// Names for some of the pools
    #[command(subcommand)]
    Flavor(flavor::Command),
    /// Quotas of a project, for administrators
    #[command(subcommand)]
    Quota(quota::Command),
    /// Moves messages back from a dead letter queue
    Redrive(redrive::Arguments),
    /// Has the server try every operation, for administrators
    Health,
    /// Asks whether the server can serve
    Ping,
    /// Prints what makes a shell complete commands
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

impl Command {
    /// Runs it.
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Queue(command) => command.run(client, output).await,
            Self::Message(command) => command.run(client, output).await,
            Self::Claim(command) => command.run(client, output).await,
            Self::Subscription(command) => command.run(client, output).await,
            Self::Delivery(command) => command.run(client, output).await,
            Self::Topic(command) => command.run(client, output).await,
            Self::Pool(command) => command.run(client, output).await,
            Self::Flavor(command) => command.run(client, output).await,
            Self::Quota(command) => command.run(client, output).await,
            Self::Redrive(arguments) => arguments.run(client, output).await,
            Self::Health => health(client, output).await,
            Self::Ping => {
                client.ping().await?;
                output.done("the server can serve")
            }
            // It needs no server: see `main`.
            Self::Completion { .. } => Ok(()),
        }
    }
}

async fn health(client: &Client, output: &Output) -> Result<(), Failure> {
    let health = client.health().await?;
    if output.is_json() {
        return output.line(&health);
    }
    match &health {
        Health::Store(store) => store_health(output, "the store", store),
        Health::Pools(all) => {
            for (name, pool) in &all.pools {
                store_health(output, &format!("the pool {name}"), pool)?;
            }
            say(output, "the server and its configured stores", &all.problems)?;
            output.done(&configured_stores(all))
        }
    }
}

fn store_health(output: &Output, name: &str, store: &StoreHealth) -> Result<(), Failure> {
    let rows: Vec<_> = store
        .operation_status
        .iter()
        .map(|(name, status)| {
            serde_json::json!({
                "operation": name,
                "works": status.succeeded,
                "seconds": format!("{:.4}", status.seconds),
                "failure": status.failure,
            })
        })
        .collect();
    output.list(&["operation", "works", "seconds", "failure"], &rows)?;
    say(output, name, &store.problems)?;
    let volume = store.message_volume.map_or_else(String::new, |volume| {
        format!("; {}, {} of them claimed", counted(volume.total, "message"), volume.claimed)
    });
    output.done(&format!("{name} {}{volume}", verb(store.storage_reachable, "answers")))
}

/// What is known of the configured stores: the server only says whether all stores can be reached,
/// those of pools included, and what is wrong besides the pools.
fn configured_stores(all: &PoolsHealth) -> String {
    let away = all.pools.iter().filter(|(_, pool)| !pool.storage_reachable);
    let away: Vec<_> = away.map(|(name, _)| name.as_str()).collect();
    let pools = match away.len() {
        0 => String::new(),
        1 => format!("; the pool {} does not", away[0]),
        _ => format!("; the pools {} do not", away.join(", ")),
    };
    if all.catalog_reachable || (all.problems.is_empty() && !away.is_empty()) {
        return format!("the configured stores answer{pools}");
    }
    format!("the server or its configured stores do not serve{pools}")
}

fn say(output: &Output, name: &str, problems: &[String]) -> Result<(), Failure> {
    problems.iter().try_for_each(|problem| output.done(&format!("{name}: {problem}")))
}

fn verb(is_reachable: bool, answers: &'static str) -> &'static str {
    if is_reachable { answers } else { "cannot be reached" }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Arguments, configured_stores};

    #[test]
    fn a_pool_that_is_away_does_not_take_the_configured_stores_with_it() {
        let pool = |reachable: bool| serde_json::json!({"storage_reachable": reachable, "operation_status": {}});
        for (document, expected) in [
            (
                serde_json::json!({"catalog_reachable": true, "a": pool(true)}),
                "the configured stores answer",
            ),
            (
                serde_json::json!({"catalog_reachable": false, "a": pool(true), "b": pool(false)}),
                "the configured stores answer; the pool b does not",
            ),
            (
                serde_json::json!({
                    "catalog_reachable": false, "problems": ["gone"], "a": pool(false),
                    "b": pool(false),
                }),
                "the server or its configured stores do not serve; the pools a, b do not",
            ),
        ] {
            assert_eq!(configured_stores(&serde_json::from_value(document).unwrap()), expected);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// `ZAQAR_WRITE_MAN=1` writes them: one page for the program, and one for each group.
    #[test]
    fn the_manual_pages_are_those_of_the_commands() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/man");
        let mut command = Arguments::command();
        command.build();
        let groups = command.get_subcommands().filter(|group| group.get_name() != "help").cloned();
        for page in std::iter::once(command.clone()).chain(groups) {
            let name = match page.get_name() {
                "zaqar" => "zaqar".to_owned(),
                group => format!("zaqar-{group}"),
            };
            let path = format!("{directory}/{name}.1");
            let mut text = Vec::new();
            clap_mangen::Man::new(page).title(name).render(&mut text).unwrap();
            if std::env::var_os("ZAQAR_WRITE_MAN").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap();
            assert_eq!(found, String::from_utf8(text).unwrap(), "{path}");
        }
    }
}
