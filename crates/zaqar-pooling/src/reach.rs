//! Requests to a pool: while it is known to be away they fail at once, rather than each waiting for
//! as long as its driver does.

use std::sync::Arc;
use std::time::Duration;

use zaqar_core::QueueKey;
use zaqar_core::storage::{Error, MessageStore};

use crate::member::{Member, with_source};

/// The timeout of the ping that confirms a suspicion; requests wait for it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of later pings, and the pause before each.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// Does what a request asks of a queue.
///
/// # Errors
/// [`Error::Unavailable`] at once while the pool is known to be away; else as [`Member::store`],
/// and those of the request.
pub(crate) async fn serve<T, F>(
    member: &Arc<Member>,
    key: &QueueKey,
    request: impl FnOnce(Arc<dyn MessageStore>) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    member.outage().check(member.name(), key).await?;
    let answer = request(member.store().await?).await;
    judge(member, &answer);
    answer
}

/// Probes a pool in the background if an operation could not reach it.
pub(crate) fn judge<T>(member: &Arc<Member>, outcome: &Result<T, Error>) {
    if !matches!(outcome, Err(Error::Unavailable { .. })) {
        return;
    }
    let Some(store) = member.if_open().filter(|_| member.is_pool() && !member.is_closing()) else {
        return;
    };
    if member.outage().suspect() {
        let member = Arc::clone(member);
        tokio::spawn(async move {
            tokio::select! {
                () = member.closing() => {}
                () = probe(&member, store.as_ref()) => {}
            }
            member.outage().recovered();
        });
    }
}

/// Pings until the pool answers.
async fn probe(member: &Member, store: &dyn MessageStore) {
    let mut limit = CONFIRM_TIMEOUT;
    loop {
        let late = |_| Err(Error::unavailable(format!("no answer in {} s", limit.as_secs())));
        let pinged = tokio::time::timeout(limit, store.ping()).await.unwrap_or_else(late);
        member.note(&pinged);
        let Err(error @ Error::Unavailable { .. }) = pinged else { return };
        member.outage().ping_failed(with_source(&error));
        tokio::time::sleep(PROBE_EVERY).await;
        if let Some(key) = member.outage().take_rejected()
            && let read = tokio::time::timeout(CONFIRM_TIMEOUT, store.generation(&key))
            && matches!(read.await, Ok(Ok(_)))
        {
            member.outage().answers_partly();
        }
        limit = PROBE_TIMEOUT;
    }
}
