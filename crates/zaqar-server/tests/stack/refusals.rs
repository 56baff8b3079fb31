//! What a layer rejects is rejected on both wires.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Semaphore;
use zaqar_api::{
    Admission, Asked, AuthRequest, Authenticator, Context, DECLARATIONS, Error, Facts, Identity,
    Layers, Policy, PushMessages, Quota, Rejection, Remembered, Resource, Stage, TokenError,
};
use zaqar_core::{OperationLimit, ProjectId, QueueKey, Timestamp};
use zaqar_storage_testkit::Memory;

use crate::support::{OPERATIONS, Operation, Socket, Wires, all};

/// Rejects everything while it is closed, and counts the pushes that it rejected.
struct Gate {
    is_closed: AtomicBool,
    pushes: Semaphore,
}

impl Gate {
    fn new(is_closed: bool) -> Arc<Self> {
        let is_closed = AtomicBool::new(is_closed);
        Arc::new(Self { is_closed, pushes: Semaphore::new(0) })
    }

    fn layers(self: &Arc<Self>) -> Layers {
        let stage: Arc<dyn Stage> = self.clone();
        Layers { pipelines: all(&stage), ..Layers::default() }
    }
}

#[async_trait]
impl Stage for Gate {
    async fn before(&self, _: &Context, asked: &mut Asked<'_>) -> Result<(), Rejection> {
        if let Some(post) = asked.operation_mut::<zaqar_api::PostMessages>() {
            post.notify = true;
        }
        if !self.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if asked.operation::<PushMessages>().is_some() {
            self.pushes.add_permits(1);
        }
        Err(Rejection::Forbidden("closed".to_owned()))
    }
}

/// Sends an operation over both wires, checks the statuses and returns the bodies.
async fn both(
    wires: &Wires,
    socket: &mut Socket,
    operation: &Operation,
    more: &[(&str, &str)],
    statuses: (u16, u16),
) -> Vec<Value> {
    let (status, body) = wires.http(operation, more).await;
    assert_eq!(status, statuses.0, "{} {}: {body}", operation.method, operation.path);
    let mut bodies = vec![body];
    if let Some((action, body)) = operation.frame {
        let (status, body) = socket.ask(action, body, more).await;
        assert_eq!(status, statuses.1, "{action}: {body}");
        bodies.push(body);
    }
    bodies
}

fn named(name: &str) -> &'static Operation {
    OPERATIONS.iter().find(|operation| operation.name == name).unwrap()
}

#[tokio::test]
async fn a_stage_that_rejects_everything_rejects_everything() {
    let wires = Wires::new(Gate::new(true).layers());
    let mut socket = wires.connect().await;
    // Requests about the service itself have no pipeline.
    let is_of_service = |name: &str| {
        let declared = DECLARATIONS.iter().find(|declared| declared.name == name).unwrap();
        declared.about == Resource::Service
    };
    for operation in OPERATIONS.iter().filter(|one| !is_of_service(one.name)) {
        for body in both(&wires, &mut socket, operation, &[], (403, 403)).await {
            assert!(body.to_string().contains("closed"), "{}: {body}", operation.name);
        }
    }
}

#[tokio::test]
async fn signed_urls_pass_the_stages_too() {
    let gate = Gate::new(false);
    let wires = Wires::new(gate.layers());
    let mut socket = wires.connect().await;
    let (status, shared) = wires.http(named("share_queue"), &[]).await;
    assert_eq!(status, 200);
    let text = |name: &str| shared[name].as_str().unwrap().to_owned();
    let (signature, expires) = (text("signature"), text("expires"));
    let signed = [
        ("URL-Signature", signature.as_str()),
        ("URL-Expires", &expires),
        ("URL-Methods", "GET"),
        ("URL-Paths", "/v2/queues/q/messages"),
    ];
    both(&wires, &mut socket, named("list_messages"), &signed, (200, 200)).await;
    both(&wires, &mut socket, named("read_message"), &signed, (404, 404)).await;
    // For other operations the answer is the same as if they did not exist.
    for name in ["post_messages", "get_queue", "create_claim", "list_queues", "read_home", "ping"] {
        both(&wires, &mut socket, named(name), &signed, (404, 403)).await;
    }
    gate.is_closed.store(true, Ordering::Relaxed);
    for body in both(&wires, &mut socket, named("list_messages"), &signed, (403, 403)).await {
        assert!(body.to_string().contains("closed"), "{body}");
    }
}

#[tokio::test]
async fn pushes_pass_the_stages_too() {
    let store = Arc::new(Memory::new());
    let gate = Gate::new(false);
    let options = |layers| zaqar_api::Options { layers, ..Default::default() };
    let wires = Wires::on(store.clone(), options(gate.layers()));
    let mut socket = wires.connect().await;
    let (status, _) = socket.ask("subscription_create", r#"{"queue_name":"q"}"#, &[]).await;
    assert_eq!(status, 201);
    gate.is_closed.store(true, Ordering::Relaxed);

    // Another server of the deployment, without the stage.
    let other = Wires::on(store, options(Layers::default()));
    let mut poster = other.connect().await;
    let post = |body: u8| format!(r#"{{"queue_name":"q","messages":[{{"body":{body}}}]}}"#);
    assert_eq!(poster.ask("message_post", &post(1), &[]).await.0, 201);
    let rejected = tokio::time::timeout(std::time::Duration::from_secs(60), gate.pushes.acquire());
    rejected.await.expect("the push passes the stage").unwrap().forget();
    gate.is_closed.store(false, Ordering::Relaxed);
    assert_eq!(poster.ask("message_post", &post(2), &[]).await.0, 201);
    assert_eq!(socket.next().await["body"], 2, "the first message was rejected");
}

/// Allows only one rule.
struct OnlyLists;

impl Policy for OnlyLists {
    fn check(&self, _: &Context, rule: &'static str, _: &Facts<'_>) -> Result<(), Error> {
        if rule == "messages:get_all" { Ok(()) } else { Err(Error::Forbidden) }
    }
}

#[tokio::test]
async fn a_policy_decides_by_the_names_of_the_rules() {
    let policy = Some(Arc::new(OnlyLists) as Arc<dyn Policy>);
    let wires = Wires::new(Layers { policy, ..Layers::default() });
    let mut socket = wires.connect().await;
    both(&wires, &mut socket, named("list_messages"), &[], (200, 200)).await;
    both(&wires, &mut socket, named("read_home"), &[], (200, 200)).await;
    // If there is a policy, it alone checks roles.
    let admin = [("X-Roles", "admin")];
    for name in ["read_message", "post_messages", "create_queue", "check_health", "ping"] {
        both(&wires, &mut socket, named(name), &admin, (403, 403)).await;
    }
}

#[tokio::test]
async fn health_is_for_administrators_without_a_policy() {
    let wires = Wires::new(Layers::default());
    let mut socket = wires.connect().await;
    both(&wires, &mut socket, named("check_health"), &[("X-Roles", "admin")], (200, 200)).await;
    both(&wires, &mut socket, named("check_health"), &[("X-Roles", "member")], (403, 403)).await;
}

/// Admits two messages at a time.
struct TwoMessages;

#[async_trait]
impl Quota for TwoMessages {
    async fn admit(
        &self,
        _: &Context,
        facts: &Facts<'_>,
    ) -> Result<Option<Box<dyn Admission>>, Error> {
        if facts.amount.messages < 2 {
            return Ok(None);
        }
        Err(Rejection::Forbidden("the quota is 1 message".to_owned()).into())
    }

    async fn admit_new_queue(&self, _: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_quota_sees_how_much_is_posted() {
    let quota = Some(Arc::new(TwoMessages) as Arc<dyn Quota>);
    let wires = Wires::new(Layers { quota, ..Layers::default() });
    let mut socket = wires.connect().await;
    for body in both(&wires, &mut socket, named("post_messages"), &[], (403, 403)).await {
        assert!(body.to_string().contains("the quota is 1 message"), "{body}");
    }
    both(&wires, &mut socket, named("list_messages"), &[], (200, 200)).await;
}

/// Accepts only the token `p`, for the project of that name.
struct OneToken;

#[async_trait]
impl Authenticator for OneToken {
    async fn authenticate(&self, auth: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
        if auth.user_token != Some("p") {
            return Err(TokenError::Invalid);
        }
        let (project, roles) = (ProjectId::new("p").unwrap(), vec!["admin".to_owned()]);
        Ok(Arc::new(Identity::new(project, "u", roles, Timestamp::MAX)))
    }

    fn remembered(&self, _: AuthRequest<'_>) -> Option<Remembered> {
        None
    }

    fn challenge(&self) -> String {
        "Keystone uri=\"http://keystone\"".to_owned()
    }
}

#[tokio::test]
async fn a_token_is_required_where_tokens_are_checked() {
    let authenticator = Some(Arc::new(OneToken) as Arc<dyn Authenticator>);
    let wires = Wires::new(Layers { authenticator, ..Layers::default() });
    let mut socket = wires.connect().await;
    for operation in OPERATIONS {
        let claimed = [("X-Roles", "admin")];
        both(&wires, &mut socket, operation, &claimed, (401, 403)).await;
        let (status, _) = wires.http(operation, &[("X-Auth-Token", "wrong")]).await;
        assert_eq!(status, 401, "{}", operation.name);
    }
    let token = [("X-Auth-Token", "p")];
    assert_eq!(socket.ask("authenticate", "{}", &token).await.0, 200);
    both(&wires, &mut socket, named("list_messages"), &token, (200, 200)).await;
    both(&wires, &mut socket, named("check_health"), &token, (200, 200)).await;
}

#[tokio::test]
async fn above_the_limit_of_operations_in_progress_both_wires_answer_503() {
    let operations = OperationLimit::new(1);
    let options = zaqar_api::Options { operations: operations.clone(), ..Default::default() };
    let wires = Wires::on(Arc::new(Memory::new()), options);
    let mut socket = wires.connect().await;
    both(&wires, &mut socket, named("list_messages"), &[], (200, 200)).await;
    let another = operations.begin().unwrap();
    for operation in OPERATIONS {
        both(&wires, &mut socket, operation, &[("X-Roles", "admin")], (503, 503)).await;
    }
    drop(another);
    both(&wires, &mut socket, named("list_messages"), &[], (200, 200)).await;
}
