//! Pools, flavors and the catalogue.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use zaqar_core::pools::{Error, Flavor, FlavorName, Pool, PoolChange, PoolName, Pools, masked};
use zaqar_core::storage::{self, ManagementStore, MessageStore};
use zaqar_core::{ProjectId, QueueKey};

use crate::place::Place;
use crate::pools::PoolSet;
use crate::{Connector, Purpose, rows};

/// The timeout for the store of a pool that is being registered.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Pools, flavors and the catalogue in a management store. Cost: one round trip to read, at least
/// two to change.
pub struct Registry {
    store: Arc<dyn ManagementStore>,
    connector: Arc<dyn Connector>,
    /// The configured message store.
    configured: Arc<dyn MessageStore>,
    has_virtual_pool: bool,
    /// The stores of the pools, once they are opened.
    members: OnceLock<Weak<dyn PoolHeads>>,
}

/// The heads of queues in the stores of the pools.
#[async_trait]
pub(crate) trait PoolHeads: Send + Sync {
    /// Whether a queue has no head at a place. A frozen head is one.
    ///
    /// # Errors
    /// [`storage::Error::Unavailable`] for a pool that is not registered; those of its store.
    async fn has_no_head(&self, place: &Place, key: &QueueKey) -> Result<bool, storage::Error>;
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// The registry of a deployment, with its rows in `store`. `configured` is the configured
    /// message store, which keeps the server's own queues.
    pub fn new(
        store: Arc<dyn ManagementStore>,
        configured: Arc<dyn MessageStore>,
        connector: Arc<dyn Connector>,
    ) -> Self {
        let members = OnceLock::new();
        Self { store, connector, configured, has_virtual_pool: false, members }
    }

    /// The configured store takes queues that no pool takes (`enable_virtual_pool`).
    #[must_use]
    pub fn with_virtual_pool(mut self) -> Self {
        self.has_virtual_pool = true;
        self
    }

    pub(crate) fn store(&self) -> &dyn ManagementStore {
        self.store.as_ref()
    }

    pub(crate) fn configured(&self) -> &Arc<dyn MessageStore> {
        &self.configured
    }

    pub(crate) fn shared_connector(&self) -> Arc<dyn Connector> {
        Arc::clone(&self.connector)
    }

    pub(crate) fn connector(&self) -> &dyn Connector {
        self.connector.as_ref()
    }

    /// Says where the stores of the pools are. The first call counts.
    pub(crate) fn set_members(&self, members: Weak<dyn PoolHeads>) {
        let _ = self.members.set(members);
    }

    /// The stores of the pools, if they are open.
    pub(crate) fn members(&self) -> Option<Arc<dyn PoolHeads>> {
        self.members.get().and_then(Weak::upgrade)
    }

    pub(crate) const fn has_virtual_pool(&self) -> bool {
        self.has_virtual_pool
    }

    /// All pools at present.
    pub(crate) async fn read_pools(&self) -> Result<PoolSet, zaqar_core::storage::Error> {
        let row = self.store.get(&rows::pools()?).await?;
        row.map_or_else(|| Ok(PoolSet::default()), |row| PoolSet::read(row.metadata.as_object()))
    }

    /// Makes exactly these the pools of a flavor, and returns all pools.
    pub(crate) async fn set_flavor(
        &self,
        flavor: &FlavorName,
        pools: &[PoolName],
    ) -> Result<PoolSet, Error> {
        let set = |set: &mut PoolSet| set.set_flavor(flavor, pools, self.connector());
        self.change_pools(set).await
    }

    /// Changes the pools in one step, and answers all of them then.
    pub(crate) async fn change_pools(
        &self,
        change: impl Fn(&mut PoolSet) -> Result<(), Error>,
    ) -> Result<PoolSet, Error> {
        rows::change(self.store(), &rows::pools()?, |object| {
            let before = PoolSet::read(object)?;
            let mut after = before.clone();
            change(&mut after)?;
            Ok(((after != before).then(|| after.write()), after))
        })
        .await
    }

    /// Checks that the store of a pool can be opened.
    async fn check(&self, pool: &Pool, purpose: Purpose) -> Result<(), Error> {
        let refused =
            |reason: String| Error::Unreachable { uri: masked(pool.uri.expose()), reason };
        let open = async {
            let store =
                self.connector.open(pool, purpose).await.map_err(|refusal| refusal.reason)?;
            let answered = store.ping().await;
            let closed = store.shut_down().await;
            answered.and(closed).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(CHECK_TIMEOUT, open).await {
            Ok(opened) => opened.map_err(refused),
            Err(_) => Err(refused(format!("no answer in {} s", CHECK_TIMEOUT.as_secs()))),
        }
    }

    /// Checks that a pool that is new or whose store changed is not the configured message store.
    fn check_location(&self, before: Option<&Pool>, after: &Pool) -> Result<(), Error> {
        match !is_unchanged(before, after) && self.connector.is_configured_store(after) {
            true => Err(Error::UriOfMessageStore),
            false => Ok(()),
        }
    }

    /// Checks a pool that is new or whose store changed.
    async fn check_changed(&self, before: Option<&Pool>, after: &Pool) -> Result<(), Error> {
        if is_unchanged(before, after) {
            return Ok(());
        }
        let keeps = |before: &Pool| self.connector.is_same_store(before, after);
        let is_known = before.is_some_and(keeps);
        self.check(after, if is_known { Purpose::CheckKnown } else { Purpose::CheckNew }).await
    }
}

/// Whether a pool has the URI and the options that it had before.
fn is_unchanged(before: Option<&Pool>, after: &Pool) -> bool {
    before.is_some_and(|before| before.uri == after.uri && before.options == after.options)
}

#[async_trait]
impl Pools for Registry {
    async fn pools(&self, after: Option<&str>, limit: usize) -> Result<Vec<Pool>, Error> {
        let pools = self.read_pools().await?;
        let is_behind = |pool: &&Pool| after.is_none_or(|after| pool.name.as_str() > after);
        Ok(pools.iter().filter(is_behind).take(limit).cloned().collect())
    }

    async fn pool(&self, name: &PoolName) -> Result<Pool, Error> {
        self.read_pools().await?.get(name).cloned()
    }

    async fn put_pool(&self, mut pool: Pool) -> Result<(), Error> {
        let pools = self.read_pools().await?;
        let before = pools.get(&pool.name).ok();
        if let Some(before) = before {
            unmask(before, &mut pool);
        }
        self.check_location(before, &pool)?;
        // Before a connection: that of a store that another pool has open may be refused.
        pools.clone().put(pool.clone(), self.connector())?;
        self.check_changed(before, &pool).await?;
        let put = |set: &mut PoolSet| set.put(pool.clone(), self.connector());
        self.change_pools(put).await.map(drop)
    }

    async fn change_pool(&self, name: &PoolName, change: PoolChange) -> Result<Pool, Error> {
        let changed = |before: &Pool| {
            let change = change.clone();
            let mut after = before.clone();
            after.uri = change.uri.unwrap_or(after.uri);
            after.weight = change.weight.unwrap_or(after.weight);
            after.flavor = change.flavor.unwrap_or(after.flavor);
            after.options = change.options.unwrap_or(after.options);
            unmask(before, &mut after);
            after
        };
        let pools = self.read_pools().await?;
        let before = pools.get(name)?;
        self.check_location(Some(before), &changed(before))?;
        pools.clone().put(changed(before), self.connector())?;
        self.check_changed(Some(before), &changed(before)).await?;
        let put = |set: &mut PoolSet| {
            let pool = changed(set.get(name)?);
            set.put(pool, self.connector())
        };
        self.change_pools(put).await?.get(name).cloned()
    }

    async fn delete_pool(&self, name: &PoolName) -> Result<(), Error> {
        self.change_pools(|set| set.remove(name)).await.map(drop)
    }

    async fn flavors(
        &self,
        project: &ProjectId,
        after: Option<&FlavorName>,
        limit: usize,
    ) -> Result<Vec<Flavor>, Error> {
        self.list_flavors(project, after, limit).await
    }

    async fn flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<Flavor, Error> {
        self.read_flavor(project, name).await
    }

    async fn put_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error> {
        self.write_flavor(project, name, pools).await
    }

    async fn change_flavor(
        &self,
        project: &ProjectId,
        name: &FlavorName,
        pools: &[PoolName],
    ) -> Result<Flavor, Error> {
        self.check_flavor(project, name).await?;
        self.write_flavor(project, name, pools).await
    }

    async fn delete_flavor(&self, project: &ProjectId, name: &FlavorName) -> Result<(), Error> {
        self.remove_flavor(project, name).await
    }

    async fn place(&self, key: &QueueKey, flavor: Option<&FlavorName>) -> Result<(), Error> {
        if let Some(flavor) = flavor {
            self.check_flavor(&key.project, flavor).await?;
        }
        Ok(self.find_place(key, flavor).await.map(drop)?)
    }
}

/// A client that sends back the masked URI means the stored one.
fn unmask(before: &Pool, after: &mut Pool) {
    if masked(before.uri.expose()) == *after.uri.expose() {
        after.uri = before.uri.clone();
    }
}
