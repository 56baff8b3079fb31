//! Works until the queue is empty: `worker QUEUE`. A job that fails is free again at once, and one
//! whose worker dies when the claim's `ttl` has passed.

use std::error::Error;

use serde_json::Value;
use zaqar_client::cloud::Settings;
use zaqar_client::{Claim, ClaimOptions, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: worker QUEUE")?;
    let client = Settings::from_env()?.builder()?.build()?;
    let queue = client.queue(&name)?;
    // The claim is renewed in the background while it is held.
    while let Some(claim) = queue.claim(&ClaimOptions::default()).await? {
        let done = work_through(&claim).await;
        // Waits until the server has it: the program may end before a dropped claim is released.
        let released = claim.release().await;
        done?;
        released?;
    }
    Ok(())
}

async fn work_through(claim: &Claim) -> Result<(), Box<dyn Error>> {
    for message in claim.messages() {
        tokio::select! {
            done = work(message) => done?,
            // Somebody else may do it now.
            () = claim.lost() => break,
        }
        claim.delete(&message.id).await?;
    }
    Ok(())
}

async fn work(message: &Message) -> Result<(), Box<dyn Error>> {
    let body: Value = message.body.parse()?;
    println!("did job {}", body["job"]);
    Ok(())
}
