//! Posts events about subscribers.
//!
//! An event is posted before what it tells of is settled, so that a server which dies in between
//! repeats it instead of losing it. Where its queue cannot be posted to, it waits in an internal
//! queue, from which any server posts it; where that fails too, so does what it tells of.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Map, Value};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, ProjectId, QueueName};

use crate::context::Context;
use crate::events::{self, EventKind};
use crate::row::{SubscriptionKey, WaitingEvent};

/// Waiting events that are taken at once, and so those of one post, at most.
const PAGE: usize = 32;

/// Posts an event about a subscription whose options name a queue, or has it wait.
///
/// # Errors
/// What the store says; what the event tells of must not be settled then.
pub(crate) async fn tell(
    context: &Context,
    key: &SubscriptionKey,
    (subscriber, options): (&str, &Map<String, Value>),
    happened: &EventKind,
) -> Result<(), Error> {
    let (Some(sink), Some(queue)) = (&context.parts.events, events::queue_of(options)) else {
        return Ok(());
    };
    let (now, before) = (context.parts.clock.now(), context.events.told(key.id));
    let Some(body) = context.events.event(key, subscriber, happened, now) else { return Ok(()) };
    let project = key.queue.project.clone();
    let posted = sink.post(&project, &queue, std::slice::from_ref(&body)).await;
    let Err(error) = posted else { return Ok(()) };
    context.log_failure("events about subscribers", &error);
    let waits = context.deliveries.add_event(&WaitingEvent { project, queue, body }, now).await;
    if waits.is_err() {
        context.events.not_told(key.id, before);
    }
    waits
}

/// Posts events that wait, of any server, those of one queue together; what cannot be posted waits
/// on, and holds up no other queue's.
///
/// # Errors
/// What the store says, the last time.
pub(crate) async fn post_waiting(context: &Context) -> Result<(), Error> {
    let Some(sink) = &context.parts.events else { return Ok(()) };
    let mut outcome = Ok(());
    loop {
        let now = context.parts.clock.now();
        let (claim, waiting) = context.deliveries.take_events(PAGE, now).await?;
        let is_last = waiting.len() < PAGE;
        let posting = by_queue(waiting).into_iter().map(|((project, queue), waiting)| async move {
            let (ids, events): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            sink.post(&project, &queue, &events).await?;
            let now = context.parts.clock.now();
            context.deliveries.delete_events(&ids, claim, now).await
        });
        for posted in join_all(posting).await {
            outcome = posted.and(outcome);
        }
        if is_last {
            return outcome;
        }
    }
}

/// Events by the queue that they are for, in their order.
fn by_queue(
    waiting: Vec<(MessageId, WaitingEvent)>,
) -> BTreeMap<(ProjectId, QueueName), Vec<(MessageId, Value)>> {
    let mut queues = BTreeMap::<_, Vec<_>>::new();
    for (id, WaitingEvent { project, queue, body }) in waiting {
        queues.entry((project, queue)).or_default().push((id, body));
    }
    queues
}
