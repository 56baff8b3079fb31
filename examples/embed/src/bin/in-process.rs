//! A durable queue in one's own process, without a network: `in-process DIRECTORY`. Run twice, it
//! finds what the first run left.

use std::error::Error;
use std::sync::Arc;

use zaqar_api::{Api, Context, ListMessages, PostMessages, PostedMessage, QueueRef};
use zaqar_core::storage::Upkeep;
use zaqar_core::{ClientId, Kind, ProjectId, QueueName};
use zaqar_storage_embedded::{Embedded, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: in-process DIRECTORY")?;
    let store = Arc::new(Embedded::open(Options::new(std::path::Path::new(&directory)))?);
    let api = Api::new(store.clone(), store.clone(), zaqar_api::Options::default());
    let context = Context::new(ProjectId::new("house")?, ClientId::new("me"));
    let queue = QueueRef { kind: Kind::Queue, name: QueueName::new("notes")? };

    let body = r#""a note""#;
    let messages = vec![PostedMessage { body: body.into(), ttl: None, delay: None }];
    let post =
        PostMessages { queue: queue.clone(), size: body.len() as u64, messages, notify: false };
    api.call(&context, post).await?;
    let list = ListMessages {
        queue,
        marker: None,
        limit: None,
        echo: true,
        include_claimed: false,
        include_delayed: false,
    };
    let page = api.call(&context, list).await?;
    println!("{} notes", page.messages.len());
    store.shut_down().await?;
    Ok(())
}
