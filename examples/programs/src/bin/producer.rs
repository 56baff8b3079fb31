//! Posts numbered messages: `producer QUEUE [COUNT]`. `OS_ENDPOINT` and `OS_PROJECT_ID`, or a
//! cloud, say where.

use std::error::Error;

use serde_json::json;
use zaqar_client::NewMessage;
use zaqar_client::cloud::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: producer QUEUE [COUNT]")?;
    let count: u32 = arguments.next().map_or(Ok(10), |text| text.parse())?;

    let client = Settings::from_env()?.builder()?.build()?;
    let queue = client.queue(&name)?;
    for number in 1..=count {
        let body = json!({"job": number});
        // An id of one's own lets a worker tell a message that was posted twice.
        let ids = queue.post([NewMessage::new(body)?.ttl(3600)]).await?;
        println!("posted job {number} as {}", ids[0]);
    }
    Ok(())
}
