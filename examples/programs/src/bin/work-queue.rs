//! A work queue: a job that fails three times becomes a dead letter, the others are not delayed.
//! `work-queue QUEUE`.

use std::error::Error;

use futures_util::TryStreamExt;
use serde_json::json;
use zaqar_client::cloud::Settings;
use zaqar_client::{ClaimOptions, Listed, NewMessage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: work-queue QUEUE")?;
    let client = Settings::from_env()?.builder()?.build()?;
    let (queue, dead) = (client.queue(&name)?, client.queue(&format!("{name}.dead"))?);
    queue.create(json!({"_dead_letter_queue": dead.name(), "_max_claim_count": 3})).await?;
    let jobs = ["resize", "explode", "publish"];
    queue.post(jobs.map(NewMessage::new).into_iter().collect::<Result<Vec<_>, _>>()?).await?;

    let one = ClaimOptions { limit: 1, ..ClaimOptions::default() };
    while let Some(claim) = queue.claim(&one).await? {
        let message = &claim.messages()[0];
        let job: String = message.body.parse()?;
        if job == "explode" {
            println!("{job} failed");
            // The message is claimable again at once; the server counts its claims.
            claim.release().await?;
        } else {
            println!("{job} done");
            claim.delete(&message.id).await?;
        }
    }
    let letters: Vec<_> = dead.messages(&Listed::default()).try_collect().await?;
    for letter in letters {
        println!("dead letter: {}", letter.body.parse::<String>()?);
    }
    // `zaqar redrive QUEUE.dead QUEUE` sends them back once the reason is gone.
    Ok(())
}
