//! The time from a server's start to its first answer.

use std::time::{Duration, Instant, SystemTime};

use crate::error::Error;
use crate::http::Connection;
use crate::zaqar::Target;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// An attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(5);

/// Milliseconds from `since` (seconds since 1970) until an attempt is answered. `name` is what is
/// waited for, at most `timeout` seconds.
#[expect(clippy::disallowed_methods, reason = "the time of the machine is what is shown")]
pub(crate) async fn first_answer(
    name: &str,
    since: f64,
    timeout: u64,
    attempt: impl AsyncFn() -> Result<(), Error>,
) -> Result<f64, Error> {
    let end = Instant::now() + Duration::from_secs(timeout);
    while Instant::now() < end {
        // What is not ready may accept a connection and say nothing.
        if matches!(tokio::time::timeout(LONGEST_ATTEMPT, attempt()).await, Ok(Ok(()))) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            return Ok((now.unwrap_or_default().as_secs_f64() - since) * 1e3);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::NotReady { url: name.to_owned(), seconds: timeout })
}

/// Lists a queue: an answer from the server's store.
pub(crate) async fn list(target: &Target) -> Result<(), Error> {
    let mut connection = Connection::open(target.address).await?;
    let request = target.queue("zaqar-measure-wait").list(None);
    connection.expect("a list", &request).await.map(drop)
}
