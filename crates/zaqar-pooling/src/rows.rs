//! Rows of the management store that are not queues: their keys, and how they are changed.
//!
//! Rows of [`Kind::Internal`] in the management store belong to this crate, but for those of the
//! project `zaqar.quotas`, which are zaqar-auth's.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zaqar_core::pools::{Error, FlavorName};
use zaqar_core::storage::{self, ManagementStore, QueueRow};
use zaqar_core::{
    Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName, Version,
};

/// How often a change is repeated after a conflict.
pub(crate) const ATTEMPTS: usize = 32;

/// The project of the rows for transfers of dead letters.
const TRANSFERS: &str = "zaqar.letters";
/// Under which project the records of moves are.
const MOVES: &str = "zaqar.moves";

/// The row with all pools.
pub(crate) fn pools() -> Result<QueueKey, storage::Error> {
    key("zaqar.pools", "pools")
}

/// The project of a project's flavors. It has a digest, because an id of a project may have the
/// maximal length.
pub(crate) fn flavors(project: &ProjectId) -> Result<ProjectId, storage::Error> {
    internal_project(&format!("zaqar.flavors/{}", digest(project.as_str())))
}

/// The row of a flavor.
pub(crate) fn flavor(project: &ProjectId, name: &FlavorName) -> Result<QueueKey, storage::Error> {
    let (project, name) = (flavors(project)?, name.as_row_name().clone());
    Ok(QueueKey { project, kind: Kind::Internal, name })
}

/// The row that says which pool has a queue.
pub(crate) fn placement(key: &QueueKey) -> Result<QueueKey, storage::Error> {
    let (kind, project) = (key.kind.as_str(), digest(key.project.as_str()));
    let project = internal_project(&format!("zaqar.catalogue/{kind}/{project}"))?;
    Ok(QueueKey { project, kind: Kind::Internal, name: key.name.clone() })
}

/// The project of the rows for transfers of dead letters.
pub(crate) fn transfers() -> Result<ProjectId, storage::Error> {
    internal_project(TRANSFERS)
}

/// The row of the transfer between these.
pub(crate) fn transfer(names: &[&str]) -> Result<QueueKey, storage::Error> {
    key(TRANSFERS, &digest(&names.join("\n")))
}

/// Under which project the records of moves are.
pub(crate) fn moves() -> Result<ProjectId, storage::Error> {
    internal_project(MOVES)
}

/// The record of a queue's move.
pub(crate) fn record_of(key: &QueueKey) -> Result<QueueKey, storage::Error> {
    let names = [key.kind.as_str(), key.project.as_str(), key.name.as_str()];
    self::key(MOVES, &digest(&names.join("\n")))
}

fn key(project: &str, name: &str) -> Result<QueueKey, storage::Error> {
    let name = QueueName::new(name).map_err(storage::Error::failed)?;
    Ok(QueueKey { project: internal_project(project)?, kind: Kind::Internal, name })
}

fn internal_project(id: &str) -> Result<ProjectId, storage::Error> {
    ProjectId::new(id).map_err(storage::Error::failed)
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first generation of a new row.
pub(crate) fn new_generation() -> Generation {
    let incarnation = Incarnation::new(rand::random_range(1..=i64::MAX as u64));
    Generation { incarnation, version: Version::new(1) }
}

/// A row of this generation with an object.
pub(crate) fn row(generation: Generation, object: Map<String, Value>) -> QueueRow {
    QueueRow { generation, metadata: Metadata::new(object) }
}

/// The row that replaces `before`.
pub(crate) fn next(before: &QueueRow, object: Map<String, Value>) -> QueueRow {
    let version = before.generation.version.next();
    row(Generation { version, ..before.generation }, object)
}

/// Deletes a row if it still has this generation; `false` if it was changed.
pub(crate) async fn remove(
    store: &dyn ManagementStore,
    key: &QueueKey,
    generation: Generation,
) -> Result<bool, storage::Error> {
    // Two steps, because a deletion only compares the incarnation: the row is first replaced by an
    // empty one, which any change gives a new incarnation.
    let version = generation.version.next();
    let empty = row(Generation { version, ..generation }, Map::new());
    let is_unchanged = store.replace(key, generation, &empty).await?;
    if is_unchanged {
        store.remove(key, generation.incarnation).await?;
    }
    Ok(is_unchanged)
}

/// Changes a row, or creates it; repeated after a conflict. `change` gets the row's content and
/// returns the new one, or `None` to leave the row as it is.
pub(crate) async fn change<T>(
    store: &dyn ManagementStore,
    key: &QueueKey,
    mut change: impl FnMut(&Map<String, Value>) -> Result<(Option<Map<String, Value>>, T), Error>,
) -> Result<T, Error> {
    let nothing = Map::new();
    for _ in 0..ATTEMPTS {
        let before = store.get(key).await?;
        let object = before.as_ref().map_or(&nothing, |row| row.metadata.as_object());
        let (after, answer) = change(object)?;
        let Some(after) = after else { return Ok(answer) };
        let is_done = match &before {
            None => store.create(key, &row(new_generation(), after)).await?.is_none(),
            Some(before) => {
                // An empty row may be about to be deleted: see `remove`.
                let is_going = before.metadata.as_object().is_empty();
                let after =
                    if is_going { row(new_generation(), after) } else { next(before, after) };
                store.replace(key, before.generation, &after).await?
            }
        };
        if is_done {
            return Ok(answer);
        }
    }
    Err(Error::Contended)
}
