//! Flavors. A flavor's row says that it exists; the pools' row says which pools belong to it.

use serde_json::{Map, json};
use zaqar_core::pools::{Error, Flavor, FlavorName, MAX_FLAVORS, PoolName};
use zaqar_core::{Kind, ProjectId};

use crate::pools::PoolSet;
use crate::{Registry, rows};

impl Registry {
    pub(crate) async fn list_flavors(
        &self,
        project: &ProjectId,
        after: Option<&FlavorName>,
        limit: usize,
    ) -> Result<Vec<Flavor>, Error> {
        let after = after.map(FlavorName::as_row_name);
        let project = rows::flavors(project)?;
        let rows = self.store().list(&project, Kind::Internal, after, limit).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let pools = self.read_pools().await?;
        Ok(rows.into_iter().map(|(name, _)| self.shown(name.into(), &pools)).collect())
    }

    pub(crate) async fn read_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
    ) -> Result<Flavor, Error> {
        self.check_flavor(project, name).await?;
        Ok(self.shown(name.clone(), &self.read_pools().await?))
    }

    /// Whether a project has a flavor.
    pub(crate) async fn check_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
    ) -> Result<(), Error> {
        let row = self.store().get(&rows::flavor(project, name)?).await?;
        row.map(drop).ok_or_else(|| Error::FlavorNotFound { name: name.clone() })
    }

    /// The pools first, so that a flavor never exists without pools.
    pub(crate) async fn write_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error> {
        let row = rows::flavor(project, name)?;
        let is_new = self.store().get(&row).await?.is_none();
        if is_new && self.store().count(&row.project, Kind::Internal).await? >= MAX_FLAVORS {
            return Err(Error::TooMany { what: "flavors of the project", max: MAX_FLAVORS });
        }
        let pools = self.set_flavor(name, pools).await?;
        let mut object = Map::new();
        object.insert("project".to_owned(), json!(project.as_str()));
        self.store().create(&row, &rows::row(rows::new_generation(), object)).await?;
        Ok(self.shown(name.clone(), &pools))
    }

    /// The row first, so that a queue created meanwhile with the flavor is rejected rather than
    /// placed in a pool without it.
    pub(crate) async fn remove_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
    ) -> Result<(), Error> {
        let key = rows::flavor(project, name)?;
        let Some(row) = self.store().get(&key).await? else { return Ok(()) };
        self.store().remove(&key, row.generation.incarnation).await?;
        self.set_flavor(name, &[]).await.map(drop)
    }

    fn shown(&self, name: FlavorName, pools: &PoolSet) -> Flavor {
        Flavor {
            capabilities: pools.capabilities(&name, self.connector()),
            pools: pools.of_flavor(Some(&name)).map(|pool| pool.name.clone()).collect(),
            name,
        }
    }
}
