//! Spans: what records operations, and the span that a task works for.

use std::sync::Arc;
use std::time::Duration;

use crate::{Context, Error, Facts, TraceParent};

/// Records what operations do.
pub trait Tracer: Send + Sync {
    /// An operation begins. `None` where it is not recorded.
    ///
    /// Called on the path of every operation: it must not block.
    fn begin(&self, context: &Context, facts: &Facts<'_>) -> Option<Arc<dyn ActiveSpan>>;
}

/// The span of an operation in progress. One that is dropped before its end was given up by its
/// caller.
pub trait ActiveSpan: Send + Sync {
    /// The operation's call to the store of this role ended now, after `elapsed`.
    fn store_call(
        &self,
        role: &'static str,
        call: &'static str,
        elapsed: Duration,
        error: Option<&zaqar_core::storage::Error>,
    );

    /// What requests to other services of OpenStack name as their parent.
    fn context(&self) -> TraceParent;

    /// The operation ended.
    fn end(&self, error: Option<&Error>);
}

tokio::task_local! {
    static ACTIVE: Arc<dyn ActiveSpan>;
    static CALLER: TraceParent;
}

/// The span of the operation that the task runs, if it is recorded.
pub fn active_span() -> Option<Arc<dyn ActiveSpan>> {
    ACTIVE.try_with(Arc::clone).ok()
}

/// Runs an operation's work for its span.
pub(crate) async fn within<F: Future>(span: &Arc<dyn ActiveSpan>, work: F) -> F::Output {
    ACTIVE.scope(Arc::clone(span), work).await
}

/// What a request to another service of OpenStack has as `traceparent`: the span of the operation
/// that the task runs, else that of the caller whose token is checked. Webhooks never get one.
pub fn outgoing_trace() -> Option<TraceParent> {
    active_span().map(|span| span.context()).or_else(|| CALLER.try_with(|caller| *caller).ok())
}

/// Does work on behalf of a caller before its operation is known.
pub(crate) async fn on_behalf<F: Future>(caller: Option<TraceParent>, work: F) -> F::Output {
    match caller {
        Some(caller) => CALLER.scope(caller, work).await,
        None => work.await,
    }
}
