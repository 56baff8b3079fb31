//! Operations on pools.

use zaqar_core::pools::{Pool, PoolChange, PoolName};

use super::{Access, Declaration, Method, Operation, Resource, Rule, Run};
use crate::{Api, Context, Error, QueueRef};

/// Lists pools by name.
#[derive(Debug, Clone)]
pub struct ListPools {
    /// Starts after this name, which need not exist.
    pub marker: Option<String>,
    /// Pools on the page: 1 to `max_pools_per_page`.
    pub limit: Option<i64>,
}

impl Operation for ListPools {
    type Answer = Vec<Pool>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_pools",
        rule: Rule::One("pools:get_all"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/pools",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }
}

impl Run for ListPools {
    async fn run(self, api: &Api, _: &Context) -> Result<Vec<Pool>, Error> {
        api.list_pools(self).await
    }
}

/// Reads a pool.
#[derive(Debug, Clone)]
pub struct GetPool {
    /// The pool.
    pub name: PoolName,
}

impl Operation for GetPool {
    type Answer = Pool;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "get_pool",
        rule: Rule::One("pools:get"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/pools/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for GetPool {
    async fn run(self, api: &Api, _: &Context) -> Result<Pool, Error> {
        Ok(api.pools()?.pool(&self.name).await?)
    }
}

/// Registers a pool, or replaces an existing one.
#[derive(Debug, Clone)]
pub struct CreatePool {
    /// The pool.
    pub pool: Pool,
}

impl Operation for CreatePool {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "create_pool",
        rule: Rule::One("pools:create"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Put,
        path: "/v2/pools/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.pool.name.as_str())
    }
}

impl Run for CreatePool {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        Ok(api.pools()?.put_pool(self.pool).await?)
    }
}

/// Changes a pool and returns it.
#[derive(Debug, Clone)]
pub struct UpdatePool {
    /// The pool.
    pub name: PoolName,
    /// What to change.
    pub change: PoolChange,
}

impl Operation for UpdatePool {
    type Answer = Pool;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "update_pool",
        rule: Rule::One("pools:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Patch,
        path: "/v2/pools/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for UpdatePool {
    async fn run(self, api: &Api, _: &Context) -> Result<Pool, Error> {
        Ok(api.pools()?.change_pool(&self.name, self.change).await?)
    }
}

/// Removes a pool. A missing one is not an error.
#[derive(Debug, Clone)]
pub struct DeletePool {
    /// The pool.
    pub name: PoolName,
}

impl Operation for DeletePool {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_pool",
        rule: Rule::One("pools:delete"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Delete,
        path: "/v2/pools/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for DeletePool {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        Ok(api.pools()?.delete_pool(&self.name).await?)
    }
}
