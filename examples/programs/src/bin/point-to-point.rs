//! Point to point: questions go to a service's queue, answers to the queue that the question names.
//! `point-to-point QUEUE`.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zaqar_client::cloud::Settings;
use zaqar_client::{ClaimOptions, Client, NewMessage, Queue};

#[derive(Serialize, Deserialize)]
struct Question {
    /// Tells answers apart.
    id: u32,
    reply_to: String,
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    id: u32,
    square: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: point-to-point QUEUE")?;
    let client = Settings::from_env()?.builder()?.build()?;
    let (served, asked) = tokio::join!(serve(&client, &name, 2), ask(&client, &name, &[7, 12]));
    served?;
    asked
}

/// Answers so many questions. The answer is posted before the question is deleted: a service that
/// dies in between answers twice, which the asker sees by the id.
async fn serve(client: &Client, name: &str, mut count: usize) -> Result<(), Box<dyn Error>> {
    let queue = client.queue(name)?;
    while count > 0 {
        let Some(claim) = queue.claim(&ClaimOptions::default()).await? else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        for message in claim.messages() {
            let Question { id, reply_to, number } = message.body.parse()?;
            let answer = NewMessage::new(Answer { id, square: number * number })?;
            client.queue(&reply_to)?.post([answer.ttl(60)]).await?;
            claim.delete(&message.id).await?;
            count = count.saturating_sub(1);
        }
    }
    Ok(())
}

async fn ask(client: &Client, name: &str, numbers: &[u64]) -> Result<(), Box<dyn Error>> {
    let queue = client.queue(name)?;
    let replies: Queue = client.queue(&format!("{name}.replies"))?;
    for (id, &number) in (0..).zip(numbers) {
        let reply_to = replies.name().to_owned();
        queue.post([NewMessage::new(Question { id, reply_to, number })?.ttl(60)]).await?;
    }
    let mut left: Vec<u32> = (0..).take(numbers.len()).collect();
    while !left.is_empty() {
        // An answer that is lost with this program would be asked for again: it is popped.
        for message in replies.pop(10).await? {
            let Answer { id, square } = message.body.parse()?;
            if left.contains(&id) {
                left.retain(|&waiting| waiting != id);
                println!("question {id}: {square}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
