//! Quotas that administrators set for single projects: one row of the management store, which every
//! server reads every 2 s.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};
use zaqar_api::{Error, ManagedQuotas, Part};
use zaqar_core::storage::{Error as StorageError, ManagementStore, QueueRow};
use zaqar_core::{
    Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName, Version,
};

use super::limits::{Own, read_document};

/// How often the row is read.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// Projects with quotas of their own, at most; a file takes more.
pub(super) const MAX_PROJECTS: usize = 1000;
/// How often a change is repeated when others change the row meanwhile.
const ATTEMPTS: usize = 32;

/// What was set for all projects.
#[derive(Debug, Default)]
pub(super) struct Managed {
    projects: HashMap<ProjectId, Own>,
    generation: Option<Generation>,
}

impl Managed {
    pub(super) const fn projects(&self) -> &HashMap<ProjectId, Own> {
        &self.projects
    }

    /// The projects behind `after` by their ids, with what was set.
    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> Vec<ManagedQuotas> {
        let is_behind = |project: &&ProjectId| after.is_none_or(|after| project.as_str() > after);
        let mut projects: Vec<_> = self.projects.keys().filter(is_behind).collect();
        projects.sort_unstable();
        projects.truncate(limit);
        let own = |project: &ProjectId| {
            let set = self.projects[project].iter();
            set.map(|(limit, value)| (limit.option().to_owned(), Value::from(*value))).collect()
        };
        let row =
            |project: &ProjectId| ManagedQuotas { project: project.clone(), quotas: own(project) };
        projects.into_iter().map(row).collect()
    }

    /// Which state of the row it is.
    pub(super) const fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Whether it is an earlier state than another one.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        match (self.generation, other.generation) {
            (None, other) => other.is_some(),
            (Some(own), Some(other)) => {
                own.incarnation == other.incarnation && own.version < other.version
            }
            (Some(_), None) => false,
        }
    }

    /// What a row has. A member that is none of ours is left out: a newer server may have written
    /// it.
    fn of(row: &QueueRow) -> Self {
        let read = |(project, own): (&String, &Value)| {
            let known = own.as_object()?.iter().filter_map(|(option, value)| {
                let one = Map::from_iter([(option.clone(), value.clone())]);
                read_document(&one).ok()?.pop()
            });
            Some((ProjectId::new(project).ok()?, known.collect()))
        };
        let projects = row.metadata.as_object().iter().filter_map(read).collect();
        Self { projects, generation: Some(row.generation) }
    }
}

/// Reads the row; `None` if it is in a known state.
pub(super) async fn load(
    store: &dyn ManagementStore,
    known: Option<Generation>,
) -> Result<Option<Managed>, StorageError> {
    let row = store.get(&key()?).await?;
    let is_known = row.as_ref().map(|row| row.generation) == known;
    Ok((!is_known).then(|| row.as_ref().map(Managed::of).unwrap_or_default()))
}

/// Puts what was set for a project in the place of what was set before, or forgets it. Nothing
/// is written where there is nothing to forget.
pub(super) async fn change(
    store: &dyn ManagementStore,
    project: &ProjectId,
    own: Option<&Map<String, Value>>,
) -> Result<Managed, Error> {
    let key = key()?;
    for _ in 0..ATTEMPTS {
        let before = store.get(&key).await?;
        let mut object =
            before.as_ref().map_or_else(Map::new, |row| row.metadata.as_object().clone());
        let name = project.as_str();
        match own {
            Some(own) => object.insert(name.to_owned(), Value::Object(own.clone())),
            None if object.contains_key(name) => object.shift_remove(name),
            None => return Ok(before.as_ref().map(Managed::of).unwrap_or_default()),
        };
        if object.len() > MAX_PROJECTS {
            let reason = format!("At most {MAX_PROJECTS} projects have quotas of their own.");
            return Err(Error::Invalid { part: Part::Body, reason });
        }
        let generation = before.as_ref().map_or_else(first, |row| Generation {
            version: row.generation.version.next(),
            ..row.generation
        });
        let after = QueueRow { generation, metadata: Metadata::new(object) };
        let is_done = match &before {
            None => store.create(&key, &after).await?.is_none(),
            Some(before) => store.replace(&key, before.generation, &after).await?,
        };
        if is_done {
            return Ok(Managed::of(&after));
        }
    }
    Err(Error::Contended)
}

/// Of no project: no request can name it.
fn key() -> Result<QueueKey, StorageError> {
    let project = ProjectId::new("zaqar.quotas").map_err(StorageError::failed)?;
    let name = QueueName::new("projects").map_err(StorageError::failed)?;
    Ok(QueueKey { project, kind: Kind::Internal, name })
}

fn first() -> Generation {
    let incarnation = Incarnation::new(rand::random_range(1..=i64::MAX as u64));
    Generation { incarnation, version: Version::new(1) }
}
