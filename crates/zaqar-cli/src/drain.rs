//! Waits for moves of queues between pools, and shows how far they are.

use std::time::Duration;

use zaqar_client::{Client, PoolDrain, QueueToMove};

use crate::Failure;
use crate::output::{Output, counted, progress};

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Waits until a pool that is drained has no queues left.
pub(crate) async fn wait(client: &Client, pool: &str, output: &Output) -> Result<(), Failure> {
    let bar = progress(None, "queues left");
    loop {
        let drain = client.drain(pool).await?;
        bar.set_position(drain.queues_left);
        if drain.queues_left == 0 && !drain.more {
            bar.finish_and_clear();
            return output.done(&format!("{pool} has no queues left"));
        }
        if !drain.draining {
            bar.finish_and_clear();
            return Err(failed(format!("{pool} is not drained any more")));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Shows what a drain has come to, a line for each move.
pub(crate) fn show(drain: &PoolDrain, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.line(drain);
    }
    let PoolDrain { draining, queues_left, more, moves } = drain;
    output.record(&serde_json::json!({
        "draining": draining,
        "queues_left": queues_left,
        "more": more,
    }))?;
    if !moves.is_empty() {
        let columns = ["project", "queue_name", "kind", "from", "to", "state", "rows", "began"];
        output.list(&columns, moves)?;
    }
    // In whole, which a cell of a table is not.
    for one in moves {
        if let Some(problem) = &one.problem {
            output.done(&format!("{}/{}: {problem}", one.project, one.queue_name))?;
        }
    }
    Ok(())
}

/// Moves a queue, and waits until it has arrived.
pub(crate) async fn move_queue(
    client: &Client,
    pool: &str,
    queue: QueueToMove,
    output: &Output,
) -> Result<(), Failure> {
    client.move_queue(pool, &queue).await?;
    let bar = progress(None, "rows copied");
    loop {
        let drain = client.drain(pool).await?;
        let is_own = |one: &&zaqar_client::QueueMove| {
            let is_project = queue.project.as_ref().is_none_or(|own| *own == one.project);
            one.queue_name == queue.queue_name && one.to.as_deref() == Some(pool) && is_project
        };
        let Some(found) = drain.moves.iter().find(is_own) else {
            bar.finish_and_clear();
            return output.done(&format!("{} is on its way to {pool}", queue.queue_name));
        };
        bar.set_position(found.rows);
        match found.state.as_str() {
            "moved" => {
                bar.finish_and_clear();
                let (name, rows) = (&queue.queue_name, counted(found.rows, "row"));
                return output.done(&format!("{name} moved to {pool}: {rows}"));
            }
            "failed" => {
                bar.finish_and_clear();
                let problem = found.problem.as_deref().unwrap_or_default();
                let name = &queue.queue_name;
                return Err(failed(format!("{name} was not moved: {problem}")));
            }
            _ => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

fn failed(why: String) -> Failure {
    Failure::Io(std::io::Error::other(why))
}
