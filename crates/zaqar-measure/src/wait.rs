//! The time from a server's start to its first answer.

use std::time::{Duration, Instant, SystemTime};

use crate::error::Error;
use crate::http::Connection;
use crate::zaqar::Target;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// Milliseconds from `since` (seconds since 1970) until the server lists a queue: an answer from
/// its store.
#[expect(clippy::disallowed_methods, reason = "the time of the machine is what is shown")]
pub(crate) async fn first_answer(target: &Target, since: f64, timeout: u64) -> Result<f64, Error> {
    let request = target.queue("zaqar-measure-wait").list(None);
    let end = Instant::now() + Duration::from_secs(timeout);
    while Instant::now() < end {
        if let Ok(mut connection) = Connection::open(target.address).await
            && connection.exchange(&request).await.is_ok_and(|answer| answer.is_success())
        {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            return Ok((now.unwrap_or_default().as_secs_f64() - since) * 1e3);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::NotReady { url: target.url.clone(), seconds: timeout })
}
