//! Tracing: records operations, and knows the span that a task works for.

use std::sync::Arc;
use std::time::Duration;

use crate::{Context, Error, Facts, ProfilerHeaders, TraceParent};

/// Records operations as spans.
pub trait Tracer: Send + Sync {
    /// Begins the span of an operation; `None` if it is not recorded.
    ///
    /// It is called for every operation and must not block.
    fn begin(&self, context: &Context, facts: &Facts<'_>) -> Option<Arc<dyn ActiveSpan>>;
}

/// The span of an operation in progress. If it is dropped before [`ActiveSpan::end`], the caller
/// cancelled the operation.
pub trait ActiveSpan: Send + Sync {
    /// Records that a call to the store of this role ended now, after `elapsed`.
    fn store_call(
        &self,
        role: &'static str,
        call: &'static str,
        elapsed: Duration,
        error: Option<&zaqar_core::storage::Error>,
    );

    /// The parent span for requests to other OpenStack services.
    fn context(&self) -> TraceParent;

    /// What they have of OSprofiler, where a caller asked for that.
    fn profiler(&self) -> Option<ProfilerHeaders>;

    /// The operation ended.
    fn end(&self, error: Option<&Error>);
}

tokio::task_local! {
    static ACTIVE: Arc<dyn ActiveSpan>;
    static CALLER: TraceParent;
}

/// The span of the current task's operation, if it is recorded.
pub fn active_span() -> Option<Arc<dyn ActiveSpan>> {
    ACTIVE.try_with(Arc::clone).ok()
}

/// Runs an operation's work with its span active.
pub(crate) async fn within<F: Future>(span: &Arc<dyn ActiveSpan>, work: F) -> F::Output {
    ACTIVE.scope(Arc::clone(span), work).await
}

/// The `traceparent` for a request to another OpenStack service: the span of the current task's
/// operation, else that of the caller whose token is being checked. Webhooks never get one.
pub fn outgoing_trace() -> Option<TraceParent> {
    active_span().map(|span| span.context()).or_else(|| CALLER.try_with(|caller| *caller).ok())
}

/// What a request to another service of OpenStack has of OSprofiler: of an operation that is
/// recorded for it. A check of a token comes before that, as in the original, and has nothing.
pub fn outgoing_profile() -> Option<ProfilerHeaders> {
    active_span()?.profiler()
}

/// Does work on behalf of a caller before its operation is known.
pub(crate) async fn on_behalf<F: Future>(caller: Option<TraceParent>, work: F) -> F::Output {
    match caller {
        Some(caller) => CALLER.scope(caller, work).await,
        None => work.await,
    }
}
