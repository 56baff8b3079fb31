//! Operations on the service itself.

use bytes::Bytes;

use super::{Access, Declaration, Method, Operation, Resource, Rule, Run};
use crate::{Api, Context, Error, Health, QueueRef, home};

/// Checks that both stores are available.
#[derive(Debug, Clone, Copy)]
pub struct Ping;

impl Operation for Ping {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "ping",
        rule: Rule::One("ping:get"),
        about: Resource::Service,
        access: Access::Nothing,
        method: Method::Get,
        path: "/v2/ping",
        admin: false,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }
}

impl Run for Ping {
    async fn run(self, api: &Api, _: &Context) -> Result<(), Error> {
        api.ping().await
    }
}

/// Reads the home document of the REST API (draft-nottingham-json-home-03).
#[derive(Debug, Clone, Copy)]
pub struct ReadHome;

impl Operation for ReadHome {
    /// JSON text.
    type Answer = Bytes;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_home",
        rule: Rule::None,
        about: Resource::Service,
        access: Access::Nothing,
        method: Method::Get,
        path: "/v2/",
        admin: false,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }
}

impl Run for ReadHome {
    async fn run(self, api: &Api, _: &Context) -> Result<Bytes, Error> {
        Ok(home::home_document(api.has_pools()))
    }
}

/// Tests every operation on a temporary queue.
#[derive(Debug, Clone, Copy)]
pub struct CheckHealth;

impl Operation for CheckHealth {
    type Answer = Health;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "check_health",
        rule: Rule::One("health:get"),
        about: Resource::Service,
        access: Access::Write,
        method: Method::Get,
        path: "/v2/health",
        admin: true,
    };

    fn queue(&self) -> Option<&QueueRef> {
        None
    }
}

impl Run for CheckHealth {
    async fn run(self, api: &Api, context: &Context) -> Result<Health, Error> {
        api.health(context).await
    }
}
