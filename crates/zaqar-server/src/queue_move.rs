//! `zaqar-manage queue move`: moves a queue to another pool, while servers use it.

use std::time::Duration;

use zaqar_core::pools::{PoolName, QueueMoveState, QueueMoves};
use zaqar_core::storage::Upkeep;
use zaqar_core::{Clock, QueueKey, SystemClock, TaskMonitor};

use crate::config::Settings;
use crate::error::StartError;
use crate::left_out::counted;
use crate::pools::Pooling;
use crate::registry::Registry;
use crate::store::{StoreContext, Stores};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rows between two lines of progress.
const PROGRESS: u64 = 100_000;

/// What to move where.
pub(crate) struct QueueToMove {
    pub(crate) queue: QueueKey,
    pub(crate) pool: PoolName,
}

/// Moves; what there is to say.
///
/// # Errors
/// A store that cannot be opened, a queue that cannot be moved or was not.
pub(crate) async fn run(order: &QueueToMove, settings: &Settings) -> Result<String, StartError> {
    if !settings.pooling {
        return Err("without [DEFAULT] pooling there are no pools to move a queue to".into());
    }
    let registry = Registry::default();
    let context = StoreContext { unreliable: settings.unreliable, tasks: TaskMonitor::default() };
    let stores = registry.open_stores(settings, &context).await?;
    let pooling = Pooling::new(&registry, settings, &context, &stores)?;
    pooling.pooled.refresh().await;
    let moved = move_queue(order, &pooling).await;
    close(&pooling, &stores).await?;
    moved
}

async fn move_queue(order: &QueueToMove, pooling: &Pooling) -> Result<String, StartError> {
    let QueueToMove { queue, pool } = order;
    let now = SystemClock.now();
    pooling.pooled.move_queue(queue, pool, now).await?;
    let mut told = PROGRESS;
    loop {
        let drain = pooling.pooled.drain(pool).await?;
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
        if found.rows >= told {
            eprintln!("{} rows copied", found.rows);
            told = found.rows + PROGRESS;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn close(pooling: &Pooling, stores: &Stores) -> Result<(), StartError> {
    pooling.pooled.shut_down().await?;
    stores.management.shut_down().await?;
    Ok(())
}
