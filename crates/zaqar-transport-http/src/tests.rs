//! Tests the transport over the store in memory, without a port. The black-box tests compare the
//! answers of every route with the original; these tests cover what only this transport decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};
use zaqar_api::Api;
use zaqar_core::limits::ClientIds;
use zaqar_core::{Limits, MemoryBounds, MemoryBudget, Secret};
use zaqar_storage_testkit::Memory;
use zaqar_transport::Turns;

use crate::{CorsRules, HttpService, Inner, Options, WithCors};

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

fn service_with(options: zaqar_api::Options) -> HttpService {
    let store = Arc::new(Memory::new());
    let options =
        zaqar_api::Options { signing_key: Some(Secret::new("test".to_owned())), ..options };
    let api = Api::new(store.clone(), store, options);
    HttpService::new(api, Options { admin: true, ..Options::default() })
}

fn service() -> HttpService {
    service_with(zaqar_api::Options::default())
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = body.into();
    Request::builder()
        .method(method)
        .uri(path)
        .header("Client-ID", CLIENT)
        .header("X-Project-ID", "p")
        .header(header::CONTENT_LENGTH, body.len())
        .body(Full::new(body))
        .unwrap()
}

async fn send(service: &HttpService, request: Request<Full<Bytes>>) -> (Response<()>, Bytes) {
    let response = service.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    (Response::from_parts(head, ()), body.collect().await.unwrap().to_bytes())
}

async fn call(service: &HttpService, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (head, body) = send(service, request(method, path, body.to_owned())).await;
    (head.status().as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn error(service: &HttpService, method: &str, path: &str, body: &str) -> (u16, String) {
    let (status, body) = call(service, method, path, body).await;
    (status, body["description"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn bodies_come_back_byte_for_byte() {
    let service = service();
    let body = r#"{"a" : [1.50, 1e400, "\u00e9\/"],  "b":{}}"#;
    let document = format!(r#"{{"messages": [{{"body": {body}, "ttl": 60}}]}}"#);
    let (status, _) = call(&service, "POST", "/v2/queues/q/messages", &document).await;
    assert_eq!(status, 201);
    let list = request("GET", "/v2/queues/q/messages?echo=true", "");
    let (_, page) = send(&service, list).await;
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(page.contains(body), "{page}");
}

/// Each limit of `[transport]`, with a request at the limit and one past it.
#[tokio::test]
async fn requests_at_a_limit_are_accepted_and_past_it_are_400() {
    let limits = Limits {
        max_queue_metadata: 40,
        max_messages_post_size: 100,
        client_ids: ClientIds::Strict,
        ..Limits::default()
    };
    let service = service_with(zaqar_api::Options { limits, ..zaqar_api::Options::default() });
    let message = |fields: &str| format!(r#"{{"messages":[{{"body":1{fields}}}]}}"#);
    let padded = |mut document: String, length: usize| {
        document.push_str(&" ".repeat(length - document.len()));
        document
    };
    let ids = |count: usize| vec!["0"; count].join(",");
    let messages = "/v2/queues/q/messages";
    let claims = "/v2/queues/q/claims";
    call(&service, "POST", messages, &message("")).await;
    let paths = [
        ("GET", "/v2/queues?limit=20".to_owned(), "/v2/queues?limit=21".to_owned(), "20"),
        ("GET", format!("{messages}?limit=20"), format!("{messages}?limit=21"), "20"),
        ("GET", format!("{messages}?limit=1"), format!("{messages}?limit=0"), "at least 1"),
        (
            "DELETE",
            format!("{messages}?ids={}", ids(20)),
            format!("{messages}?ids={}", ids(21)),
            "20",
        ),
        ("DELETE", format!("{messages}?pop=20"), format!("{messages}?pop=21"), "20"),
        ("POST", format!("{claims}?limit=20"), format!("{claims}?limit=21"), "20"),
        (
            "GET",
            "/v2/queues/q/subscriptions?limit=20".to_owned(),
            "/v2/queues/q/subscriptions?limit=21".to_owned(),
            "20",
        ),
    ];
    for (method, good, bad, says) in paths {
        let (status, _) = call(&service, method, &good, "").await;
        assert!(status < 300, "{method} {good}: {status}");
        let (status, text) = error(&service, method, &bad, "").await;
        assert!(status == 400 && text.contains(says), "{method} {bad}: {status} {text}");
    }
    let bodies = [
        ("POST", messages, message(r#","ttl":60"#), message(r#","ttl":59"#), "at least 60"),
        ("POST", messages, message(r#","ttl":1209600"#), message(r#","ttl":1209601"#), "1209600"),
        ("POST", messages, message(r#","delay":900"#), message(r#","delay":901"#), "900"),
        ("POST", messages, message(r#","delay":0"#), message(r#","delay":-1"#), "at least 0"),
        ("POST", claims, r#"{"ttl":60}"#.into(), r#"{"ttl":59}"#.into(), "at least 60"),
        ("POST", claims, r#"{"ttl":43200}"#.into(), r#"{"ttl":43201}"#.into(), "43200"),
        ("POST", claims, r#"{"grace":60}"#.into(), r#"{"grace":59}"#.into(), "at least 60"),
        ("POST", claims, r#"{"grace":43200}"#.into(), r#"{"grace":43201}"#.into(), "43200"),
        ("POST", messages, padded(message(""), 100), padded(message(""), 101), "Max size 100"),
        ("PUT", "/v2/queues/m", padded("{}".into(), 40), padded("{}".into(), 41), "Max size: 40"),
    ];
    for (method, path, good, bad, says) in bodies {
        let (status, answer) = call(&service, method, path, &good).await;
        assert!(status < 300, "{method} {path} {good}: {status} {answer}");
        let (status, text) = error(&service, method, path, &bad).await;
        assert!(status == 400 && text.contains(says), "{method} {path} {bad}: {status} {text}");
    }
}

/// As in the original, which checks only `ttl` here; what the description says of `grace`.
#[tokio::test]
async fn a_renewal_takes_any_grace() {
    let service = service();
    call(&service, "POST", "/v2/queues/q/messages", r#"{"messages":[{"body":1}]}"#).await;
    let (_, claimed) = call(&service, "POST", "/v2/queues/q/claims", "").await;
    let href = claimed["messages"][0]["href"].as_str().unwrap();
    let claim = format!("/v2/queues/q/claims/{}", href.split_once("claim_id=").unwrap().1);
    for grace in [i64::MIN, -1, 0, 59, 60, 43_200, 43_201, i64::MAX] {
        let body = format!(r#"{{"ttl":60,"grace":{grace}}}"#);
        assert_eq!(call(&service, "PATCH", &claim, &body).await.0, 204, "{grace}");
    }
    for wrong in [r#"{"ttl":59,"grace":60}"#, r#"{"ttl":60,"grace":1.5}"#, r#"{"grace":null}"#] {
        assert_eq!(call(&service, "PATCH", &claim, wrong).await.0, 400, "{wrong}");
    }
    // 60 s of the claim, and the longest grace after it.
    let (_, page) =
        call(&service, "GET", "/v2/queues/q/messages?include_claimed=true&echo=true", "").await;
    assert!(page["messages"][0]["ttl"].as_u64().unwrap() <= 43_270, "{page}");
    let description = include_str!("../../../docs/api/openapi.yaml");
    let (_, schema) = description.split_once("    ClaimRenewal:\n").unwrap();
    let (_, grace) = schema.split_once("        grace:\n").unwrap();
    let (grace, _) = grace.split_once("    Claimed:\n").unwrap();
    assert!(!grace.contains("minimum:") && !grace.contains("maximum:"), "{grace}");
}

#[tokio::test]
async fn a_deletion_must_name_its_claims_if_configured() {
    let limits = Limits { message_delete_with_claim_id: true, ..Limits::default() };
    let service = service_with(zaqar_api::Options { limits, ..zaqar_api::Options::default() });
    let messages = "/v2/queues/q/messages";
    let two = r#"{"messages":[{"body":1},{"body":2}]}"#;
    call(&service, "POST", messages, two).await;
    let (_, claimed) = call(&service, "POST", "/v2/queues/q/claims?limit=1", "").await;
    let href = claimed["messages"][0]["href"].as_str().unwrap().to_owned();
    let claim = href.split_once("claim_id=").unwrap().1.to_owned();
    let (_, page) =
        call(&service, "GET", &format!("{messages}?echo=true&include_claimed=true"), "").await;
    let id = |i: usize| page["messages"][i]["id"].as_str().unwrap().to_owned();
    let ids = format!("{messages}?ids={},{}", id(0), id(1));
    let (status, text) = error(&service, "DELETE", &ids, "").await;
    assert!(status == 400 && text.contains("claim_ids"), "{text}");
    let many = vec![claim.as_str(); 21].join(",");
    let (status, text) = error(&service, "DELETE", &format!("{ids}&claim_ids={many}"), "").await;
    assert!(status == 400 && text.contains("claim_ids parameter should not have more"), "{text}");
    let (status, _) = call(&service, "DELETE", &format!("{ids}&claim_ids={claim}"), "").await;
    assert_eq!(status, 204);
    let (_, left) = call(&service, "GET", &format!("{messages}?echo=true"), "").await;
    assert_eq!(left["messages"][0]["body"], json!(2), "a message of no named claim stays");
}

#[tokio::test]
async fn a_large_batch_is_answered_with_headers_that_clients_can_read() {
    let service = service();
    let post = |count: usize| {
        let messages = vec![r#"{"body":1}"#; count].join(",");
        request("POST", "/v2/queues/q/messages", format!("{{\"messages\":[{messages}]}}"))
    };
    let (head, _) = send(&service, post(2)).await;
    let location = head.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(location.matches(',').count(), 1, "{location}");
    assert_eq!(call(&service, "GET", &location, "").await.0, 200);
    let (head, body) = send(&service, post(20_000)).await;
    assert_eq!(head.headers()[header::LOCATION], "/v2/queues/q/messages");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["resources"].as_array().unwrap().len(), 20_000);
}

#[tokio::test]
async fn a_signed_request_is_allowed_only_what_it_covers_and_has_no_roles() {
    let service = service();
    let (_, url) = call(&service, "POST", "/v2/queues/q/share", "{}").await;
    let text = |name: &str| url[name].as_str().unwrap().to_owned();
    let signed = |method: &str, path: &str| {
        let mut request = request(method, path, "");
        let headers = request.headers_mut();
        headers.insert("URL-Signature", text("signature").parse().unwrap());
        headers.insert("URL-Expires", text("expires").parse().unwrap());
        headers.insert("URL-Methods", "GET".parse().unwrap());
        headers.insert("URL-Paths", "/v2/queues/q/messages".parse().unwrap());
        headers.insert("X-Roles", "admin".parse().unwrap());
        request
    };
    let status = async |request| send(&service, request).await.0.status().as_u16();
    assert_eq!(status(signed("GET", "/v2/queues/q/messages?echo=true")).await, 200);
    for (method, path) in [
        ("POST", "/v2/queues/q/messages"),
        ("GET", "/v2/queues/other/messages"),
        ("GET", "/v2/queues/q/messagesx"),
        ("GET", "/v2/queues/q"),
        ("GET", "/v2/health"),
        ("GET", "/"),
        ("GET", "/v2/topics/q/messages"),
    ] {
        assert_eq!(status(signed(method, path)).await, 404, "{method} {path}");
    }
    let mut empty = signed("GET", "/v2/queues/q/messages");
    empty.headers_mut().insert("URL-Signature", "".parse().unwrap());
    assert_eq!(status(empty).await, 404, "an empty signature is invalid");
}

#[tokio::test]
async fn health_is_for_administrators() {
    let service = service();
    assert_eq!(call(&service, "GET", "/v2/health", "").await.0, 403);
    let mut admin = request("GET", "/v2/health", "");
    admin.headers_mut().insert("X-Roles", "member, admin".parse().unwrap());
    let (head, body) = send(&service, admin).await;
    assert_eq!(head.status(), StatusCode::OK);
    let health: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(health["storage_reachable"], json!(true));
    for name in ["create_queue", "post_messages", "claim_messages", "delete_queue"] {
        assert_eq!(health["operation_status"][name]["succeeded"], json!(true), "{name}");
    }
    let public = HttpService::new(service.inner.api.clone(), Options::default());
    assert_eq!(call(&public, "GET", "/v2/health", "").await.0, 404);
}

#[tokio::test]
async fn every_resource_answers_head_and_options() {
    let service = service();
    let (head, body) = send(&service, request("HEAD", "/v2/queues/q/stats", "")).await;
    assert_eq!(head.status(), StatusCode::OK);
    let (_, got) = send(&service, request("GET", "/v2/queues/q/stats", "")).await;
    assert_eq!(head.headers()[header::CONTENT_LENGTH], got.len().to_string());
    assert!(body.is_empty());
    let (head, _) = send(&service, request("OPTIONS", "/v2/queues/q", "")).await;
    assert_eq!(head.headers()[header::ALLOW], "DELETE, GET, HEAD, PATCH, PUT, OPTIONS");
    let (head, _) = send(&service, request("POST", "/v2/queues/q", "")).await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(head.headers()[header::ALLOW], "DELETE, GET, HEAD, PATCH, PUT, OPTIONS");
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let service = service();
    for path in ["/", "/v2/queues", "/nothing", "/v2/queues/b@d"] {
        let (head, _) = send(&service, request("GET", path, "")).await;
        let id = head.headers()["x-openstack-request-id"].to_str().unwrap().to_owned();
        assert!(id.starts_with("req-") && id.len() == 40, "{path}: {id}");
    }
}

#[tokio::test]
async fn the_home_document_is_cacheable_and_names_every_resource() {
    let service = service();
    let (head, body) = send(&service, request("GET", "/v2/", "")).await;
    assert_eq!(head.headers()[header::CONTENT_TYPE], "application/json-home");
    assert_eq!(head.headers()[header::CACHE_CONTROL], "max-age=86400");
    let home: Value = serde_json::from_slice(&body).unwrap();
    for (relation, resource) in home["resources"].as_object().unwrap() {
        let template = resource["href-template"].as_str().or(resource["href"].as_str()).unwrap();
        let path = template.split("{?").next().unwrap().replace(['{', '}'], "");
        let (status, _) = call(&service, "OPTIONS", &path, "").await;
        let (head, _) = send(&service, request("OPTIONS", &path, "")).await;
        assert_eq!(status, 200);
        let allow = head.headers().get(header::ALLOW).map(|v| v.to_str().unwrap().to_owned());
        let allow = allow.unwrap_or_else(|| panic!("{relation} has no route: {path}"));
        for method in resource["hints"]["allow"].as_array().unwrap() {
            assert!(allow.contains(method.as_str().unwrap()), "{relation}: {method}");
        }
    }
}

#[tokio::test]
async fn cors_headers_are_sent_to_allowed_origins_only() {
    let rules = CorsRules {
        origins: vec!["https://a.example".to_owned()],
        credentials: true,
        expose_headers: vec!["X-OpenStack-Request-ID".to_owned()],
        max_age: Some(Duration::from_secs(600)),
        methods: vec!["GET".to_owned(), "PUT".to_owned()],
        headers: vec!["Client-ID".to_owned()],
    };
    let mut service = WithCors::new(service(), &rules);
    let mut preflight = request("OPTIONS", "/v2/queues/q", "");
    preflight.headers_mut().insert(header::ORIGIN, "https://a.example".parse().unwrap());
    preflight.headers_mut().insert(header::ACCESS_CONTROL_REQUEST_METHOD, "PUT".parse().unwrap());
    let answer = service.call(preflight).await.unwrap();
    let headers = answer.headers();
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    assert_eq!(headers[header::ACCESS_CONTROL_MAX_AGE], "600");
    assert!(headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().unwrap().contains("PUT"));
    let allowed = headers[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_lowercase();
    for name in ["client-id", "content-type", "accept", "cache-control", "pragma"] {
        assert!(allowed.split(',').any(|header| header.trim() == name), "{name}: {allowed}");
    }

    let mut other = request("GET", "/v2/queues", "");
    other.headers_mut().insert(header::ORIGIN, "https://b.example".parse().unwrap());
    let answer = service.call(other).await.unwrap();
    assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));

    let plain = service.call(request("OPTIONS", "/v2/queues/q", "")).await.unwrap();
    assert!(plain.headers().contains_key(header::ALLOW), "an OPTIONS that is no preflight");
}

fn budgeted(process: usize) -> (HttpService, MemoryBudget) {
    let memory = MemoryBudget::new(MemoryBounds { process, ..MemoryBounds::UNLIMITED });
    (service_with(zaqar_api::Options { memory: memory.clone(), ..Default::default() }), memory)
}

#[tokio::test]
async fn a_body_over_the_memory_budget_is_answered_503_that_says_why() {
    let (service, memory) = budgeted(1000);
    let body = format!(r#"{{"messages":[{{"body":"{}"}}]}}"#, "x".repeat(2000));
    let (head, answer) = send(&service, request("POST", "/v2/queues/q/messages", body)).await;
    assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head.headers()[header::RETRY_AFTER], "1");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let text = answer["description"].as_str().unwrap();
    assert!(text.contains("memory budget of the server is 1000 bytes"), "{text}");
    assert_eq!((memory.in_use(), memory.refused()), (0, 1));
}

/// Pages of subscriptions and queues may be as large as those of messages.
#[tokio::test]
async fn memory_for_a_page_is_reserved_before_it_is_read() {
    let (service, memory) = budgeted(400_000);
    for path in ["/v2/queues", "/v2/topics", "/v2/queues/q/subscriptions", "/v2/queues/q/messages"]
    {
        assert_eq!(error(&service, "GET", path, "").await.0, 503, "{path}");
    }
    assert_eq!(memory.in_use(), 0);
}

/// While another has the turn, a large page is not encoded.
#[tokio::test(start_paused = true)]
async fn pages_of_subscriptions_and_queues_are_encoded_in_turns() {
    let HttpService { inner } = service();
    let (api, options) = (inner.api.clone(), inner.options.clone());
    let inner = Inner { api, options, turns: Turns::new(1) };
    let service = HttpService { inner: Arc::new(inner) };
    let text = "x".repeat(40_000);
    for at in 0..4 {
        let body = format!(r#"{{"subscriber":"http://h/{at}","options":{{"x":"{text}"}}}}"#);
        assert_eq!(call(&service, "POST", "/v2/queues/q/subscriptions", &body).await.0, 201);
        let path = format!("/v2/queues/q{at}");
        assert_eq!(call(&service, "PUT", &path, &format!(r#"{{"x":"{text}"}}"#)).await.0, 201);
    }
    for path in ["/v2/queues/q/subscriptions", "/v2/queues?detailed=true"] {
        let other = service.inner.turns.next().await;
        let mut asked = std::pin::pin!(call(&service, "GET", path, ""));
        let early = tokio::time::timeout(Duration::from_secs(1), asked.as_mut()).await;
        assert!(early.is_err(), "{path}");
        drop(other);
        assert_eq!(asked.await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_response_is_charged_until_it_is_dropped_and_rejected_over_budget() {
    let (service, memory) = budgeted(600_000);
    let body = format!(r#"{{"messages":[{{"body":"{}"}}]}}"#, "x".repeat(2000));
    assert_eq!(call(&service, "POST", "/v2/queues/q/messages", &body).await.0, 201);
    // The store in memory keeps the posted body itself.
    let kept = memory.in_use();
    let list = || request("GET", "/v2/queues/q/messages?echo=true", "");
    let first = service.clone().oneshot(list()).await.unwrap();
    let charged = memory.in_use() - kept;
    assert!((2000..4000).contains(&charged), "{charged}");
    let others = memory.connection().try_acquire(500_000 - memory.in_use()).unwrap();
    let second = service.clone().oneshot(list()).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop((first, others));
    assert_eq!(memory.in_use(), kept);
    assert_eq!(service.clone().oneshot(list()).await.unwrap().status(), StatusCode::OK);
}

/// An error that repeats what is wrong with a document may be larger than the document.
#[tokio::test]
async fn an_error_is_charged_until_it_is_dropped_and_rejected_over_budget() {
    let (service, memory) = budgeted(600_000);
    let body = format!(r#"{{"messages":"{}"}}"#, r#"\""#.repeat(50_000));
    let post = || request("POST", "/v2/queues/q/messages", body.clone());
    let first = service.clone().oneshot(post()).await.unwrap();
    assert_eq!(first.status(), StatusCode::BAD_REQUEST);
    let charged = memory.in_use();
    assert!((200_000..201_000).contains(&charged), "{charged}");
    let others = memory.connection().try_acquire(200_000).unwrap();
    let second = service.clone().oneshot(post()).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop((first, others));
    assert_eq!(memory.in_use(), 0);
}

/// A post of many tiny messages, and what its list of messages occupies.
fn tiny_messages(count: usize) -> (String, usize) {
    let messages = vec![r#"{"body":0}"#; count].join(",");
    (format!(r#"{{"messages":[{messages}]}}"#), count * zaqar_api::PostedMessage::OCCUPIES)
}

#[tokio::test]
async fn the_decoded_messages_of_a_post_are_charged_until_they_are_stored() {
    // One that is scanned, and one that must be parsed.
    for ordinary in [true, false] {
        let (mut body, occupied) = tiny_messages(10_000);
        if !ordinary {
            body = body.replacen("body", "bod\\u0079", 1);
        }
        let room = body.len() + 64 * 1024;
        let (service, memory) = budgeted(occupied / 2 + room);
        let (head, answer) =
            send(&service, request("POST", "/v2/queues/q/messages", body.clone())).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE, "{ordinary}: {answer}");
        assert_eq!((memory.in_use(), memory.refused()), (0, 1));
        let (service, memory) = budgeted(occupied + room);
        let (status, answer) = call(&service, "POST", "/v2/queues/q/messages", &body).await;
        assert_eq!(status, 201, "{ordinary}: {answer}");
        assert!(memory.in_use() <= body.len() + 8 * 1024, "only what the store keeps");
    }
}

/// The messages are stored: a 503 would make the client post them again.
#[tokio::test]
async fn the_ids_of_a_post_are_answered_over_budget() {
    let (body, occupied) = tiny_messages(10_000);
    let bound = occupied + body.len() + 64 * 1024;
    let (service, memory) = budgeted(bound);
    // Others use all memory that is released when the messages are stored.
    let others = async {
        while memory.in_use() < occupied {
            tokio::task::yield_now().await;
        }
        let mut permits = Vec::new();
        for _ in 0..100_000 {
            let left = bound.saturating_sub(memory.in_use());
            permits.extend(memory.holder().try_acquire(left));
            tokio::task::yield_now().await;
        }
    };
    let (status, answer) = tokio::select! {
        answered = call(&service, "POST", "/v2/queues/q/messages", &body) => answered,
        () = others => panic!("it is not answered"),
    };
    assert_eq!(status, 201);
    assert_eq!(answer["resources"].as_array().map(Vec::len), Some(10_000));
}

#[tokio::test]
async fn one_project_cannot_use_up_the_memory_of_another() {
    let bounds = MemoryBounds { project: 15_000, ..MemoryBounds::UNLIMITED };
    let memory = MemoryBudget::new(bounds);
    let service = service_with(zaqar_api::Options { memory, ..Default::default() });
    let body = format!(r#"{{"messages":[{{"body":"{}"}}]}}"#, "x".repeat(6000));
    let post = |project: &str| {
        let mut post = request("POST", "/v2/queues/q/messages", body.clone());
        post.headers_mut().insert("X-Project-ID", project.parse().unwrap());
        post
    };
    // The store in memory keeps the first body, which leaves too little for the second.
    let statuses = [
        send(&service, post("a")).await.0.status().as_u16(),
        send(&service, post("a")).await.0.status().as_u16(),
        send(&service, post("b")).await.0.status().as_u16(),
    ];
    assert_eq!(statuses, [201, 503, 201]);
}

#[tokio::test]
async fn documents_other_than_messages_have_a_limit_of_their_own() {
    let limits = Limits { max_queue_metadata: 1 << 20, ..Limits::default() };
    let service = service_with(zaqar_api::Options { limits, ..Default::default() });
    let padded = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
    for path in ["claims", "purge", "subscriptions", "share"] {
        let path = format!("/v2/queues/q/{path}");
        let (_, text) = error(&service, "POST", &path, &padded(65_536)).await;
        assert!(!text.contains("too large"), "{path}: {text}");
        let (status, text) = error(&service, "POST", &path, &padded(65_537)).await;
        assert!(status == 400 && text.contains("Max size: 65536 bytes"), "{path}: {text}");
    }
    assert_eq!(call(&service, "PUT", "/v2/queues/q", &padded(100_000)).await.0, 201);
}

/// Each header with two equal values is an error.
#[tokio::test]
async fn headers_that_identify_the_caller_are_not_repeated() {
    let service = service();
    for name in [
        "X-Project-ID",
        "X-Roles",
        "Client-ID",
        "X-Auth-Token",
        "URL-Signature",
        "URL-Paths",
        "URL-Methods",
        "URL-Expires",
    ] {
        let mut twice = request("GET", "/v2/queues", "");
        let name: http::HeaderName = name.parse().unwrap();
        twice.headers_mut().remove(&name);
        twice.headers_mut().append(&name, "p".parse().unwrap());
        twice.headers_mut().append(&name, "p".parse().unwrap());
        let (head, body) = send(&service, twice).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = body["description"].as_str().unwrap().to_lowercase();
        assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{name}");
        let says = format!("the header {name} may be sent once; this request has it 2 times.");
        assert_eq!(text, says);
    }
}

#[tokio::test]
async fn project_ids_are_compared_byte_by_byte_or_rejected() {
    let service = service();
    let as_project = |method: &str, id: &[u8]| {
        let mut request = request(method, "/v2/queues/q", "");
        let id = http::HeaderValue::from_bytes(id).unwrap();
        request.headers_mut().insert("X-Project-ID", id);
        request
    };
    let put = async |id: &[u8]| {
        let (head, body) = send(&service, as_project("PUT", id)).await;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = body["description"].as_str().unwrap_or_default().to_owned();
        (head.status().as_u16(), text)
    };
    for not_utf8 in [&b"\xe9"[..], b"\xe8", b"a\xff"] {
        let (status, text) = put(not_utf8).await;
        assert_eq!(
            (status, text.as_str()),
            (400, "The value of the header X-Project-ID must be UTF-8.")
        );
    }
    for padded in ["a\u{a0}", "a\u{2003}", "\u{2003}a"] {
        let (status, text) = put(padded.as_bytes()).await;
        assert!(status == 400 && text.contains("neither start nor end with whitespace"), "{text}");
    }
    // Each is a project of its own, in which the queue is new.
    for id in ["a", "\u{fffd}", "\u{e9}", "e\u{301}", "a\u{a0}b", "a b", "A"] {
        assert_eq!(put(id.as_bytes()).await.0, 201, "{id:?}");
    }
}

#[tokio::test]
async fn roles_are_compared_without_unicode_folding() {
    let service = service();
    let mut request = request("GET", "/v2/health", "");
    let roles = http::HeaderValue::from_bytes("admin\u{a0}".as_bytes()).unwrap();
    request.headers_mut().insert("X-Roles", roles);
    assert_eq!(send(&service, request).await.0.status(), StatusCode::FORBIDDEN);
}
