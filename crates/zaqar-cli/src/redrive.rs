//! `zaqar redrive`: dead letters go back to work.

use zaqar_client::{Claim, ClaimOptions, Client, Error, Message, NewMessage, Queue};

use crate::Failure;
use crate::output::{self, Output};

/// Messages of one claim: what servers allow by default.
const CLAIM: u32 = 20;
/// Bytes of bodies of one post: below what servers take by default.
const POST_BYTES: usize = 128 * 1024;

/// Moves messages from one queue to the end of another: dead letters back to the queue where they
/// failed, say.
///
/// Each message is claimed, posted to the target, and deleted. If this program or the server ends
/// between the post and the deletion, the message is in both queues: a message arrives at least
/// once. It gets a new id, and its age restarts. Messages that arrive meanwhile are left.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The dead letter queue
    from: String,
    /// The queue that gets the messages
    to: String,
    /// The most messages; all that are free now otherwise
    #[arg(long)]
    max: Option<u64>,
    /// Seconds that the messages live in the target; else as the target says
    #[arg(long)]
    ttl: Option<u64>,
}

impl Arguments {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        if self.from == self.to {
            return Err(Failure::Usage("FROM and TO are one queue".to_owned()));
        }
        let (from, to) = (client.queue(&self.from)?, client.queue(&self.to)?);
        let stats = from.stats().await?;
        let total = stats.free.min(self.max.unwrap_or(u64::MAX));
        let bar = output::progress(Some(total), "moved");
        let mut moved = 0;
        while moved < total {
            let limit = u32::try_from(total - moved).unwrap_or(u32::MAX).min(CLAIM);
            let options = ClaimOptions { limit, ttl: 300, ..ClaimOptions::default() };
            let Some(claim) = from.claim(&options).await? else { break };
            let ended = self.move_all(&claim, &to, &mut moved).await;
            bar.set_position(moved);
            if let Err(failure) = ended {
                // What was not moved is free again at once; if this fails, when the claim expires.
                let _ = claim.release().await;
                return Err(failure.with(format!(
                    "moved before: {}; the one that failed may be in both queues",
                    output::counted(moved, "message")
                )));
            }
            claim.release().await?;
        }
        bar.finish_and_clear();
        let claimed = match stats.claimed {
            0 => String::new(),
            claimed => format!("; {claimed} were claimed by others and stay"),
        };
        output.done(&format!(
            "{} moved from {} to {}, each at least once{claimed}",
            output::counted(moved, "message"),
            self.from,
            self.to
        ))
    }

    async fn move_all(&self, claim: &Claim, to: &Queue, moved: &mut u64) -> Result<(), Failure> {
        for batch in batches(claim.messages()) {
            if claim.is_lost() {
                return Err(Error::ClaimLost { id: claim.id().clone() }.into());
            }
            let messages = batch.iter().map(|message| {
                let new = NewMessage::from(message.body.clone());
                match self.ttl {
                    Some(ttl) => new.ttl(ttl),
                    None => new,
                }
            });
            to.post(messages).await?;
            for message in batch {
                claim.delete(&message.id).await?;
                *moved += 1;
            }
        }
        Ok(())
    }
}

/// Neighbours that fit into one post; a message that alone is too large is a batch of its own.
fn batches(messages: &[Message]) -> Vec<&[Message]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, message) in messages.iter().enumerate() {
        let length = message.body.as_json().len();
        if at > start && bytes + length > POST_BYTES {
            batches.push(&messages[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += length;
    }
    if start < messages.len() {
        batches.push(&messages[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_the_bound() {
        let message = |length: usize| -> Message {
            let body = "x".repeat(length - 2);
            let json = serde_json::json!({"id": "m", "ttl": 60, "age": 0, "body": body});
            serde_json::from_str(&json.to_string()).unwrap()
        };
        let sizes = |messages: &[Message]| -> Vec<usize> {
            batches(messages).iter().map(|batch| batch.len()).collect()
        };
        let half = POST_BYTES / 2;
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&[message(10), message(half), message(half)]), [2, 1]);
        assert_eq!(sizes(&[message(half), message(half), message(10)]), [2, 1]);
        assert_eq!(sizes(&[message(2 * POST_BYTES), message(10)]), [1, 1]);
    }
}
