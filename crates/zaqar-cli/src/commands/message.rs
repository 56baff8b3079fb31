//! `zaqar message`.

use std::io::{BufRead, ErrorKind};
use std::pin::Pin;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use zaqar_client::{
    ClaimId, Client, Kind, Listed, Message, MessageId, NewMessage, Popped, Resource,
};

use crate::Failure;
use crate::output::{self, Output};

/// Messages of one post, at most, and bytes of their bodies: below what servers take by default.
const POST: usize = 100;
const POST_BYTES: usize = 128 * 1024;
/// Lines that were read and not posted, at most.
const LINES: usize = 1000;

/// What to do with messages.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Posts messages, and prints their ids
    Post(Post),
    /// Lists messages, oldest first
    List {
        #[command(flatten)]
        from: Chosen,
        /// The most that are shown
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows messages, and goes on with those that are posted, until it is stopped
    Tail {
        #[command(flatten)]
        from: Chosen,
        /// Only messages that are posted from now on
        #[arg(long)]
        new: bool,
        /// Seconds between two looks at a queue that has nothing new
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// Ends after so many messages
        #[arg(long)]
        count: Option<usize>,
    },
    /// Shows messages by their ids
    Show {
        #[command(flatten)]
        of: Of,
        /// Ids of messages
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Deletes messages by their ids
    Delete {
        /// The queue
        queue: String,
        /// Ids of messages
        #[arg(required = true)]
        ids: Vec<String>,
        /// The claim that holds them
        #[arg(long)]
        claim: Option<String>,
        /// QUEUE is a topic
        #[arg(long, conflicts_with = "claim")]
        topic: bool,
    },
    /// Takes the first free messages out of a queue, and shows them
    Pop {
        /// The queue
        queue: String,
        /// How many
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
}

/// A queue or a topic.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// The queue, or the topic with --topic
    queue: String,
    /// QUEUE is a topic
    #[arg(long)]
    topic: bool,
}

/// Which messages.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    of: Of,
    /// Claimed messages, too
    #[arg(long)]
    claimed: bool,
    /// Messages whose delay is not over, too
    #[arg(long)]
    delayed: bool,
    /// Leaves out what this client (--client-id) posted
    #[arg(long)]
    no_echo: bool,
}

impl Chosen {
    const fn listed(&self) -> Listed {
        Listed { echo: !self.no_echo, claimed: self.claimed, delayed: self.delayed, page: None }
    }
}

/// What is posted.
#[derive(Debug, Args)]
pub(crate) struct Post {
    #[command(flatten)]
    of: Of,
    /// Bodies, a message each; without any, each line of standard input is one
    bodies: Vec<String>,
    /// Bodies are JSON, not text
    #[arg(long)]
    json: bool,
    /// Seconds that they live
    #[arg(long)]
    ttl: Option<u64>,
    /// Seconds until they can be seen
    #[arg(long)]
    delay: Option<u64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=3600.0).contains(&value) {
        Ok(value)
    } else {
        Err("it must be 0.01 to 3600".to_owned())
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Post(post) if post.of.topic => {
                let topic = client.topic(&post.of.queue)?;
                post.run(&topic, output).await
            }
            Self::Post(post) => {
                let queue = client.queue(&post.of.queue)?;
                post.run(&queue, output).await
            }
            Self::List { from, limit } if from.of.topic => {
                list(&client.topic(&from.of.queue)?, &from.listed(), limit, output).await
            }
            Self::List { from, limit } => {
                list(&client.queue(&from.of.queue)?, &from.listed(), limit, output).await
            }
            Self::Tail { from, new, interval, count } => {
                let tail = Tail {
                    listed: from.listed(),
                    new,
                    interval: Duration::from_secs_f64(interval),
                    count: count.unwrap_or(usize::MAX),
                };
                if from.of.topic {
                    tail.run(&client.topic(&from.of.queue)?, output).await
                } else {
                    tail.run(&client.queue(&from.of.queue)?, output).await
                }
            }
            Self::Show { of, ids } => {
                let ids: Vec<_> = ids.into_iter().map(MessageId::new).collect();
                let found = if of.topic {
                    client.topic(&of.queue)?.messages_by_id(&ids).await?
                } else {
                    client.queue(&of.queue)?.messages_by_id(&ids).await?
                };
                show(&found, output)
            }
            Self::Delete { queue, ids, claim, topic } => {
                delete(client, &queue, ids, claim, topic).await?;
                output.done("deleted")
            }
            Self::Pop { queue, count } => {
                let popped: Vec<Popped> = client.queue(&queue)?.pop(count).await?;
                output.list(&["id", "age", "ttl", "claim_count", "body"], &popped)
            }
        }
    }
}

async fn delete(
    client: &Client,
    queue: &str,
    ids: Vec<String>,
    claim: Option<String>,
    is_topic: bool,
) -> Result<(), Failure> {
    for id in ids.into_iter().map(MessageId::new) {
        match &claim {
            Some(claim) => {
                let claim = ClaimId::new(claim.clone());
                client.queue(queue)?.delete_claimed(&id, &claim).await?;
            }
            None if is_topic => client.topic(queue)?.delete_message(&id).await?,
            None => client.queue(queue)?.delete_message(&id).await?,
        }
    }
    Ok(())
}

fn show(messages: &[Message], output: &Output) -> Result<(), Failure> {
    output.list(&["id", "age", "ttl", "claim_id", "body"], messages)
}

async fn list<K: Kind>(
    from: &Resource<K>,
    listed: &Listed,
    limit: usize,
    output: &Output,
) -> Result<(), Failure> {
    let messages: Vec<_> = from.messages(listed).take(limit).try_collect().await?;
    show(&messages, output)
}

struct Tail {
    listed: Listed,
    new: bool,
    interval: Duration,
    count: usize,
}

impl Tail {
    /// Until the count, an error, or Ctrl-C.
    async fn run<K: Kind>(self, from: &Resource<K>, output: &Output) -> Result<(), Failure> {
        let mut messages: Pin<Box<dyn Stream<Item = _> + Send>> = if self.new {
            Box::pin(from.tail_new(&self.listed, self.interval))
        } else {
            Box::pin(from.tail(&self.listed, self.interval))
        };
        let mut left = self.count;
        while left > 0 {
            let message = tokio::select! {
                message = messages.try_next() => message?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(message) = message else { return Ok(()) };
            left -= 1;
            if output.is_json() {
                output.line(&message)?;
            } else {
                let value = output::value(&message)?;
                let body = output::cell(&value["body"]);
                output.done(&format!("{}  {}", message.id, body))?;
            }
        }
        Ok(())
    }
}

impl Post {
    async fn run<K: Kind>(self, to: &Resource<K>, output: &Output) -> Result<(), Failure> {
        if self.bodies.is_empty() {
            return self.lines(to, output).await;
        }
        let messages: Vec<_> =
            self.bodies.iter().map(|body| self.message(body)).collect::<Result<_, _>>()?;
        let ids = to.post(messages).await?;
        if output.is_json() {
            return output.line(&ids);
        }
        ids.iter().try_for_each(|id| output.done(id.as_str()))
    }

    fn message(&self, body: &str) -> Result<NewMessage, Failure> {
        let made = if self.json {
            NewMessage::from_json(body.to_owned())
        } else {
            NewMessage::new(Value::String(body.to_owned()))
        };
        let mut message =
            made.map_err(|error| Failure::Usage(format!("{body:?} is no JSON: {error}")))?;
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        Ok(message)
    }

    /// Posts the lines of standard input in batches, as they come.
    async fn lines<K: Kind>(self, to: &Resource<K>, output: &Output) -> Result<(), Failure> {
        let (sender, mut lines) = mpsc::channel(LINES);
        tokio::task::spawn_blocking(move || {
            for (line, number) in std::io::stdin().lock().lines().zip(1_u64..) {
                let line = line.map_err(|error| {
                    if error.kind() != ErrorKind::InvalidData {
                        return Failure::from(error);
                    }
                    Failure::Usage(format!("standard input: line {number} is not UTF-8"))
                });
                // Nobody reads any more after an error.
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let bar = output::progress(None, "posted");
        let mut posted = 0;
        let mut batch = Vec::new();
        let mut bytes = 0;
        let failed = |posted: usize, failure: Failure| {
            failure.with(format!("posted before: {}", output::counted(posted as u64, "message")))
        };
        while let Some(line) = lines.recv().await {
            let line = line.map_err(|failure| failed(posted, failure))?;
            let message = self.message(&line).map_err(|failure| failed(posted, failure))?;
            let length = message.body().as_json().len();
            if batch.len() == POST || (bytes + length > POST_BYTES && !batch.is_empty()) {
                posted += send(to, &mut batch).await.map_err(|error| failed(posted, error))?;
                bar.set_position(posted as u64);
                bytes = 0;
            }
            bytes += length;
            batch.push(message);
            // Whoever types a line wants it posted.
            if lines.is_empty() {
                posted += send(to, &mut batch).await.map_err(|error| failed(posted, error))?;
                bar.set_position(posted as u64);
                bytes = 0;
            }
        }
        posted += send(to, &mut batch).await.map_err(|error| failed(posted, error))?;
        bar.finish_and_clear();
        output.done(&format!("{} posted", output::counted(posted as u64, "message")))
    }
}

async fn send<K: Kind>(to: &Resource<K>, batch: &mut Vec<NewMessage>) -> Result<usize, Failure> {
    if batch.is_empty() {
        return Ok(0);
    }
    Ok(to.post(std::mem::take(batch)).await?.len())
}
