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
const TIMEOUT: Duration = Duration::from_secs(120);

/// Behaviours that [`run_all`] tests at a time.
const AT_ONCE: usize = 8;

type Test = for<'k> fn(&'k mut Kit) -> Pin<Box<dyn Future<Output = ()> + Send + 'k>>;

/// How one behaviour's test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The behaviour's name, as in [`names`].
    pub name: &'static str,
    /// Why it failed; `None` where the store behaves.
    pub failure: Option<String>,
}

macro_rules! registry {
    ($($module:ident { $($test:ident)* })*) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($test)),
            |kit| Box::pin(b::$module::$test(kit)),
        ),)*)*]
    };
}

static BEHAVIOURS: &[(&str, Test)] = __behaviours!(registry);

/// The names of all behaviours.
pub fn names() -> impl Iterator<Item = &'static str> {
    BEHAVIOURS.iter().map(|(name, _)| *name)
}

/// Tests one behaviour of a store.
///
/// # Panics
/// Where the store does not show it, takes longer than two minutes, or `name` is none of [`names`].
pub async fn check(factory: impl Factory, name: &str) {
    let (_, test) =
        BEHAVIOURS.iter().find(|(own, _)| *own == name).expect("the behaviour is listed");
    run(Arc::new(factory), *test).await;
}

/// Tests all behaviours of a store, eight at a time; how each one ended.
pub async fn run_all(factory: impl Factory) -> Vec<Outcome> {
    let factory: Arc<dyn Factory> = Arc::new(factory);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let start = |(name, test): &(&'static str, Test)| {
        let (name, test, factory, permits) = (*name, *test, factory.clone(), permits.clone());
        let task = tokio::spawn(async move {
            let _permit = permits.acquire().await;
            run(factory, test).await;
        });
        (name, task)
    };
    let tasks: Vec<_> = BEHAVIOURS.iter().map(start).collect();
    let mut outcomes = Vec::with_capacity(tasks.len());
    for (name, task) in tasks {
        // A task of its own for each: its panic is an answer here.
        let failure = task.await.err().map(failure_text);
        outcomes.push(Outcome { name, failure });
    }
    outcomes
}

/// Runs a test on a runtime of its own, with two worker threads and timers.
///
/// # Panics
/// Where the system has no room for a runtime, and where the test panics.
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
    tokio::time::timeout(TIMEOUT, test(&mut kit)).await.expect("the behaviour is shown in time");
    kit.finish().await;
}

/// Why a task did not end well.
pub(crate) fn failure_text(error: JoinError) -> String {
    let panic = match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => return error.to_string(),
    };
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a text".to_owned(),
    }
}
