//! Broadcast: everybody reads every message. Nobody deletes; each reader keeps its own place, and
//! messages expire. `broadcast QUEUE`.

use std::error::Error;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use zaqar_client::cloud::Settings;
use zaqar_client::{Listed, NewMessage, Queue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: broadcast QUEUE")?;
    let client = Settings::from_env()?.builder()?.build()?;
    let queue = client.queue(&name)?;
    let readers = futures_util::future::try_join_all(
        ["one", "two"].map(|reader| read(queue.clone(), reader, 3)),
    );
    let posting = async {
        for news in ["wind", "rain", "sun"] {
            queue.post([NewMessage::new(news)?.ttl(60)]).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (read, posted) = tokio::join!(readers, posting);
    posted?;
    for (reader, news) in read? {
        println!("reader {reader} got {}", news.join(", "));
    }
    Ok(())
}

/// The first `count` messages, also those that are posted later.
async fn read(
    queue: Queue,
    reader: &'static str,
    count: usize,
) -> Result<(&'static str, Vec<String>), Box<dyn Error>> {
    let messages = queue.tail(&Listed::default(), Duration::from_millis(100)).take(count);
    let messages: Vec<_> = messages.try_collect().await?;
    let news = messages.iter().map(|message| message.body.parse());
    Ok((reader, news.collect::<Result<_, _>>()?))
}
