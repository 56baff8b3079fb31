//! Operations on claims.

use zaqar_core::ClaimId;
use zaqar_core::storage::Claim;

use super::{
    Access, Declaration, Messages, Method, Operation, Resource, Rule, Run, addresses_id,
    addresses_queue,
};
use crate::{Api, Context, Error, QueueRef};

const CLAIM_PATH: &str = "/v2/{kind}s/{queue}/claims/{id}";

/// Claims the first free messages; `None` if there are none.
#[derive(Debug, Clone)]
pub struct CreateClaim {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_claim_or_pop`.
    pub limit: Option<i64>,
    /// Seconds the claim lives; `default_claim_ttl` where absent.
    pub ttl: Option<i64>,
    /// Seconds its messages outlive it; `default_claim_grace` where absent.
    pub grace: Option<i64>,
}

impl Operation for CreateClaim {
    type Answer = Option<(ClaimId, Messages)>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "create_claim",
        rule: Rule::One("claims:create"),
        about: Resource::Claim,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/claims",
        admin: false,
    };

    addresses_queue!();
}

impl Run for CreateClaim {
    async fn run(self, api: &Api, context: &Context) -> Result<Self::Answer, Error> {
        api.create_claim(context, self).await
    }
}

/// Reads a claim and its messages.
#[derive(Debug, Clone)]
pub struct ReadClaim {
    /// The queue.
    pub queue: QueueRef,
    /// The claim.
    pub id: String,
}

impl Operation for ReadClaim {
    type Answer = Claim;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_claim",
        rule: Rule::One("claims:get"),
        about: Resource::Claim,
        access: Access::Read,
        method: Method::Get,
        path: CLAIM_PATH,
        admin: false,
    };

    addresses_queue!();
    addresses_id!();
}

impl Run for ReadClaim {
    async fn run(self, api: &Api, context: &Context) -> Result<Claim, Error> {
        api.read_claim(context, self).await
    }
}

/// Renews a claim.
#[derive(Debug, Clone)]
pub struct RenewClaim {
    /// The queue.
    pub queue: QueueRef,
    /// The claim.
    pub id: String,
    /// Seconds it lives from now; `default_claim_ttl` where absent.
    pub ttl: Option<i64>,
    /// Seconds its messages outlive it, brought within 0 and `max_claim_grace`;
    /// `default_claim_grace` where absent.
    pub grace: Option<i64>,
}

impl Operation for RenewClaim {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "renew_claim",
        rule: Rule::One("claims:update"),
        about: Resource::Claim,
        access: Access::Write,
        method: Method::Patch,
        path: CLAIM_PATH,
        admin: false,
    };

    addresses_queue!();
    addresses_id!();
}

impl Run for RenewClaim {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.renew_claim(context, self).await
    }
}

/// Releases a claim: its messages are free again.
#[derive(Debug, Clone)]
pub struct ReleaseClaim {
    /// The queue.
    pub queue: QueueRef,
    /// The claim.
    pub id: String,
}

impl Operation for ReleaseClaim {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "release_claim",
        rule: Rule::One("claims:delete"),
        about: Resource::Claim,
        access: Access::Write,
        method: Method::Delete,
        path: CLAIM_PATH,
        admin: false,
    };

    addresses_queue!();
    addresses_id!();
}

impl Run for ReleaseClaim {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.release_claim(context, ReadClaim { queue: self.queue, id: self.id }).await
    }
}
