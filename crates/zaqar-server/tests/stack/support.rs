//! A server's two wires in memory, and every operation in the form of each wire.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;
use zaqar_api::{
    Admission, Answered, Api, Asked, Context, DECLARATIONS, Declaration, Error, Facts, Layers,
    Metrics, Pipelines, Policy, Quota, Rejection, Stage,
};
use zaqar_auth::Quotas;
use zaqar_core::pools::{Capability, Pool};
use zaqar_core::storage::MessageStore;
use zaqar_core::{Kind, QueueKey, Secret, SystemClock};
use zaqar_pooling::{Connector, Purpose, Refusal, Registry};
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::HttpService;
use zaqar_transport_ws::WsService;

pub(crate) const CLIENT: &str = "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1";
pub(crate) const ID: &str = "00000000000000010000000000000001";

/// The calls of layers, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn add(&self, layer: &str, context: &Context, facts: &Facts<'_>) {
        let (project, client) = (&context.project, &context.client);
        let known = facts.declaration.name;
        let path = format!("{} {}", facts.declaration.method.as_str(), facts.path());
        let (rule, resource, amount) = (facts.rule(), facts.resource(), facts.amount);
        let (access, messages) = (facts.declaration.access, amount.messages);
        self.0.lock().unwrap().push(format!(
            "{layer}: {known} {rule:?} {resource:?} {access:?} {path} {messages} {project} {client:?}"
        ));
    }

    /// Layers that record their calls.
    pub(crate) fn layers(&self) -> Layers {
        let stage: Arc<dyn Stage> = Arc::new(self.clone());
        Layers {
            metrics: Some(Arc::new(self.clone())),
            tracer: None,
            authenticator: None,
            quota: Some(Arc::new(self.clone())),
            project_quotas: None,
            policy: Some(Arc::new(self.clone())),
            subscribers: None,
            pipelines: all(&stage),
        }
    }
}

/// One stage in every pipeline.
pub(crate) fn all(stage: &Arc<dyn Stage>) -> Pipelines {
    let one = || vec![Arc::clone(stage)];
    Pipelines { queue: one(), topic: one(), message: one(), claim: one(), subscription: one() }
}

impl Metrics for Log {
    fn record(
        &self,
        _: &Context,
        declaration: &'static Declaration,
        _: Kind,
        _: Option<&Error>,
        _: std::time::Duration,
    ) {
        assert!(DECLARATIONS.contains(&declaration), "{declaration:?} is not in the list of all");
        self.0.lock().unwrap().push(format!("metrics: {}", declaration.name));
    }
}

#[async_trait]
impl Quota for Log {
    async fn admit(
        &self,
        context: &Context,
        facts: &Facts<'_>,
    ) -> Result<Option<Box<dyn Admission>>, Error> {
        self.add("quota", context, facts);
        Ok(None)
    }

    async fn admit_new_queue(&self, _: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error> {
        Ok(None)
    }
}

impl Policy for Log {
    fn check(&self, context: &Context, rule: &'static str, facts: &Facts<'_>) -> Result<(), Error> {
        assert_eq!(Some(rule), facts.rule());
        self.add("policy", context, facts);
        Ok(())
    }
}

#[async_trait]
impl Stage for Log {
    async fn before(&self, context: &Context, asked: &mut Asked<'_>) -> Result<(), Rejection> {
        self.add("before", context, &asked.facts());
        Ok(())
    }

    async fn after(&self, context: &Context, answered: &mut Answered<'_>) {
        self.add("after", context, &answered.facts());
    }
}

/// The log of all tests of this process.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// One subscriber for all tests, installed before the first span: one that is installed while
    /// another test creates the same span for the first time could miss it.
    pub(crate) fn of_this_process() -> &'static Self {
        static LINES: LazyLock<Lines> = LazyLock::new(|| {
            let lines = Lines::default();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::WARN)
                .with_writer(lines.clone())
                .init();
            lines
        });
        &LINES
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Opens in-memory pools.
struct InMemory;

#[async_trait]
impl Connector for InMemory {
    async fn open(&self, _: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        Ok(Arc::new(Memory::new()))
    }

    fn capabilities(&self, _: &Pool) -> BTreeSet<Capability> {
        BTreeSet::from([Capability::Fifo, Capability::Claims])
    }

    fn is_same_store(&self, _: &Pool, _: &Pool) -> bool {
        false
    }

    fn is_configured_store(&self, _: &Pool) -> bool {
        false
    }
}

/// Both wires over one API.
pub(crate) struct Wires {
    pub(crate) http: HttpService,
    ws: WsService,
}

impl Wires {
    pub(crate) fn new(layers: Layers) -> Self {
        Self::on(Arc::new(Memory::new()), zaqar_api::Options { layers, ..Default::default() })
    }

    pub(crate) fn on(store: Arc<Memory>, options: zaqar_api::Options) -> Self {
        Lines::of_this_process();
        let signing_key = Some(Secret::new("test".to_owned()));
        let registry =
            Registry::new(store.clone(), store.clone(), Arc::new(InMemory)).with_virtual_pool();
        let pools = Some(Arc::new(registry) as _);
        let clock = Arc::new(SystemClock);
        let limits = zaqar_auth::quotas::Options { is_managed: true, ..Default::default() };
        let quotas = Quotas::load(&limits, store.clone(), store.clone(), clock).unwrap();
        let project_quotas = Some(Arc::new(quotas) as _);
        let layers = Layers { project_quotas, ..options.layers };
        let options = zaqar_api::Options { signing_key, pools, layers, ..options };
        let api = Api::new(store.clone(), store, options);
        let http = zaqar_transport_http::Options { admin: true, ..Default::default() };
        let ws = zaqar_transport_ws::Options { admin: true, ..Default::default() };
        Self { http: HttpService::new(api.clone(), http), ws: WsService::new(api, ws) }
    }

    pub(crate) async fn connect(&self) -> Socket {
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let service = self.ws.clone();
        tokio::spawn(async move { service.serve(theirs, CancellationToken::new()).await });
        Socket(tokio_tungstenite::client_async("ws://localhost/", ours).await.unwrap().0)
    }

    /// Status and body of an HTTP response.
    pub(crate) async fn http(&self, operation: &Operation, more: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Request::builder()
            .method(operation.method)
            .uri(operation.path.replace("ID", ID))
            .header("Client-ID", CLIENT)
            .header("X-Project-ID", "p");
        if operation.method == "PATCH" {
            let patch = "application/openstack-messaging-v2.0-json-patch";
            request = request.header("Content-Type", patch);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let body = operation.document.to_owned();
        let request = request.header("Content-Length", body.len());
        let response =
            self.http.clone().oneshot(request.body(Full::new(Bytes::from(body))).unwrap());
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// The client's end of a WebSocket connection.
pub(crate) struct Socket(WebSocketStream<DuplexStream>);

impl Socket {
    pub(crate) async fn next(&mut self) -> Value {
        let message = self.0.next().await.unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// Status and body of an answer.
    pub(crate) async fn ask(
        &mut self,
        action: &str,
        body: &str,
        more: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut headers = json!({ "Client-ID": CLIENT, "X-Project-ID": "p" });
        for (name, value) in more {
            headers[name] = (*value).into();
        }
        let body: Value = serde_json::from_str(&body.replace("ID", ID)).unwrap();
        let request = json!({ "action": action, "headers": headers, "body": body });
        self.0.send(Message::text(request.to_string())).await.unwrap();
        let answer = self.next().await;
        let status = answer["headers"]["status"].as_u64().unwrap();
        (u16::try_from(status).unwrap(), answer["body"].clone())
    }
}

/// An operation in the form of both wires.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) document: &'static str,
    /// Action and body; `None` if only HTTP has it.
    pub(crate) frame: Option<(&'static str, &'static str)>,
}

const fn operation(
    name: &'static str,
    method: &'static str,
    path: &'static str,
    document: &'static str,
    frame: Option<(&'static str, &'static str)>,
) -> Operation {
    Operation { name, method, path, document, frame }
}

const POOL: &str = r#"{"uri":"memory:n","weight":1}"#;
const NAMED: &str = r#"{"queue_name":"q"}"#;
const POST: &str = r#"{"messages":[{"body":1},{"body":2}]}"#;
const SUBSCRIPTION: &str = r#"{"queue_name":"q","subscription_id":"ID"}"#;

/// Every operation that a client can request.
#[rustfmt::skip]
pub(crate) const OPERATIONS: &[Operation] = &[
    operation("ping", "GET", "/v2/ping", "", Some(("ping_node", "{}"))),
    operation("read_home", "GET", "/v2/", "", Some(("get_home_doc", "{}"))),
    operation("check_health", "GET", "/v2/health", "", Some(("check_node_health", "{}"))),
    operation("list_pools", "GET", "/v2/pools", "", Some(("pool_list", "{}"))),
    operation("create_pool", "PUT", "/v2/pools/n", POOL, Some(("pool_create", r#"{"pool_name":"n","uri":"memory:n","weight":1}"#))),
    operation("get_pool", "GET", "/v2/pools/n", "", Some(("pool_get", r#"{"pool_name":"n"}"#))),
    operation("update_pool", "PATCH", "/v2/pools/n", r#"{"weight":2}"#, Some(("pool_update", r#"{"pool_name":"n","weight":2}"#))),
    operation("drain_pool", "POST", "/v2/pools/n/drain", "", Some(("pool_drain_create", r#"{"pool_name":"n"}"#))),
    operation("read_pool_drain", "GET", "/v2/pools/n/drain", "", Some(("pool_drain_get", r#"{"pool_name":"n"}"#))),
    operation("stop_pool_drain", "DELETE", "/v2/pools/n/drain", "", Some(("pool_drain_delete", r#"{"pool_name":"n"}"#))),
    operation("move_queue_to_pool", "POST", "/v2/pools/n/queues", NAMED, Some(("pool_queue_create", r#"{"pool_name":"n","queue_name":"q"}"#))),
    operation("list_flavors", "GET", "/v2/flavors", "", Some(("flavor_list", "{}"))),
    operation("create_flavor", "PUT", "/v2/flavors/f", r#"{"pool_list":["n"]}"#, Some(("flavor_create", r#"{"flavor_name":"f","pool_list":["n"]}"#))),
    operation("get_flavor", "GET", "/v2/flavors/f", "", Some(("flavor_get", r#"{"flavor_name":"f"}"#))),
    operation("update_flavor", "PATCH", "/v2/flavors/f", r#"{"pool_list":["n"]}"#, Some(("flavor_update", r#"{"flavor_name":"f","pool_list":["n"]}"#))),
    operation("delete_flavor", "DELETE", "/v2/flavors/f", "", Some(("flavor_delete", r#"{"flavor_name":"f"}"#))),
    operation("delete_pool", "DELETE", "/v2/pools/n", "", Some(("pool_delete", r#"{"pool_name":"n"}"#))),
    operation("set_quotas", "PUT", "/v2/quotas/p", r#"{"max_queues":9}"#, Some(("quota_update", r#"{"project":"p","quotas":{"max_queues":9}}"#))),
    operation("list_quotas", "GET", "/v2/quotas", "", Some(("quota_list", "{}"))),
    operation("get_quotas", "GET", "/v2/quotas/p", "", Some(("quota_get", r#"{"project":"p"}"#))),
    operation("unset_quotas", "DELETE", "/v2/quotas/p", "", Some(("quota_delete", r#"{"project":"p"}"#))),
    operation("list_queues", "GET", "/v2/queues", "", Some(("queue_list", "{}"))),
    operation("list_queues", "GET", "/v2/topics", "", None),
    operation("create_queue", "PUT", "/v2/queues/q", "{}", Some(("queue_create", NAMED))),
    operation("create_queue", "PUT", "/v2/topics/q", "{}", None),
    operation("get_queue", "GET", "/v2/queues/q", "", Some(("queue_get", NAMED))),
    operation("get_queue", "GET", "/v2/topics/q", "", None),
    operation("patch_queue", "PATCH", "/v2/queues/q", "[]", None),
    operation("patch_queue", "PATCH", "/v2/topics/q", "[]", None),
    operation("get_queue_stats", "GET", "/v2/queues/q/stats", "", Some(("queue_get_stats", NAMED))),
    operation("get_queue_stats", "GET", "/v2/topics/q/stats", "", None),
    operation("purge_queue", "POST", "/v2/queues/q/purge", "", Some(("queue_purge", NAMED))),
    operation("purge_queue", "POST", "/v2/topics/q/purge", "", None),
    operation("share_queue", "POST", "/v2/queues/q/share", r#"{"paths":["messages"]}"#, None),
    operation("post_messages", "POST", "/v2/queues/q/messages", POST, Some(("message_post", r#"{"queue_name":"q","messages":[{"body":1},{"body":2}]}"#))),
    operation("post_messages", "POST", "/v2/topics/q/messages", POST, None),
    operation("check_post_size", "POST", "/v2/queues/q/messages", r#"{"messages":[{}]}"#, Some(("message_post", r#"{"queue_name":"q","messages":[{}]}"#))),
    operation("list_messages", "GET", "/v2/queues/q/messages", "", Some(("message_list", NAMED))),
    operation("list_messages", "GET", "/v2/topics/q/messages", "", None),
    operation("read_message", "GET", "/v2/queues/q/messages/ID", "", Some(("message_get", r#"{"queue_name":"q","message_id":"ID"}"#))),
    operation("read_messages", "GET", "/v2/queues/q/messages?ids=ID", "", Some(("message_get_many", r#"{"queue_name":"q","message_ids":["ID"]}"#))),
    operation("delete_message", "DELETE", "/v2/queues/q/messages/ID", "", Some(("message_delete", r#"{"queue_name":"q","message_id":"ID"}"#))),
    operation("delete_messages", "DELETE", "/v2/queues/q/messages?ids=ID", "", Some(("message_delete_many", r#"{"queue_name":"q","message_ids":["ID"]}"#))),
    operation("pop_messages", "DELETE", "/v2/queues/q/messages?pop=1", "", Some(("message_delete_many", r#"{"queue_name":"q","pop":1}"#))),
    operation("create_claim", "POST", "/v2/queues/q/claims", "{}", Some(("claim_create", NAMED))),
    operation("read_claim", "GET", "/v2/queues/q/claims/ID", "", Some(("claim_get", r#"{"queue_name":"q","claim_id":"ID"}"#))),
    operation("renew_claim", "PATCH", "/v2/queues/q/claims/ID", r#"{"ttl":60}"#, Some(("claim_update", r#"{"queue_name":"q","claim_id":"ID","ttl":60}"#))),
    operation("release_claim", "DELETE", "/v2/queues/q/claims/ID", "", Some(("claim_delete", r#"{"queue_name":"q","claim_id":"ID"}"#))),
    operation("create_subscription", "POST", "/v2/queues/q/subscriptions", r#"{"subscriber":"http://h/x"}"#, Some(("subscription_create", r#"{"queue_name":"q","subscriber":"http://h/x"}"#))),
    operation("list_subscriptions", "GET", "/v2/queues/q/subscriptions", "", Some(("subscription_list", NAMED))),
    operation("read_subscription", "GET", "/v2/queues/q/subscriptions/ID", "", Some(("subscription_get", SUBSCRIPTION))),
    operation("change_subscription", "PATCH", "/v2/queues/q/subscriptions/ID", r#"{"ttl":60}"#, None),
    operation("confirm_subscription", "PUT", "/v2/queues/q/subscriptions/ID/confirm", r#"{"confirmed":true}"#, None),
    operation("rotate_secret", "POST", "/v2/queues/q/subscriptions/ID/secret", r#"{"grace":60}"#, None),
    operation("list_deliveries", "GET", "/v2/queues/q/subscriptions/ID/deliveries", "", None),
    operation("read_delivery", "GET", "/v2/queues/q/subscriptions/ID/deliveries/8", "", None),
    operation("retry_delivery", "POST", "/v2/queues/q/subscriptions/ID/deliveries/8/retry", "", None),
    operation("check_subscriber", "GET", "/v2/queues/q/subscriptions/ID/health", "", None),
    operation("resume_subscription", "POST", "/v2/topics/q/subscriptions/ID/resume", "", None),
    operation("recover_deliveries", "POST", "/v2/queues/q/subscriptions/ID/recover", r#"{"since":"2026-01-01T00:00:00Z"}"#, None),
    operation("read_recovery", "GET", "/v2/queues/q/subscriptions/ID/recover/8", "", None),
    operation("cancel_recovery", "DELETE", "/v2/topics/q/subscriptions/ID/recover/8", "", None),
    operation("test_subscription", "POST", "/v2/queues/q/subscriptions/ID/test", r#"{"body":1}"#, None),
    operation("delete_subscription", "DELETE", "/v2/queues/q/subscriptions/ID", "", Some(("subscription_delete", SUBSCRIPTION))),
    operation("delete_queue", "DELETE", "/v2/queues/q", "", Some(("queue_delete", NAMED))),
    operation("delete_queue", "DELETE", "/v2/topics/q", "", None),
];
