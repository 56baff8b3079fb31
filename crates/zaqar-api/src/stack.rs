//! The layers that every operation passes between a transport and its implementation.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{Instrument, Span, error_span, field};
use zaqar_core::{Clock, OperationInProgress, OperationLimit, TooManyOperations};

use crate::operation::Callable;
use crate::project_limit::{Acquisition, ProjectLimit, Slot, TooManyWaiting};
use crate::{Admission, Api, Authentication, Context, Error, Facts, Layers, Operation, trace};

/// When rejected callers should retry.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The layers, as configured.
pub(crate) struct Stack {
    layers: Layers,
    operations: OperationLimit,
    expensive: ProjectLimit,
    clock: Arc<dyn Clock>,
}

impl Api {
    /// Runs an operation through every layer. This is the only entry point, for transports and
    /// embedding programs alike.
    ///
    /// # Errors
    /// Those of the operation; from the layers [`Error::NotAuthenticated`], [`Error::NotGranted`],
    /// [`Error::Forbidden`], [`Error::Rejected`], [`Error::Overloaded`] and
    /// [`Error::DeadlineExceeded`].
    pub async fn call<O: Callable>(
        &self,
        context: &Context,
        operation: O,
    ) -> Result<O::Answer, Error> {
        let run = |operation: O| operation.run(self, context);
        // Boxed, so that the futures of transports need not contain a future of this size.
        Box::pin(self.inner.stack.call(context, operation, run)).await
    }
}

impl Stack {
    pub(crate) fn new(
        layers: Layers,
        operations: OperationLimit,
        expensive: ProjectLimit,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { layers, operations, expensive, clock }
    }

    pub(crate) fn operations(&self) -> &OperationLimit {
        &self.operations
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Runs an operation with `run` behind every layer, outermost first.
    pub(crate) async fn call<O, F>(
        &self,
        context: &Context,
        operation: O,
        run: impl FnOnce(O) -> F,
    ) -> Result<O::Answer, Error>
    where
        O: Operation,
        F: Future<Output = Result<O::Answer, Error>>,
    {
        let kind = operation.kind();
        let started = self.layers.metrics.as_ref().map(|_| Instant::now());
        // Span: log lines of the operation name the request, the project and the queue.
        let span = span(context, &operation);
        // Trace: records the operation and its calls to the stores, if tracing is configured.
        let tracer = self.layers.tracer.as_ref();
        let traced = tracer.and_then(|tracer| tracer.begin(context, &Facts::of(&operation)));
        let layers = pin!(async {
            let inner = pin!(async {
                // Load shedding: above the limit of operations in progress, rejects at once.
                let in_progress = self.operations.begin().map_err(overloaded)?;
                // Identity: the caller is authenticated as the configuration requires.
                self.identify(context, &operation)?;
                // Quotas: the project may do this much; given back where nothing is stored.
                let has_started = AtomicBool::new(false);
                let admitted = match &self.layers.quota {
                    Some(quota) => quota.admit(context, &Facts::of(&operation)).await?,
                    None => None,
                };
                let admitted = Admitted { admission: admitted, has_started: &has_started };
                // Policy: the caller may do this.
                self.authorize(context, &operation)?;
                // Fairness: expensive operations of one project wait for each other.
                let _slot = self.project_slot(context, &operation, in_progress).await?;
                // Pipeline, then the operation: the stages of its resource, in order.
                let run = |operation| {
                    has_started.store(true, Ordering::Relaxed);
                    run(operation)
                };
                let outcome = self.layers.pipelines.pass(context, operation, run).await;
                admitted.end(outcome.as_ref().err());
                outcome
            });
            // Deadline: the operation is cancelled when it has passed.
            let outcome = within(context.deadline, inner).await;
            // Metrics: counts and times operations, whether or not they fail.
            if let (Some(metrics), Some(started)) = (&self.layers.metrics, started) {
                let error = outcome.as_ref().err();
                metrics.record(context, O::DECLARATION, kind, error, started.elapsed());
            }
            if let Err(error) = &outcome {
                error.log();
            }
            outcome
        });
        let layers = layers.instrument(span);
        match traced {
            None => layers.await,
            Some(traced) => {
                let outcome = trace::within(&traced, layers).await;
                traced.end(outcome.as_ref().err());
                outcome
            }
        }
    }

    /// Waits for a slot of the project if the operation is expensive. While it waits it does not
    /// count as in progress: otherwise one project could use up the limit of all.
    async fn project_slot<'a, O: Operation>(
        &'a self,
        context: &'a Context,
        operation: &O,
        in_progress: OperationInProgress,
    ) -> Result<(OperationInProgress, Option<Slot<'a>>), Error> {
        if !operation.is_expensive() {
            return Ok((in_progress, None));
        }
        match self.expensive.admit(&context.project) {
            Ok(Acquisition::Granted(slot)) => Ok((in_progress, Some(slot))),
            Ok(Acquisition::Queued(waiting)) => {
                drop(in_progress);
                let slot = waiting.wait().await;
                let in_progress = self.operations.begin().map_err(overloaded)?;
                Ok((in_progress, Some(slot)))
            }
            Err(TooManyWaiting) => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        }
    }

    fn identify<O: Operation>(&self, context: &Context, operation: &O) -> Result<(), Error> {
        match &context.authentication {
            Authentication::Unchecked { .. } if self.layers.authenticator.is_some() => {
                Err(Error::NotAuthenticated)
            }
            Authentication::Unchecked { .. } | Authentication::Server => Ok(()),
            Authentication::Token(identity) => {
                let holds =
                    identity.project == context.project && self.clock.now() < identity.expires;
                if !holds {
                    return Err(Error::NotAuthenticated);
                }
                let is_allowed = identity.requests.as_ref().is_none_or(|requests| {
                    requests.allows(O::DECLARATION.method.as_str(), &Facts::of(operation).path())
                });
                if is_allowed { Ok(()) } else { Err(Error::Forbidden) }
            }
            Authentication::Signature(grant) => {
                let covers = grant.project == context.project
                    && grant.covers(O::DECLARATION.method.as_str(), &Facts::of(operation).path())
                    && self.clock.now() < grant.expires;
                if covers { Ok(()) } else { Err(Error::NotGranted) }
            }
        }
    }

    fn authorize<O: Operation>(&self, context: &Context, operation: &O) -> Result<(), Error> {
        let Some(policy) = &self.layers.policy else {
            let allowed = !O::DECLARATION.admin || context.has_role("admin");
            return if allowed { Ok(()) } else { Err(Error::Forbidden) };
        };
        let facts = Facts::of(operation);
        match facts.rule() {
            Some(rule) => policy.check(context, rule, &facts),
            None => Ok(()),
        }
    }
}

/// What a quota admitted of one operation. From the start of the operation on, a drop settles it:
/// a store may finish what its caller has given up.
struct Admitted<'a> {
    admission: Option<Box<dyn Admission>>,
    has_started: &'a AtomicBool,
}

impl Admitted<'_> {
    /// The operation has ended.
    fn end(mut self, error: Option<&Error>) {
        // The store may have made the change all the same.
        let is_unknown = |error: &Error| {
            matches!(error, Error::Storage(_) | Error::DeadlineExceeded | Error::TaskFailed { .. })
        };
        match self.admission.take() {
            Some(admission) if error.is_none_or(is_unknown) => admission.settle(),
            Some(_) | None => {}
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.has_started.load(Ordering::Relaxed)
            && let Some(admission) = self.admission.take()
        {
            admission.settle();
        }
    }
}

fn overloaded(_: TooManyOperations) -> Error {
    Error::Overloaded { retry_after: RETRY_AFTER }
}

/// The span of an operation. Its level is `ERROR`, so that it exists at every log level.
fn span<O: Operation>(context: &Context, operation: &O) -> Span {
    let span = error_span!(
        "operation",
        name = O::DECLARATION.name,
        request_id = context.request_id.as_str(),
        global_request_id = field::Empty,
        project = context.project.as_str(),
        queue = operation.queue().map(|queue| queue.name.as_str()),
    );
    if let Some(id) = &context.global_request_id {
        span.record("global_request_id", id.as_str());
    }
    span
}

async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match deadline {
        None => work.await,
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::DeadlineExceeded),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::task::{Context as Task, Waker};

    use async_trait::async_trait;
    use zaqar_core::{ClientId, Kind, ProjectId, QueueKey, SystemClock};

    use super::*;
    use crate::{ListQueues, Quota};

    fn context(project: &str) -> Context {
        Context::new(ProjectId::new(project).unwrap(), ClientId::new("c"))
    }

    fn list() -> ListQueues {
        ListQueues {
            kind: Kind::Queue,
            marker: None,
            limit: None,
            detailed: false,
            name: None,
            with_count: false,
            filters: Vec::new(),
        }
    }

    #[test]
    fn operations_that_wait_for_their_project_do_not_count_as_in_progress() {
        let (operations, expensive) = (OperationLimit::new(3), ProjectLimit::new(1));
        let clock = Arc::new(SystemClock);
        let stack = Stack::new(Layers::default(), operations, expensive, clock);
        let (greedy, quiet) = (context("greedy"), context("quiet"));
        let mut task = Task::from_waker(Waker::noop());
        let mut calls: Vec<_> =
            (0..10).map(|_| Box::pin(stack.call(&greedy, list(), |_| pending()))).collect();
        for call in &mut calls {
            assert!(call.as_mut().poll(&mut task).is_pending());
        }
        assert_eq!(stack.operations().in_progress(), 1);
        let mut other = pin!(stack.call(&quiet, list(), |_| pending()));
        assert!(other.as_mut().poll(&mut task).is_pending(), "rejected");
        assert_eq!(stack.operations().in_progress(), 2);
        // The next one gets the slot, and counts from now on.
        drop(calls.remove(0));
        assert!(calls[0].as_mut().poll(&mut task).is_pending());
        assert_eq!(stack.operations().in_progress(), 2);
    }

    /// Whether what it admitted last was settled when it was dropped.
    #[derive(Default, Clone)]
    struct Settled(Arc<AtomicBool>);

    #[async_trait]
    impl Quota for Settled {
        async fn admit(
            &self,
            _: &Context,
            _: &Facts<'_>,
        ) -> Result<Option<Box<dyn Admission>>, Error> {
            self.0.store(false, Ordering::Relaxed);
            Ok(Some(Box::new(self.clone())))
        }

        async fn admit_new_queue(&self, _: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error> {
            Ok(None)
        }
    }

    impl Admission for Settled {
        fn settle(self: Box<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_quota_gets_back_what_was_certainly_not_stored() {
        let settled = Settled::default();
        let layers = Layers { quota: Some(Arc::new(settled.clone())), ..Layers::default() };
        let clock = Arc::new(SystemClock);
        let stack = Stack::new(layers, OperationLimit::new(9), ProjectLimit::new(1), clock);
        let is_settled = || settled.0.load(Ordering::Relaxed);
        let caller = context("p");
        let mut task = Task::from_waker(Waker::noop());
        let mut call = Box::pin(stack.call(&caller, list(), |_| pending()));
        assert!(call.as_mut().poll(&mut task).is_pending());
        let mut waits = Box::pin(stack.call(&caller, list(), |_| pending()));
        assert!(waits.as_mut().poll(&mut task).is_pending());
        drop(waits);
        assert!(!is_settled(), "cancelled while it waits for its project");
        drop(call);
        assert!(is_settled(), "cancelled in the middle of the store");
        let failed = || Error::Storage(zaqar_core::storage::Error::failed("broken pipe"));
        for (error, is_kept) in [
            (failed(), true),
            (Error::DeadlineExceeded, true),
            (Error::Contended, false),
            (Error::NotAuthenticated, false),
        ] {
            let name = error.to_string();
            let mut call =
                Box::pin(stack.call(&caller, list(), |_| std::future::ready(Err(error))));
            assert!(call.as_mut().poll(&mut task).is_ready());
            assert_eq!(is_settled(), is_kept, "{name}");
        }
    }
}
