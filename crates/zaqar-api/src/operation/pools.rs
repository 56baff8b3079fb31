//! Operations on pools.

use zaqar_core::pools::{Pool, PoolChange, PoolDrain, PoolName};
use zaqar_core::{Kind, ProjectId, QueueName};

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

/// Begins to move all queues of a pool to the others of its flavor.
#[derive(Debug, Clone)]
pub struct DrainPool {
    /// The pool.
    pub pool: PoolName,
}

impl Operation for DrainPool {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "drain_pool",
        rule: Rule::One("pools:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/pools/{id}/drain",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.pool.as_str())
    }
}

impl Run for DrainPool {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        Ok(api.queue_moves()?.set_draining(&self.pool, true).await?)
    }
}

/// Moves no further queues of a pool to others.
#[derive(Debug, Clone)]
pub struct StopDrain {
    /// The pool.
    pub pool: PoolName,
}

impl Operation for StopDrain {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "stop_pool_drain",
        rule: Rule::One("pools:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Delete,
        path: "/v2/pools/{id}/drain",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.pool.as_str())
    }
}

impl Run for StopDrain {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        Ok(api.queue_moves()?.set_draining(&self.pool, false).await?)
    }
}

/// Shows what the drain of a pool has come to, and moves from the pool and to it.
#[derive(Debug, Clone)]
pub struct ReadDrain {
    /// The pool.
    pub pool: PoolName,
}

impl Operation for ReadDrain {
    type Answer = PoolDrain;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_pool_drain",
        rule: Rule::One("pools:get"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/pools/{id}/drain",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.pool.as_str())
    }
}

impl Run for ReadDrain {
    async fn run(self, api: &Api, _: &Context) -> Result<PoolDrain, Error> {
        Ok(api.queue_moves()?.drain(&self.pool).await?)
    }
}

/// Begins to move one queue to a pool.
#[derive(Debug, Clone)]
pub struct MoveQueue {
    /// The pool that it goes to.
    pub pool: PoolName,
    /// The queue.
    pub name: QueueName,
    /// Queue or topic.
    pub kind: Kind,
    /// Its project; the caller's where there is none.
    pub project: Option<ProjectId>,
}

impl Operation for MoveQueue {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "move_queue_to_pool",
        rule: Rule::One("pools:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/pools/{id}/queues",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.pool.as_str())
    }
}

impl Run for MoveQueue {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.move_queue(context, self).await
    }
}
