//! The channel: all that has to be written.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;
use zaqar_notify::outcome::{Answer, Attempt, Failure};
use zaqar_notify::target::Origin;
use zaqar_notify::webhook::Notification;
use zaqar_notify::{Channel, Content, Outgoing, OutgoingMessage};

/// Subscribers are `example+file:NAME`.
pub(crate) const SCHEME: &str = "example+file";

/// Appends each message to a file, after a line with its length in bytes.
pub(crate) struct Files {
    /// Where the files are.
    pub(crate) directory: PathBuf,
}

#[async_trait]
impl Channel for Files {
    /// Asked when a client subscribes: what it says is the client's answer.
    fn origin(&self, subscriber: &str) -> Result<Origin, String> {
        file_name(subscriber).map(|name| Origin::new(name, 0))
    }

    fn takes_batches(&self) -> bool {
        false
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        let name = match file_name(outgoing.subscriber) {
            Ok(name) => name,
            // Never tried again.
            Err(reason) => return Attempt::Failed(Failure::Unusable(reason)),
        };
        match self.append(name, outgoing).await {
            Ok(()) => {
                Attempt::Answered(Answer { status: 200, retry_after: None, body: Bytes::new() })
            }
            // Tried again as the subscription's retry policy says.
            Err(error) => Attempt::Failed(Failure::NoConnection(error.to_string())),
        }
    }
}

impl Files {
    async fn append(&self, name: &str, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let path = self.directory.join(name);
        let mut file = OpenOptions::new().append(true).create(true).open(path).await?;
        for message in outgoing.messages {
            let text = text(outgoing, message);
            let record = [format!("{}\n", text.len()).as_bytes(), &text, b"\n"].concat();
            file.write_all(&record).await?;
        }
        file.sync_data().await
    }
}

/// What is written: the JSON text that a webhook would get.
fn text(outgoing: &Outgoing<'_>, message: &OutgoingMessage<'_>) -> Vec<u8> {
    let queue = outgoing.queue.name.as_str();
    match message.content {
        Content::Message | Content::Test => {
            Notification { ttl: message.ttl, body: message.body, queue }.to_json()
        }
        Content::Confirmation | Content::Recovery => message.body.to_vec(),
    }
}

/// Tenants choose names, so no name leaves the directory.
fn file_name(subscriber: &str) -> Result<&str, String> {
    let (_, name) = subscriber.split_once(':').unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(is_allowed) {
        Ok(name)
    } else {
        Err(format!("A subscriber {SCHEME} has 1 to 64 characters a-z, 0-9 or - after its colon."))
    }
}
