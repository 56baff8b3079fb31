//! All pools of a deployment as one value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zaqar_core::pools::{Capability, Error, FlavorName, MAX_POOLS, Pool, PoolName};
use zaqar_core::{QueueKey, Secret, storage};

use crate::Connector;

/// The member of a pool's value that says whether it is drained.
const DRAINING: &str = "draining";

/// All pools by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PoolSet {
    pools: BTreeMap<PoolName, Pool>,
    /// Those that are drained.
    draining: BTreeSet<PoolName>,
}

impl PoolSet {
    /// Reads what [`PoolSet::write`] wrote.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Self, storage::Error> {
        let pools = object.iter().map(|(name, value)| {
            read_pool(name, value)
                .ok_or_else(|| storage::Error::failed(format!("the row of pool {name} is damaged")))
        });
        let pools: Vec<Pool> = pools.collect::<Result<_, _>>()?;
        let is_draining = |pool: &&Pool| {
            let value = object.get(pool.name.as_str()).and_then(|value| value.get(DRAINING));
            value.is_some_and(|value| value == true)
        };
        let draining = pools.iter().filter(is_draining).map(|pool| pool.name.clone()).collect();
        let pools = pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
        Ok(Self { pools, draining })
    }

    /// The stored form.
    pub(crate) fn write(&self) -> Map<String, Value> {
        let written = |pool: &Pool| {
            json!({
                "uri": pool.uri.expose(),
                "weight": pool.weight,
                "flavor": pool.flavor.as_ref().map(FlavorName::as_str),
                "options": pool.options,
                DRAINING: self.draining.contains(&pool.name),
            })
        };
        self.pools.values().map(|pool| (pool.name.to_string(), written(pool))).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    pub(crate) fn get(&self, name: &PoolName) -> Result<&Pool, Error> {
        self.pools.get(name).ok_or_else(|| Error::PoolNotFound { name: name.clone() })
    }

    /// The pools of a flavor, or those without a flavor.
    pub(crate) fn of_flavor(&self, flavor: Option<&FlavorName>) -> impl Iterator<Item = &Pool> {
        self.iter().filter(move |pool| pool.flavor.as_ref() == flavor)
    }

    /// Adds or replaces a pool.
    pub(crate) fn put(&mut self, pool: Pool, connector: &dyn Connector) -> Result<(), Error> {
        let others = || self.iter().filter(|other| other.name != pool.name);
        if others().any(|other| connector.is_same_store(other, &pool)) {
            return Err(Error::UriInUse);
        }
        if others().count() >= MAX_POOLS {
            return Err(Error::TooMany { what: "pools", max: MAX_POOLS as u64 });
        }
        let capabilities = connector.capabilities(&pool);
        let is_of_flavor = |other: &&Pool| pool.flavor.is_some() && other.flavor == pool.flavor;
        let is_other = |other: &Pool| connector.capabilities(other) != capabilities;
        if others().filter(is_of_flavor).any(is_other) {
            return Err(Error::CapabilitiesMismatch);
        }
        self.pools.insert(pool.name.clone(), pool);
        Ok(())
    }

    /// Deletes a pool.
    pub(crate) fn remove(&mut self, name: &PoolName) -> Result<(), Error> {
        let Some(pool) = self.pools.get(name) else { return Ok(()) };
        if let Some(flavor) = &pool.flavor
            && self.of_flavor(Some(flavor)).count() == 1
        {
            return Err(Error::LastOfFlavor { flavor: flavor.clone() });
        }
        self.pools.remove(name);
        self.draining.remove(name);
        Ok(())
    }

    /// Those that are drained.
    pub(crate) const fn draining(&self) -> &BTreeSet<PoolName> {
        &self.draining
    }

    /// Begins or stops to drain a pool.
    pub(crate) fn set_draining(&mut self, name: &PoolName, is_draining: bool) -> Result<(), Error> {
        self.get(name)?;
        if is_draining {
            self.draining.insert(name.clone());
        } else {
            self.draining.remove(name);
        }
        Ok(())
    }

    /// Makes exactly these pools the pools of a flavor.
    pub(crate) fn set_flavor(
        &mut self,
        flavor: &FlavorName,
        names: &[PoolName],
        connector: &dyn Connector,
    ) -> Result<(), Error> {
        let pools = names.iter().map(|name| self.get(name)).collect::<Result<Vec<_>, _>>()?;
        let mut capabilities = pools.iter().map(|pool| connector.capabilities(pool));
        if let Some(first) = capabilities.next()
            && capabilities.any(|other| other != first)
        {
            return Err(Error::CapabilitiesMismatch);
        }
        for pool in self.pools.values_mut() {
            if names.contains(&pool.name) {
                pool.flavor = Some(flavor.clone());
            } else if pool.flavor.as_ref() == Some(flavor) {
                pool.flavor = None;
            }
        }
        Ok(())
    }

    /// The capabilities that all pools of a flavor have.
    pub(crate) fn capabilities(
        &self,
        flavor: &FlavorName,
        connector: &dyn Connector,
    ) -> BTreeSet<Capability> {
        let pools = self.of_flavor(Some(flavor)).map(|pool| connector.capabilities(pool));
        pools.reduce(|all, one| &all & &one).unwrap_or_default()
    }

    /// Chooses a pool of a flavor, or one without a flavor, by weight; `None` if no weight is above
    /// 0.
    ///
    /// Weighted rendezvous hashing: a queue that is deleted and created again goes to the same pool
    /// while the pools are the same, so that a server which remembers the old place is right. One
    /// that is drained counts as one of weight 0.
    pub(crate) fn choose(&self, key: &QueueKey, flavor: Option<&FlavorName>) -> Option<&Pool> {
        let is_taking = |pool: &&Pool| pool.weight > 0 && !self.draining.contains(&pool.name);
        let pools = self.of_flavor(flavor).filter(is_taking);
        pools.min_by(|one, other| distance(key, one).total_cmp(&distance(key, other)))
    }
}

/// Exponentially distributed with the pool's weight as its rate, so that each pool is the nearest
/// in proportion to its weight.
fn distance(key: &QueueKey, pool: &Pool) -> f64 {
    let names = [key.project.as_str(), key.kind.as_str(), key.name.as_str(), pool.name.as_str()];
    let digest = Sha256::digest(names.join("\n"));
    let bits = digest.iter().take(6).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let unit = (bits as f64 + 0.5) / (1_u64 << 48) as f64;
    -unit.ln() / f64::from(pool.weight)
}

fn read_pool(name: &str, value: &Value) -> Option<Pool> {
    let flavor = value.get("flavor")?;
    let flavor =
        if flavor.is_null() { None } else { Some(FlavorName::new(flavor.as_str()?).ok()?) };
    Some(Pool {
        name: PoolName::new(name).ok()?,
        uri: Secret::new(value.get("uri")?.as_str()?.to_owned()),
        weight: u32::try_from(value.get("weight")?.as_u64()?).ok()?,
        flavor,
        options: value.get("options")?.as_object()?.clone(),
    })
}
