//! Operations on flavors of the caller's project.

use zaqar_core::pools::{Flavor, FlavorName, PoolName};

use super::{Access, Declaration, Method, Operation, Resource, Rule, Run};
use crate::{Api, Context, Error, QueueRef};

/// Lists the project's flavors by name.
#[derive(Debug, Clone)]
pub struct ListFlavors {
    /// Starts after this name, which need not exist.
    pub marker: Option<String>,
    /// Flavors on the page: 1 to `max_flavors_per_page`.
    pub limit: Option<i64>,
}

impl Operation for ListFlavors {
    type Answer = Vec<Flavor>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_flavors",
        rule: Rule::One("flavors:get_all"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/flavors",
        admin: false,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }
}

impl Run for ListFlavors {
    async fn run(self, api: &Api, context: &Context) -> Result<Vec<Flavor>, Error> {
        api.list_flavors(context, self).await
    }
}

/// Reads a flavor.
#[derive(Debug, Clone)]
pub struct GetFlavor {
    /// The flavor.
    pub name: FlavorName,
}

impl Operation for GetFlavor {
    type Answer = Flavor;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "get_flavor",
        rule: Rule::One("flavors:get"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/flavors/{id}",
        admin: false,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for GetFlavor {
    async fn run(self, api: &Api, context: &Context) -> Result<Flavor, Error> {
        Ok(api.pools()?.flavor(&context.project, &self.name).await?)
    }
}

/// Creates a flavor, or replaces the pools of an existing one.
#[derive(Debug, Clone)]
pub struct CreateFlavor {
    /// The flavor.
    pub name: FlavorName,
    /// Its pools, at least one.
    pub pools: Vec<PoolName>,
}

impl Operation for CreateFlavor {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "create_flavor",
        rule: Rule::One("flavors:create"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Put,
        path: "/v2/flavors/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for CreateFlavor {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.create_flavor(context, self).await
    }
}

/// Replaces the pools of a flavor and returns it.
#[derive(Debug, Clone)]
pub struct UpdateFlavor {
    /// The flavor.
    pub name: FlavorName,
    /// Its pools, at least one.
    pub pools: Vec<PoolName>,
}

impl Operation for UpdateFlavor {
    type Answer = Flavor;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "update_flavor",
        rule: Rule::One("flavors:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Patch,
        path: "/v2/flavors/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for UpdateFlavor {
    async fn run(self, api: &Api, context: &Context) -> Result<Flavor, Error> {
        api.update_flavor(context, self).await
    }
}

/// Deletes a flavor. A missing one is not an error.
#[derive(Debug, Clone)]
pub struct DeleteFlavor {
    /// The flavor.
    pub name: FlavorName,
}

impl Operation for DeleteFlavor {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_flavor",
        rule: Rule::One("flavors:delete"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Delete,
        path: "/v2/flavors/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

impl Run for DeleteFlavor {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        Ok(api.pools()?.delete_flavor(&context.project, &self.name).await?)
    }
}
