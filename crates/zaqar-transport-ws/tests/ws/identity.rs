//! The identity of a connection: tokens, their expiry, and signed URLs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use zaqar_api::{
    Api, AuthRequest, Authentication, Authenticator, Context, Identity, Layers, QueueRef,
    Remembered, RequestLimit, Share, TokenError,
};
use zaqar_core::{
    ClientId, Clock, Kind, ManualClock, ProjectId, QueueName, SystemClock, Timestamp,
};
use zaqar_storage_testkit::Memory;
use zaqar_transport_ws::Options;

use crate::support::{BOTH, CLIENT, Encoding, LONG, Peer, Setup, api_with, split};

/// Accepts `project` for a day, or `project/seconds`, or either behind `user@`; `down` is a
/// Keystone that cannot be reached.
struct TestAuthenticator;

#[async_trait]
impl Authenticator for TestAuthenticator {
    async fn authenticate(&self, auth: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
        let token = auth.user_token.unwrap_or_default();
        let (user, token) = token.split_once('@').unwrap_or(("u", token));
        let (project, seconds) = token.split_once('/').unwrap_or((token, "86400"));
        match project {
            "bad" => return Err(TokenError::Invalid),
            "unscoped" => return Err(TokenError::NoProject),
            "down" => return Err(TokenError::Unavailable { source: "no Keystone".into() }),
            _ => {}
        }
        let expires: Timestamp = SystemClock.now().plus_secs(seconds.parse().unwrap());
        let project = ProjectId::new(project).unwrap();
        let identity = Identity::new(project.clone(), user, vec!["admin".to_owned()], expires);
        let is_limited = project.as_str() == "limited";
        let requests = is_limited.then(|| Arc::new(ListsOnly) as Arc<dyn RequestLimit>);
        Ok(Arc::new(Identity { requests, ..identity }))
    }

    fn remembered(&self, _: AuthRequest<'_>) -> Option<Remembered> {
        None
    }

    fn challenge(&self) -> String {
        "Keystone uri=\"http://keystone\"".to_owned()
    }
}

/// The limit of a token that may only list the messages of `q`.
#[derive(Debug)]
struct ListsOnly;

impl RequestLimit for ListsOnly {
    fn allows(&self, method: &str, path: &str) -> bool {
        method == "GET" && path == "/v2/queues/q/messages"
    }
}

fn test_layers() -> Layers {
    Layers { authenticator: Some(Arc::new(TestAuthenticator)), ..Layers::default() }
}

fn setup() -> Setup {
    let options = Options { admin: true, ..Options::default() };
    Setup::with(api_with(test_layers()), options)
}

async fn authenticate(peer: &mut Peer, token: &str) -> Value {
    let headers = json!({ "X-Auth-Token": token, "Client-ID": CLIENT, "X-Project-ID": "p" });
    let request = json!({ "action": "authenticate", "headers": headers });
    peer.send_raw(peer.encoding.message(&request)).await;
    peer.next().await
}

#[tokio::test]
async fn requests_before_authentication_are_403() {
    let setup = setup();
    for encoding in BOTH {
        let peer = &mut setup.connect_as(encoding).await;
        let refused = (403, json!({ "error": "Not authentified." }));
        assert_eq!(peer.ask("queue_create", json!({ "queue_name": "q" })).await, refused);
        assert_eq!(peer.ask("ping_node", json!({})).await, refused);
        for (token, status) in [("bad", 401), ("down", 503), ("p/0", 401)] {
            let answer = authenticate(peer, token).await;
            let failed = (status, json!({ "error": "Authentication failed." }));
            assert_eq!(split(answer), failed, "{token}");
            assert_eq!(peer.ask("queue_list", json!({})).await, refused);
        }
        let answer = authenticate(peer, "p").await;
        assert_eq!(
            answer,
            json!({
                "request": { "action": "authenticate", "body": {}, "headers": {}, "api": "v2" },
                "body": { "message": "Authentified." },
                "headers": { "status": 200 },
            })
        );
        assert_eq!(peer.ask("queue_list", json!({})).await, (200, json!({ "queues": [] })));
        // A rejected token leaves the earlier identity in force.
        assert_eq!(split(authenticate(peer, "bad").await).0, 401);
        assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    }
}

#[tokio::test]
async fn requests_for_another_project_are_403() {
    let setup = setup();
    let peer = &mut setup.connect().await;
    authenticate(peer, "p").await;
    assert_eq!(peer.ask("queue_create", json!({ "queue_name": "q" })).await.0, 201);
    peer.headers["X-Project-ID"] = "other".into();
    let refused = (403, json!({ "error": "Not authenticated." }));
    assert_eq!(peer.ask("queue_list", json!({})).await, refused);
    assert_eq!(split(authenticate(peer, "other").await).0, 200);
    assert_eq!(peer.ask("queue_list", json!({})).await, (200, json!({ "queues": [] })));
    // Health belongs to no project, and roles come from the token, not from the request.
    peer.headers = json!({ "X-Roles": "nobody" });
    assert_eq!(peer.ask("check_node_health", json!({})).await.0, 200);
}

#[tokio::test]
async fn a_token_of_another_user_or_project_ends_the_subscriptions() {
    let setup = setup();
    let (producer, peer) = (&mut setup.connect().await, &mut setup.connect().await);
    authenticate(producer, "p").await;
    let secrets = json!({ "queue_name": "secrets" });
    let post =
        |body: &str| json!({ "queue_name": "secrets", "messages": [{ "body": body, "ttl": 100 }] });
    for other in ["other", "v@p", "v@other"] {
        authenticate(peer, "p").await;
        peer.headers["X-Project-ID"] = "p".into();
        assert_eq!(peer.ask("subscription_create", secrets.clone()).await.0, 201, "{other}");
        // A renewal ends none.
        authenticate(peer, "p/3600").await;
        assert_eq!(peer.ask("subscription_create", secrets.clone()).await.0, 409);
        producer.ask("message_post", post("read")).await;
        assert_eq!(peer.next().await["body"], "read");

        assert_eq!(split(authenticate(peer, other).await).0, 200);
        let listed = async {
            while producer.ask("subscription_list", secrets.clone()).await.1["subscriptions"]
                != json!([])
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, listed).await.expect("the subscription ends");
        producer.ask("message_post", post("unread")).await;
        // Its pushes come as before; this one would be after any of the post above.
        peer.headers["X-Project-ID"] = if other == "v@p" { "p".into() } else { "other".into() };
        let body = json!({ "queue_name": "own" });
        assert_eq!(peer.ask("subscription_create", body).await.0, 201);
        let body = json!({ "queue_name": "own", "messages": [{ "body": "own", "ttl": 100 }] });
        peer.send("message_post", body).await;
        let (answer, push) = (split(peer.next().await), peer.next().await);
        assert_eq!((answer.0, &push["body"]), (201, &json!("own")));
    }
}

#[tokio::test]
async fn a_token_without_a_project_is_rejected() {
    let setup = setup();
    let peer = &mut setup.connect().await;
    let refused = (403, json!({ "error": "Not authenticated." }));
    assert_eq!(split(authenticate(peer, "unscoped").await), refused);
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 403);
}

#[tokio::test]
async fn each_request_is_checked_against_the_limit_of_its_token() {
    let setup = setup();
    let peer = &mut setup.connect().await;
    peer.headers["X-Project-ID"] = "limited".into();
    assert_eq!(split(authenticate(peer, "limited").await).0, 200);
    let refused = |name: &str| (403, json!({ "error": name }));
    let not_allowed = refused("You are not authorized to complete this action.");
    for (action, queue) in [("message_list", "other"), ("queue_create", "q"), ("queue_list", "q")] {
        let asked = peer.ask(action, json!({ "queue_name": queue })).await;
        assert_eq!(asked, not_allowed, "{action} {queue}");
    }
    assert_eq!(peer.ask("message_list", json!({ "queue_name": "q" })).await.0, 200);
}

#[tokio::test]
async fn requests_wait_for_the_token_before_them() {
    let setup = setup();
    let peer = &mut setup.connect().await;
    let headers = json!({ "X-Auth-Token": "p", "X-Project-ID": "p" });
    let first = json!({ "action": "authenticate", "headers": headers });
    peer.send_raw(Encoding::Json.message(&first)).await;
    peer.send("queue_create", json!({ "queue_name": "q" })).await;
    assert_eq!(split(peer.next().await).0, 200);
    assert_eq!(split(peer.next().await).0, 201);
}

#[tokio::test]
async fn an_expired_token_closes_with_4003_unless_it_is_renewed() {
    let setup = setup();
    let mut expiring = setup.connect().await;
    let mut renewed = setup.connect().await;
    assert_eq!(split(authenticate(&mut expiring, "p/3").await).0, 200);
    assert_eq!(split(authenticate(&mut renewed, "p/3").await).0, 200);
    assert_eq!(split(authenticate(&mut renewed, "p").await).0, 200);
    let asked = std::time::Instant::now();
    let frame = expiring.closed().await.unwrap();
    // At the expiry, not at the next ping.
    assert!(asked.elapsed() < Options::default().ping_interval * 2 / 3);
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4003, "Authentication expired."));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(renewed.ask("queue_list", json!({})).await.0, 200);
}

#[tokio::test]
async fn requests_after_the_token_expired_are_403() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let store = Arc::new(Memory::new());
    let options = zaqar_api::Options {
        clock: clock.clone(),
        layers: test_layers(),
        ..zaqar_api::Options::default()
    };
    let api = Api::new(store.clone(), store, options);
    let setup = Setup::with(api, Options::default());
    let peer = &mut setup.connect().await;
    assert_eq!(split(authenticate(peer, "p/3600").await).0, 200);
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    clock.advance(Duration::from_secs(3601));
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 403);
}

/// Pings alone keep no connection: a token, a subscription or requests do.
#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed() {
    let options = || Options {
        ping_interval: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(5),
        unused_timeout: Duration::from_secs(20),
        ..Options::default()
    };
    let (open, checked) = (Setup::new(options()), Setup::with(api_with(test_layers()), options()));
    let until = tokio::time::Instant::now() + Duration::from_secs(70);

    let mut unused = open.connect().await;
    let mut refused = checked.connect().await;
    let mut asks = open.connect().await;
    let mut subscribed = open.connect().await;
    let mut unsubscribed = open.connect().await;
    let body = json!({ "queue_name": "q", "ttl": 3600 });
    assert_eq!(subscribed.ask("subscription_create", body.clone()).await.0, 201);
    let (_, created) = unsubscribed.ask("subscription_create", body).await;
    let ended = json!({ "queue_name": "q", "subscription_id": created["subscription_id"] });
    assert_eq!(unsubscribed.ask("subscription_delete", ended).await.0, 204);
    let mut known = checked.connect().await;
    assert_eq!(split(authenticate(&mut known, "p").await).0, 200);

    let unused = tokio::spawn(async move { unused.closed().await });
    let unsubscribed = tokio::spawn(async move { unsubscribed.closed().await });
    let refused = tokio::spawn(async move {
        // A request that is not permitted uses nothing.
        for _ in 0..2 {
            assert_eq!(refused.ask("queue_list", json!({})).await.0, 403);
            answer_pings(&mut refused, Duration::from_secs(9)).await;
        }
        refused.closed().await
    });
    let asks = tokio::spawn(async move {
        while tokio::time::Instant::now() < until {
            assert_eq!(asks.ask("queue_list", json!({})).await.0, 200);
            answer_pings(&mut asks, Duration::from_secs(15)).await;
        }
    });
    let minute = Duration::from_secs(60);
    tokio::join!(answer_pings(&mut subscribed, minute), answer_pings(&mut known, minute));
    for peer in [&mut subscribed, &mut known] {
        assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    }
    for closed in [unused.await, unsubscribed.await, refused.await] {
        let frame = closed.unwrap().expect("a reason");
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (1008, "No request came for too long.")
        );
    }
    asks.await.unwrap();
}

/// Reads for some time, which answers pings.
async fn answer_pings(peer: &mut Peer, time: Duration) {
    let until = tokio::time::Instant::now() + time;
    while let Ok(next) = tokio::time::timeout_at(until, peer.socket.next()).await {
        assert!(matches!(next, Some(Ok(Message::Ping(_)))), "{next:?}");
    }
}

async fn shared(setup: &Setup, queue: &str, paths: &[&str], methods: &[&str]) -> Value {
    let expires = SystemClock.now().plus_secs(60);
    let identity = Identity::new(ProjectId::new("p").unwrap(), "u", Vec::new(), expires);
    let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"))
        .authenticated(Authentication::Token(Arc::new(identity)));
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let share = Share {
        queue: QueueRef { kind: Kind::Queue, name: QueueName::new(queue).unwrap() },
        paths: owned(paths),
        methods: owned(methods),
        expires: None,
    };
    let shared = setup.api.call(&context, share).await.unwrap();
    json!({
        "Client-ID": CLIENT,
        "X-Project-ID": "p",
        "URL-Signature": shared.signature,
        "URL-Methods": shared.grant.methods.join(","),
        "URL-Paths": shared.grant.paths.join(","),
        "URL-Expires": zaqar_core::iso8601::format(shared.grant.expires),
    })
}

#[tokio::test]
async fn a_signed_url_allows_only_what_it_names() {
    for setup in [setup(), Setup::new(Options::default())] {
        let peer = &mut setup.connect().await;
        peer.headers = shared(&setup, "q", &["messages"], &["GET", "POST", "DELETE"]).await;
        let post = |queue: &str| json!({ "queue_name": queue, "messages": [{ "body": 1 }] });
        let (status, body) = peer.ask("message_post", post("q")).await;
        assert_eq!(status, 201, "{body}");
        let id = body["message_ids"][0].clone();
        let ids = json!([id]);
        for (action, body, expected) in [
            ("message_list", json!({ "queue_name": "q" }), 200),
            ("message_get", json!({ "queue_name": "q", "message_id": id }), 200),
            ("message_get_many", json!({ "queue_name": "q", "message_ids": ids }), 200),
            ("message_delete", json!({ "queue_name": "q", "message_id": id }), 204),
            ("message_delete_many", json!({ "queue_name": "q", "message_ids": ids }), 204),
            // Other queues, and actions that no signed URL allows over WebSocket.
            ("message_post", post("q2"), 403),
            ("message_list", json!({ "queue_name": "other" }), 403),
            // 400 rather than 403: no queue can have this name.
            ("message_list", json!({ "queue_name": "q/../other" }), 400),
            ("queue_get", json!({ "queue_name": "q" }), 403),
            ("queue_delete", json!({ "queue_name": "q" }), 403),
            ("claim_create", json!({ "queue_name": "q" }), 403),
            ("subscription_create", json!({ "queue_name": "q" }), 403),
            ("queue_list", json!({}), 403),
            ("check_node_health", json!({}), 403),
        ] {
            let (status, answer) = peer.ask(action, body).await;
            assert_eq!(status, expected, "{action}: {answer}");
        }

        // As the answer to a share has them: lists instead of strings with commas.
        peer.headers["URL-Methods"] = json!(["DELETE", "GET", "POST"]);
        assert_eq!(peer.ask("message_list", json!({ "queue_name": "q" })).await.0, 200);
        for (name, value) in [
            ("URL-Signature", json!("")),
            ("URL-Signature", json!("0".repeat(64))),
            ("URL-Signature", json!(1)),
            ("URL-Methods", json!("GET")),
            ("URL-Paths", json!("/v2/queues/other/messages")),
            ("URL-Expires", json!("2001-01-01T00:00:00")),
            ("X-Project-ID", json!("other")),
        ] {
            let mut headers = shared(&setup, "q", &["messages"], &["GET", "POST"]).await;
            headers[name] = value;
            peer.headers = headers;
            let (status, body) = peer.ask("message_list", json!({ "queue_name": "q" })).await;
            assert_eq!((status, body), (403, json!({ "error": "Not authentified." })), "{name}");
        }

        // URLs for another resource or method.
        peer.headers = shared(&setup, "q", &["claims"], &["GET"]).await;
        assert_eq!(peer.ask("message_list", json!({ "queue_name": "q" })).await.0, 403);
        peer.headers = shared(&setup, "q", &["messages"], &["GET"]).await;
        assert_eq!(peer.ask("message_list", json!({ "queue_name": "q" })).await.0, 200);
        assert_eq!(peer.ask("message_post", post("q")).await.0, 403);
    }
}

#[tokio::test]
async fn headers_that_identify_the_caller_are_not_repeated() {
    let setup = Setup::new(Options::default());
    let mut peer = setup.connect().await;
    let headers = r#""Client-ID":"c","X-Project-ID":"p""#;
    for (document, name) in [
        (
            format!(r#"{{"action":"queue_list","headers":{{{headers},"X-Project-ID":"q"}}}}"#),
            "X-Project-ID",
        ),
        (
            format!(r#"{{"action":"queue_list","headers":{{{headers},"Client-ID":"d"}}}}"#),
            "Client-ID",
        ),
        (
            format!(
                r#"{{"action":"queue_list","headers":{{{headers},"X-Roles":"a","X-Roles":"b"}}}}"#
            ),
            "X-Roles",
        ),
        (
            format!(r#"{{"action":"queue_list","headers":{{{headers}}},"headers":{{{headers}}}}}"#),
            "headers",
        ),
    ] {
        peer.send_raw(Message::text(document)).await;
        let (status, body) = split(peer.next().await);
        let says = format!("{name} may be given once; this request has it more than once.");
        assert_eq!((status, body["error"].as_str()), (400, Some(says.as_str())));
    }
}

#[tokio::test]
async fn project_ids_with_outer_whitespace_are_rejected() {
    let setup = Setup::new(Options::default());
    let mut peer = setup.connect().await;
    for id in [" a", "a\u{a0}", "a\u{2003}"] {
        peer.headers["X-Project-ID"] = id.into();
        let (status, body) = peer.ask("queue_list", json!({})).await;
        let text = body.to_string();
        assert!(status == 400 && text.contains("neither start nor end with whitespace"), "{text}");
    }
}
