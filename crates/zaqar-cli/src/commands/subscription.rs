//! `zaqar subscription`.

use clap::{Args, Subcommand};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use zaqar_client::{
    Client, Error, NewSubscription, Subscribed, SubscriptionChange, SubscriptionHandle,
    SubscriptionId,
};

use super::{object, pair};
use crate::Failure;
use crate::output::Output;

/// What to do with subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists subscriptions
    List {
        #[command(flatten)]
        source: Source,
        /// The most that are shown
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows a subscription
    Show(One),
    /// Subscribes an address
    Create {
        #[command(flatten)]
        source: Source,
        /// https://…, mailto:…
        subscriber: String,
        /// Seconds that it lives
        #[arg(long)]
        ttl: Option<u64>,
        /// Options: signing=true, filter={"body.type":["created"]}, …
        #[arg(value_name = "NAME=VALUE", value_parser = pair)]
        options: Vec<(String, Value)>,
    },
    /// Changes a subscription
    Set {
        #[command(flatten)]
        one: One,
        /// Another address
        #[arg(long)]
        subscriber: Option<String>,
        /// A new life of so many seconds
        #[arg(long)]
        ttl: Option<u64>,
        /// Options instead of all that are there
        #[arg(long = "option", value_name = "NAME=VALUE", value_parser = pair)]
        options: Vec<(String, Value)>,
    },
    /// Ends a subscription
    Delete(One),
    /// Says that the subscriber agrees
    Confirm {
        #[command(flatten)]
        one: One,
        /// It does not agree
        #[arg(long)]
        no: bool,
    },
    /// Shows how the subscriber does
    Health(One),
    /// Sends again to a subscriber that was suspended
    Resume(One),
    /// Sends a message that was not posted
    Test {
        #[command(flatten)]
        one: One,
        /// Its body: JSON, or text
        #[arg(default_value = r#"{"test":true}"#)]
        body: String,
    },
    /// Makes a new signing secret, and shows it once
    Secret {
        #[command(flatten)]
        one: One,
        /// Seconds that the secret before stays valid; a day otherwise
        #[arg(long)]
        grace: Option<u64>,
    },
}

/// What is subscribed to.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The queue or topic
    #[arg(value_name = "QUEUE")]
    source: String,
    /// QUEUE is a topic
    #[arg(long)]
    topic: bool,
}

/// A subscription.
#[derive(Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    source: Source,
    /// Its id
    subscription: String,
}

impl One {
    pub(super) fn handle(&self, client: &Client) -> Result<SubscriptionHandle, Error> {
        let id = SubscriptionId::new(self.subscription.clone());
        let Source { source, topic } = &self.source;
        Ok(if *topic {
            client.topic(source)?.subscription(&id)
        } else {
            client.queue(source)?.subscription(&id)
        })
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List { source, limit } => source.list(limit, client, output).await,
            Self::Show(one) => output.record(&one.handle(client)?.get().await?),
            Self::Create { source, subscriber, ttl, options } => {
                let mut new = NewSubscription::new(subscriber);
                if let Some(ttl) = ttl {
                    new = new.ttl(ttl);
                }
                let new =
                    options.into_iter().fold(new, |new, (name, value)| new.option(&name, value));
                output.record(&source.subscribe(&new, client).await?)
            }
            Self::Set { one, subscriber, ttl, options } => {
                let options = (!options.is_empty()).then(|| object(options));
                let change = SubscriptionChange { subscriber, ttl, options };
                if change == SubscriptionChange::default() {
                    let what = "say what to change: --subscriber, --ttl or --option NAME=VALUE";
                    return Err(Failure::Usage(what.to_owned()));
                }
                let handle = one.handle(client)?;
                handle.change(&change).await?;
                output.record(&handle.get().await?)
            }
            Self::Delete(one) => {
                one.handle(client)?.delete().await?;
                output.done("deleted")
            }
            Self::Confirm { one, no } => {
                one.handle(client)?.confirm(!no).await?;
                output.done(if no { "the subscriber does not agree" } else { "confirmed" })
            }
            Self::Health(one) => output.record(&one.handle(client)?.health().await?),
            Self::Resume(one) => {
                one.handle(client)?.resume().await?;
                output.done("resumed")
            }
            Self::Test { one, body } => {
                let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
                let delivery = one.handle(client)?.test(body).await?;
                output.record(&json!({"delivery": delivery}))
            }
            Self::Secret { one, grace } => {
                let secret = one.handle(client)?.rotate_secret(grace).await?;
                output.record(&json!({"secret": secret}))
            }
        }
    }
}

impl Source {
    async fn list(self, limit: usize, client: &Client, output: &Output) -> Result<(), Failure> {
        let rows: Vec<_> = if self.topic {
            let all = client.topic(&self.source)?.subscriptions();
            all.take(limit).try_collect().await?
        } else {
            let all = client.queue(&self.source)?.subscriptions();
            all.take(limit).try_collect().await?
        };
        output.list(&["id", "subscriber", "confirmed", "age", "ttl"], &rows)
    }

    async fn subscribe(&self, new: &NewSubscription, client: &Client) -> Result<Subscribed, Error> {
        if self.topic {
            client.topic(&self.source)?.subscribe(new).await
        } else {
            client.queue(&self.source)?.subscribe(new).await
        }
    }
}
