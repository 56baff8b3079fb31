//! Runs behaviours: one by name, or all.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::behaviour as b;
use crate::factory::Factory;
use crate::kit::Kit;

/// A behaviour that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Behaviours that [`run_all`] tests concurrently.
const AT_ONCE: usize = 8;

type Test = for<'k> fn(&'k mut Kit) -> Pin<Box<dyn Future<Output = ()> + Send + 'k>>;

struct Behaviour {
    name: &'static str,
    test: Test,
    /// The source file of the test: a failure quotes the test's documentation.
    source: &'static str,
}

/// The result of one behaviour's test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The behaviour's name, as in [`names`].
    pub name: &'static str,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

macro_rules! registry {
    ($($module:ident { $($test:ident)* })*) => {
        &[$($(Behaviour {
            name: concat!(stringify!($module), "::", stringify!($test)),
            test: |kit| Box::pin(b::$module::$test(kit)),
            source: include_str!(concat!("behaviour/", stringify!($module), ".rs")),
        },)*)*]
    };
}

static BEHAVIOURS: &[Behaviour] = __behaviours!(registry);

/// The names of all behaviours.
pub fn names() -> impl Iterator<Item = &'static str> {
    BEHAVIOURS.iter().map(|behaviour| behaviour.name)
}

/// Tests one behaviour of a store.
///
/// # Panics
/// If the store violates it or takes longer than five minutes, or if `name` is not one of
/// [`names`]. The text quotes the line of the traits' documentation that the store violates.
pub async fn check(factory: impl Factory, name: &str) {
    let behaviour =
        BEHAVIOURS.iter().find(|own| own.name == name).expect("the behaviour is listed");
    if let Some(failure) = behaviour.try_out(Arc::new(factory)).await {
        panic!("{failure}");
    }
}

/// Tests all behaviours of a store, eight concurrently; returns the result of each.
pub async fn run_all(factory: impl Factory) -> Vec<Outcome> {
    let factory: Arc<dyn Factory> = Arc::new(factory);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let start = |behaviour: &'static Behaviour| {
        let (factory, permits) = (factory.clone(), permits.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            Outcome { name: behaviour.name, failure: behaviour.try_out(factory).await }
        })
    };
    let tasks: Vec<_> = BEHAVIOURS.iter().map(start).collect();
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(task.await.expect("a failed behaviour is an outcome"));
    }
    outcomes
}

impl Behaviour {
    /// Runs the test; returns why it failed.
    async fn try_out(&self, factory: Arc<dyn Factory>) -> Option<String> {
        // In its own task, so that a panic becomes a failure.
        let failure = failure_text(tokio::spawn(run(factory, self.test)).await.err()?);
        Some(format!("{failure}\nThe store violates {}:\n{}", self.name, self.rule()))
    }

    /// The tested rule, from the test's documentation.
    fn rule(&self) -> String {
        let test = self.name.rsplit("::").next().unwrap_or(self.name);
        let before = self.source.split(&format!("async fn {test}(")).next().unwrap_or_default();
        let lines = before.lines().rev().skip(1).map_while(|line| line.strip_prefix("/// "));
        let mut lines: Vec<_> = lines.collect();
        lines.reverse();
        lines.join(" ")
    }
}

/// Runs a test on its own runtime, with two worker threads and timers.
///
/// # Panics
/// If no runtime can be started, or the test panics.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

/// A runtime for tests.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("zaqar-kit")
        .enable_all()
        .build()
        .expect("a runtime starts")
}

async fn run(factory: Arc<dyn Factory>, test: Test) {
    let mut kit = Kit::new(factory).await;
    tokio::time::timeout(TIMEOUT, test(&mut kit)).await.expect("the test ends within five minutes");
    kit.finish().await;
}

/// Why a task failed.
pub(crate) fn failure_text(error: JoinError) -> String {
    let panic = match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => return error.to_string(),
    };
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_violated_rule() {
        for behaviour in BEHAVIOURS {
            let rule = behaviour.rule();
            assert!(
                rule.len() > 20 && rule.ends_with('.') | rule.ends_with('"'),
                "{}: {rule}",
                behaviour.name
            );
        }
        let failure = block_on(async {
            let lost = crate::Memories::with_fault(crate::Fault::LostOrder);
            let outcomes = run_all(lost).await;
            outcomes.into_iter().find(|one| one.name == "messages::a_batch_keeps_its_order")
        });
        let text = failure.and_then(|outcome| outcome.failure).unwrap();
        assert!(text.ends_with(
            "messages::a_batch_keeps_its_order:\n`post`: \"returns the ids, in the batch's order\"; \
             \"every message is stored, at consecutive positions\"."
        ), "{text}");
    }
}
