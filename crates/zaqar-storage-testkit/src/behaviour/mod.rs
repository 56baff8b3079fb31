//! The behaviours, one module per subject. Each test quotes the lines of the traits' documentation
//! that it tests.

pub(crate) mod claims;
pub(crate) mod concurrency;
pub(crate) mod dead_letters;
pub(crate) mod delays;
pub(crate) mod following;
pub(crate) mod heads;
pub(crate) mod isolation;
pub(crate) mod leases;
pub(crate) mod listing;
pub(crate) mod messages;
pub(crate) mod moving;
pub(crate) mod news;
pub(crate) mod outbox;
pub(crate) mod popping;
pub(crate) mod purging;
pub(crate) mod queues;
pub(crate) mod restart;
pub(crate) mod stats;
pub(crate) mod subscriptions;
pub(crate) mod upkeep;

use tokio::task::JoinSet;

/// Runs tasks concurrently; returns their results in any order. Panics if one of them panics.
async fn at_once<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    answers(start(tasks)).await
}

/// Starts tasks, which are aborted when the set is dropped.
fn start<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> JoinSet<T> {
    tasks.into_iter().collect()
}

/// Waits for tasks; returns their results in any order. Panics if one of them panics.
async fn answers<T: Send + 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut answers = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(answer) => answers.push(answer),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    answers
}
