//! Pipelines: stages that see each operation before it runs, and its answer afterwards.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::operation::AnyOperation;
use crate::{Context, Declaration, Error, Facts, Operation, PostMessages, Rejection, Resource};

/// One stage of a pipeline. Configuration names it, in `[storage] …_pipeline`.
///
/// Stages are trusted: quotas and policies check the operation as the client sent it, not as a
/// stage changed it.
#[async_trait]
pub trait Stage: Send + Sync {
    /// Whether it has something to do with operations of this type: the others pass it by, at no
    /// cost.
    fn concerns(&self, _: &Declaration) -> bool {
        true
    }

    /// Called before the operation, in the order of the pipeline. It may change the operation, or
    /// answer it, in which case later stages and the store do not see it.
    ///
    /// # Errors
    /// [`Rejection`]: later stages and the store do not see the operation.
    async fn before(&self, context: &Context, asked: &mut Asked<'_>) -> Result<(), Rejection>;

    /// Called after the operation, in reverse order, for each stage whose [`Stage::before`]
    /// returned `Ok`. It sees the answer or the error, and may change the answer.
    async fn after(&self, _context: &Context, _answered: &mut Answered<'_>) {}
}

/// An operation on its way to the store.
pub struct Asked<'a> {
    operation: &'a mut dyn AnyOperation,
    /// An `Option` of the operation's answer.
    answer: &'a mut (dyn Any + Send + Sync),
}

impl fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("facts", &self.facts()).finish_non_exhaustive()
    }
}

impl Asked<'_> {
    /// The facts of the operation, whatever its type.
    pub fn facts(&self) -> Facts<'_> {
        self.operation.facts()
    }

    /// The operation, if it is an `O`.
    pub fn operation<O: Operation>(&self) -> Option<&O> {
        (&*self.operation as &dyn Any).downcast_ref()
    }

    /// The operation for changing, if it is an `O`.
    pub fn operation_mut<O: Operation>(&mut self) -> Option<&mut O> {
        (&mut *self.operation as &mut dyn Any).downcast_mut()
    }

    /// Answers the operation if it is an `O`, and returns whether it is.
    pub fn answer<O: Operation>(&mut self, answer: O::Answer) -> bool {
        if self.operation::<O>().is_none() {
            return false;
        }
        let slot = (&mut *self.answer as &mut dyn Any).downcast_mut();
        slot.map(|slot: &mut Option<O::Answer>| *slot = Some(answer)).is_some()
    }
}

/// The outcome of an operation on its way back.
pub struct Answered<'a> {
    facts: Facts<'a>,
    operation: TypeId,
    outcome: Result<&'a mut (dyn Any + Send + Sync), &'a Error>,
}

impl fmt::Debug for Answered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Answered");
        shown.field("facts", &self.facts).field("error", &self.error()).finish_non_exhaustive()
    }
}

impl Answered<'_> {
    /// The facts of the operation.
    pub fn facts(&self) -> Facts<'_> {
        self.facts
    }

    /// The answer, to be read or changed, if the operation was an `O` and did not fail.
    pub fn answer<O: Operation>(&mut self) -> Option<&mut O::Answer> {
        if self.operation != TypeId::of::<O>() {
            return None;
        }
        let answer: &mut dyn Any = *self.outcome.as_mut().ok()?;
        answer.downcast_mut()
    }

    /// Why the operation failed, or a later stage rejected it.
    pub fn error(&self) -> Option<&Error> {
        self.outcome.as_ref().err().copied()
    }
}

/// The stages of each resource, in order.
#[derive(Clone)]
pub struct Pipelines {
    /// `queue_pipeline`
    pub queue: Vec<Arc<dyn Stage>>,
    /// `topic_pipeline`
    pub topic: Vec<Arc<dyn Stage>>,
    /// `message_pipeline`
    pub message: Vec<Arc<dyn Stage>>,
    /// `claim_pipeline`
    pub claim: Vec<Arc<dyn Stage>>,
    /// `subscription_pipeline`
    pub subscription: Vec<Arc<dyn Stage>>,
}

impl Default for Pipelines {
    /// The default of the configuration: only [`Notifier`], for messages.
    fn default() -> Self {
        Self { message: vec![Arc::new(Notifier)], ..Self::none() }
    }
}

impl Pipelines {
    /// Pipelines without a stage.
    pub const fn none() -> Self {
        Self {
            queue: Vec::new(),
            topic: Vec::new(),
            message: Vec::new(),
            claim: Vec::new(),
            subscription: Vec::new(),
        }
    }

    fn of(&self, resource: Resource) -> &[Arc<dyn Stage>] {
        match resource {
            Resource::Queue => &self.queue,
            Resource::Topic => &self.topic,
            Resource::Message => &self.message,
            Resource::Claim => &self.claim,
            Resource::Subscription => &self.subscription,
            Resource::Service => &[],
        }
    }

    /// Passes an operation through the stages of its resource to `run`, and its answer back.
    pub(crate) async fn pass<O, F>(
        &self,
        context: &Context,
        mut operation: O,
        run: impl FnOnce(O) -> F,
    ) -> Result<O::Answer, Error>
    where
        O: Operation,
        F: Future<Output = Result<O::Answer, Error>>,
    {
        let kind = operation.kind();
        let stages = self.of(O::DECLARATION.resource(kind));
        let concerned = |stage: &&Arc<dyn Stage>| stage.concerns(O::DECLARATION);
        if !stages.iter().any(|stage| concerned(&stage)) {
            return run(operation).await;
        }
        let (mut passed, mut answer, mut rejection) = (0, None, None);
        for stage in stages.iter().filter(concerned) {
            let mut asked = Asked { operation: &mut operation, answer: &mut answer };
            match stage.before(context, &mut asked).await {
                Ok(()) => passed += 1,
                Err(reason) => rejection = Some(reason),
            }
            if rejection.is_some() || answer.is_some() {
                break;
            }
        }
        let (queue, id) = (operation.queue().cloned(), operation.id().map(str::to_owned));
        let delivery = operation.delivery().map(str::to_owned);
        let amount = operation.amount();
        let mut outcome = match (rejection, answer) {
            (Some(rejection), _) => Err(Error::Rejected(rejection)),
            (None, Some(answer)) => Ok(answer),
            (None, None) => run(operation).await,
        };
        let (queue, id) = (queue.as_ref().map(|queue| &queue.name), id.as_deref());
        let delivery = delivery.as_deref();
        // Of those that are concerned, the ones that passed the operation on.
        let behind = stages.iter().filter(concerned).count() - passed;
        for stage in stages.iter().filter(concerned).rev().skip(behind) {
            let facts = Facts { declaration: O::DECLARATION, kind, queue, id, delivery, amount };
            let outcome = match &mut outcome {
                Ok(answer) => Ok(answer as &mut (dyn Any + Send + Sync)),
                Err(error) => Err(&*error),
            };
            let mut answered = Answered { facts, operation: TypeId::of::<O>(), outcome };
            stage.after(context, &mut answered).await;
        }
        outcome
    }
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelines")
            .field("queue", &self.queue.len())
            .field("topic", &self.topic.len())
            .field("message", &self.message.len())
            .field("claim", &self.claim.len())
            .field("subscription", &self.subscription.len())
            .finish()
    }
}

/// `zaqar.notification.notifier`: notifies subscribers of posts. Without it a post writes no outbox
/// entry, so neither webhooks nor WebSocket connections receive it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notifier;

#[async_trait]
impl Stage for Notifier {
    fn concerns(&self, declaration: &Declaration) -> bool {
        declaration.name == PostMessages::DECLARATION.name
    }

    async fn before(&self, _: &Context, asked: &mut Asked<'_>) -> Result<(), Rejection> {
        if let Some(post) = asked.operation_mut::<PostMessages>() {
            post.notify = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use zaqar_core::{ClientId, Kind, ProjectId};

    use super::*;
    use crate::{GetQueue, GetQueueStats, QueueRef};

    /// Counts how often it was called before and after an operation.
    #[derive(Default)]
    struct OfQueues {
        before: AtomicUsize,
        after: AtomicUsize,
    }

    #[async_trait]
    impl Stage for OfQueues {
        fn concerns(&self, declaration: &Declaration) -> bool {
            declaration.name == GetQueue::DECLARATION.name
        }

        async fn before(&self, _: &Context, _: &mut Asked<'_>) -> Result<(), Rejection> {
            self.before.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn after(&self, _: &Context, _: &mut Answered<'_>) {
            self.after.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Rejects everything.
    struct Reject;

    #[async_trait]
    impl Stage for Reject {
        async fn before(&self, _: &Context, _: &mut Asked<'_>) -> Result<(), Rejection> {
            Err(Rejection::Forbidden("no".into()))
        }
    }

    #[tokio::test]
    async fn a_stage_sees_only_operations_that_concern_it() {
        let name = zaqar_core::QueueName::new("q").unwrap();
        let queue = QueueRef { kind: Kind::Queue, name };
        let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"));
        let (stage, other) = (Arc::new(OfQueues::default()), Arc::new(OfQueues::default()));
        let calls = |stage: &OfQueues| {
            (stage.before.load(Ordering::Relaxed), stage.after.load(Ordering::Relaxed))
        };
        let mut pipelines = Pipelines { queue: vec![stage.clone()], ..Pipelines::none() };
        let stats = || GetQueueStats { queue: queue.clone() };
        let get = || GetQueue { queue: queue.clone() };
        let answer = || ready(Err(Error::Contended));
        let _failed = pipelines.pass(&context, stats(), |_| answer()).await;
        assert_eq!(calls(&stage), (0, 0));
        let _failed = pipelines.pass(&context, get(), |_| ready(Err(Error::Contended))).await;
        assert_eq!(calls(&stage), (1, 1));
        // Behind a stage that rejects, and behind one that is not concerned.
        pipelines.queue = vec![stage.clone(), Arc::new(Reject), other.clone()];
        let _rejected = pipelines.pass(&context, get(), |_| ready(Err(Error::Contended))).await;
        assert_eq!((calls(&stage), calls(&other)), ((2, 2), (0, 0)));
        let rejected = pipelines.pass(&context, stats(), |_| answer()).await;
        assert!(matches!(rejected, Err(Error::Rejected(_))));
        assert_eq!(calls(&stage), (2, 2));
    }
}
