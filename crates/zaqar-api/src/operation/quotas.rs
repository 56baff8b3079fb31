//! Operations on the quotas of single projects.

use serde_json::{Map, Value};
use zaqar_core::ProjectId;

use super::{Access, Declaration, Method, Operation, Resource, Rule, Run};
use crate::pools::page;
use crate::{Api, Context, Error, ManagedQuotas, ProjectQuotas, QueueRef};

impl Api {
    fn project_quotas(&self) -> Result<&dyn ProjectQuotas, Error> {
        let kept = self.inner.stack.layers().project_quotas.as_deref();
        kept.ok_or(Error::NoProjectQuotas)
    }
}

/// Lists the projects for which quotas are set, with what is set.
#[derive(Debug, Clone)]
pub struct ListQuotas {
    /// Begins behind this project, which need not exist.
    pub marker: Option<String>,
    /// Projects on the page, at most: as many as pools.
    pub limit: Option<i64>,
}

impl Operation for ListQuotas {
    type Answer = Vec<ManagedQuotas>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_quotas",
        rule: Rule::One("quotas:get_all"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/quotas",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        None
    }
}

impl Run for ListQuotas {
    async fn run(self, api: &Api, _: &Context) -> Result<Vec<ManagedQuotas>, Error> {
        let limit = page(self.limit, api.inner.limits.max_pools_per_page)?;
        api.project_quotas()?.list_quotas(self.marker.as_deref(), limit).await
    }
}

/// Shows the quotas that hold for a project.
#[derive(Debug, Clone)]
pub struct GetQuotas {
    /// The project.
    pub project: ProjectId,
}

impl Operation for GetQuotas {
    type Answer = Map<String, Value>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "get_quotas",
        rule: Rule::One("quotas:get"),
        about: Resource::Service,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/quotas/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.project.as_str())
    }
}

impl Run for GetQuotas {
    async fn run(self, api: &Api, _: &Context) -> Result<Map<String, Value>, Error> {
        api.project_quotas()?.quotas(&self.project).await
    }
}

/// Sets the quotas of a project, in the place of all that were set for it.
#[derive(Debug, Clone)]
pub struct SetQuotas {
    /// The project.
    pub project: ProjectId,
    /// Each by the name of its option.
    pub quotas: Map<String, Value>,
}

impl Operation for SetQuotas {
    type Answer = Map<String, Value>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "set_quotas",
        rule: Rule::One("quotas:update"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Put,
        path: "/v2/quotas/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.project.as_str())
    }
}

impl Run for SetQuotas {
    async fn run(self, api: &Api, _: &Context) -> Result<Map<String, Value>, Error> {
        api.project_quotas()?.set_quotas(&self.project, &self.quotas).await
    }
}

/// Forgets the quotas that were set for a project.
#[derive(Debug, Clone)]
pub struct UnsetQuotas {
    /// The project.
    pub project: ProjectId,
}

impl Operation for UnsetQuotas {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "unset_quotas",
        rule: Rule::One("quotas:delete"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Delete,
        path: "/v2/quotas/{id}",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn id(&self) -> Option<&str> {
        Some(self.project.as_str())
    }
}

impl Run for UnsetQuotas {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        api.project_quotas()?.unset_quotas(&self.project).await
    }
}
