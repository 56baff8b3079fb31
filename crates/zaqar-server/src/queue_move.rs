//! `zaqar-manage queue move`: moves a queue to another pool, while servers use it.

use std::time::Duration;

use tokio::time::Instant;
use zaqar_core::pools::{PoolName, QueueMoveState, QueueMoves};
use zaqar_core::storage::Upkeep;
use zaqar_core::{Clock, QueueKey, SystemClock, TaskMonitor};
use zaqar_pooling::Pooled;

use crate::error::{StartError, with_causes};
use crate::left_out::counted;
use crate::offline::Setup;
use crate::pools::Pooling;
use crate::store::{StoreContext, Stores};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rows between two lines of progress.
const PROGRESS: u64 = 100_000;
/// How often a move that could not go on is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long a move may make no progress: longer than a server holds one that it died with.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What to move where.
pub(crate) struct QueueToMove {
    pub(crate) queue: QueueKey,
    pub(crate) pool: PoolName,
}

/// Moves; what there is to say.
///
/// # Errors
/// A store that cannot be opened, a queue that cannot be moved or was not, or whose move has made
/// no progress for a minute.
pub(crate) async fn run(order: &QueueToMove, setup: Setup<'_>) -> Result<String, StartError> {
    let Setup { registry, settings } = setup;
    if !settings.pooling {
        return Err("without [DEFAULT] pooling there are no pools to move a queue to".into());
    }
    let context = StoreContext { unreliable: settings.unreliable, tasks: TaskMonitor::default() };
    let stores = registry.open_stores(settings, &context).await?;
    let pooling = Pooling::new(registry, settings, &context, &stores)?;
    pooling.pooled.refresh().await;
    let moved = move_queue(order, &pooling.pooled).await;
    close(&pooling, &stores).await?;
    moved
}

async fn move_queue(order: &QueueToMove, pooled: &Pooled) -> Result<String, StartError> {
    let QueueToMove { queue, pool } = order;
    pooled.move_queue(queue, pool, SystemClock.now()).await?;
    let (mut told, mut problem) = (PROGRESS, None);
    let (mut last, mut changed, mut tried) = (None, Instant::now(), Instant::now());
    loop {
        let drain = pooled.drain(pool).await?;
        let Some(found) = drain.moves.into_iter().find(|one| one.queue == *queue) else {
            return Ok(format!("{queue} is on its way to {pool}; the servers go on\n"));
        };
        match found.state {
            QueueMoveState::Moved => {
                return Ok(format!("{queue} moved to {pool}: {}\n", counted(found.rows, "row")));
            }
            QueueMoveState::Failed => {
                let problem = found.problem.unwrap_or_default();
                return Err(format!("{queue} was not moved: {problem}").into());
            }
            QueueMoveState::Copying | QueueMoveState::Undoing => {}
        }
        if last != Some((found.state, found.rows)) {
            (last, changed) = (Some((found.state, found.rows)), Instant::now());
        }
        if changed.elapsed() >= GIVE_UP_AFTER {
            return Err(stalled(queue, problem.or(found.problem)).into());
        }
        if found.rows >= told {
            eprintln!("{} rows copied", found.rows);
            told = found.rows + PROGRESS;
        }
        if tried.elapsed() >= RETRY_EVERY {
            let resumed = pooled.resume_move(queue, SystemClock.now()).await;
            problem = resumed.err().map(|error| with_causes(&error)).or(problem);
            tried = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn stalled(queue: &QueueKey, problem: Option<String>) -> String {
    let problem = problem.unwrap_or_else(|| "another server has it".to_owned());
    let secs = GIVE_UP_AFTER.as_secs();
    format!(
        "{queue} is not moved: no progress for {secs} s ({problem}); requests for it may be \
         answered 503 until a server goes on with the move, once both pools answer"
    )
}

async fn close(pooling: &Pooling, stores: &Stores) -> Result<(), StartError> {
    pooling.pooled.shut_down().await?;
    stores.management.shut_down().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use async_trait::async_trait;
    use serde_json::Map;
    use zaqar_core::pools::{Capability, Pool, Pools};
    use zaqar_core::storage::{Heads, MessageStore};
    use zaqar_core::{Generation, Incarnation, Kind, ProjectId, QueueName, Secret, Version};
    use zaqar_pooling::{Connector, Options, Purpose, Refusal};
    use zaqar_storage_testkit::Memory;

    use super::*;

    struct Places {
        source: Memory,
        /// Calls that the source still answers.
        left: Arc<AtomicI64>,
        target: Memory,
    }

    #[async_trait]
    impl Connector for Places {
        async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
            let is_source = pool.name.as_str() == "a";
            Ok(Arc::new(match is_source {
                true => self.source.connect_for(Arc::clone(&self.left)),
                false => self.target.connect(),
            }))
        }

        fn capabilities(&self, _: &Pool) -> BTreeSet<Capability> {
            BTreeSet::new()
        }

        fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
            one.uri.expose() == other.uri.expose()
        }

        fn is_configured_store(&self, _: &Pool) -> bool {
            false
        }
    }

    fn pool(name: &str) -> Pool {
        Pool {
            name: PoolName::new(name).unwrap(),
            uri: Secret::new(format!("memory:{name}")),
            weight: 1,
            flavor: None,
            options: Map::new(),
        }
    }

    /// The pool that a queue leaves goes away for good after any number of calls.
    #[tokio::test(start_paused = true)]
    async fn a_move_that_cannot_go_on_ends_with_an_error() {
        let mut stalled = 0;
        for calls in 0..100 {
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let (source, target) = (Memory::new(), Memory::new());
            let places = Arc::new(Places { source, left: Arc::clone(&left), target });
            let (rows, configured) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
            let registry = Arc::new(zaqar_pooling::Registry::new(rows, configured, places));
            let pooled = Pooled::new(Arc::clone(&registry), Options::default());
            registry.put_pool(pool("a")).await.unwrap();
            pooled.refresh().await;
            let queue = QueueKey {
                project: ProjectId::new("p").unwrap(),
                kind: Kind::Queue,
                name: QueueName::new("q").unwrap(),
            };
            let generation =
                Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
            pooled.open(&queue, generation, SystemClock.now()).await.unwrap();
            registry.put_pool(pool("b")).await.unwrap();
            pooled.refresh().await;
            left.store(calls, Ordering::Release);
            let order = QueueToMove { queue, pool: PoolName::new("b").unwrap() };
            let moving = move_queue(&order, &pooled);
            let moved = tokio::time::timeout(Duration::from_secs(600), moving).await;
            match moved.expect("it ends") {
                Ok(text) => {
                    assert_eq!(text, "queue q of project p moved to b: 0 rows\n");
                    assert!(stalled > 0, "some moves stalled");
                    return;
                }
                Err(error) => stalled += u32::from(error.to_string().contains("no progress")),
            }
        }
        panic!("it is never moved");
    }
}
