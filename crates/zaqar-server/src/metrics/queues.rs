//! The metrics of a project's queues: on request only, as their labels hold names that clients
//! chose.

use std::time::Duration;

use zaqar_core::storage::Error;
use zaqar_core::{Clock, Kind, ProjectId, QueueKey, QueueName, SystemClock};

use super::page::{Families, Labels, Samples};
use crate::store::Stores;

/// Queues of one page: each costs a call to the message store.
const MAX_QUEUES: usize = 100;
/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The metrics of a project's first hundred queues after a name, in the text format of Prometheus.
///
/// # Errors
/// A store that fails, or takes more than 10 s.
pub(crate) async fn text(
    stores: &Stores,
    project: &ProjectId,
    after: Option<&QueueName>,
) -> Result<String, Error> {
    let made = tokio::time::timeout(TIMEOUT, collect(stores, project, after)).await;
    let (messages, ages) = made.unwrap_or_else(|_| Err(Error::unavailable("it took too long")))?;
    let mut families = Families::default();
    let help = "Messages of the queue, by state";
    families.gauges("zaqar_queue_messages", help, messages);
    let help = "Seconds since the oldest message of the queue was posted";
    families.gauges("zaqar_queue_oldest_message_age_seconds", help, ages);
    Ok(families.text())
}

/// The numbers of messages, and the ages of the oldest.
#[expect(clippy::cast_precision_loss, reason = "no queue has 2^53 messages or milliseconds")]
async fn collect(
    stores: &Stores,
    project: &ProjectId,
    after: Option<&QueueName>,
) -> Result<(Samples, Samples), Error> {
    let rows = stores.management.list(project, Kind::Queue, after, MAX_QUEUES).await?;
    let (mut messages, mut ages) = (Samples::new(), Samples::new());
    for (name, _) in rows {
        let labels =
            || -> Labels { vec![("project", project.to_string()), ("queue", name.to_string())] };
        let key = QueueKey { project: project.clone(), kind: Kind::Queue, name: name.clone() };
        let now = SystemClock.now();
        let stats = stores.messages.stats(&key, now).await?.unwrap_or_default();
        let states = [("free", stats.free), ("claimed", stats.claimed), ("delayed", stats.delayed)];
        for (state, count) in states {
            let mut labels = labels();
            labels.push(("state", state.to_owned()));
            messages.push((labels, count as f64));
        }
        if let Some((oldest, _)) = stats.ends {
            let age = now.as_millis().saturating_sub(oldest.created.as_millis());
            ages.push((labels(), age as f64 / 1000.0));
        }
    }
    Ok((messages, ages))
}
