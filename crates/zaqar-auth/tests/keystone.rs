//! Tokens, against a scripted Keystone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use zaqar_api::{AuthRequest, Authenticator};
use zaqar_auth::keystone::{
    Credential, Error, Middleware, Name, Options, Rejection, Scope, Session, Trust, TrustError,
    TrustTokens, Trustor, Validator, Validity,
};
use zaqar_core::{Clock, ManualClock, Secret, Timestamp, iso8601};

const NOW: u64 = 1_795_932_000;

/// A Keystone in this process.
struct Keystone {
    url: String,
    clock: Arc<ManualClock>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    made: AtomicUsize,
    validated: AtomicUsize,
    /// The trusts that were requested, and the number of tokens of trusts that were issued.
    trusts: Mutex<Vec<Value>>,
    trust_tokens: AtomicUsize,
    /// Trusts for which no token is issued.
    ended: Mutex<Vec<String>>,
    /// The documents of valid tokens.
    tokens: Mutex<HashMap<String, Value>>,
    /// Our own token, once it is rejected.
    refused: Mutex<Option<String>>,
    /// Responses to validations wait for this.
    gate: tokio::sync::Mutex<()>,
}

impl Keystone {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let answer = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW * 1000)));
        Self { url, clock, state }
    }

    fn options(&self) -> Options {
        let name = |name: &str| Name::Name(name.to_owned());
        let credential = Credential::Password {
            user: name("zaqar"),
            domain: name("Default"),
            password: Secret::new("pw".to_owned()),
            scope: Scope::Project { project: name("service"), domain: name("Default") },
        };
        Options { retries: 0, ..Options::new(&self.url, credential) }
    }

    fn validator(&self, options: Options) -> Validator {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let session = Session::new(options, Arc::clone(&clock)).unwrap();
        Validator::new(Arc::new(session), clock)
    }

    fn middleware(&self, change: impl FnOnce(&mut Options)) -> Middleware {
        let mut options = self.options();
        change(&mut options);
        Middleware::new(self.validator(options))
    }

    /// Makes a token valid for `secs` seconds.
    fn give(&self, token: &str, secs: u64, roles: &[&str]) {
        let roles: Vec<_> = roles.iter().map(|name| json!({"name": name})).collect();
        let expires = iso8601::format(Timestamp::from_millis(0).plus_secs(NOW + secs));
        let document = json!({"token": {
            "user": {"id": "u", "name": "ann", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "roles": roles,
            "expires_at": format!("{expires}.000000Z"),
        }});
        self.state.tokens.lock().unwrap().insert(token.to_owned(), document);
    }

    fn revoke(&self, token: &str) {
        self.state.tokens.lock().unwrap().remove(token);
    }

    fn validated(&self) -> usize {
        self.state.validated.load(Ordering::SeqCst)
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (request, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        if request.uri.path().starts_with("/v3/OS-TRUST/trusts") {
            return self.answer_trust(&request, asked);
        }
        let trust = asked["auth"]["scope"]["OS-TRUST:trust"]["id"].as_str();
        if let Some(trust) = trust {
            return self.give_trust_token(trust);
        }
        let header = |name: &str| {
            let value = request.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        assert_eq!(request.uri.path(), "/v3/auth/tokens");
        if request.method == http::Method::POST {
            let made = self.made.fetch_add(1, Ordering::SeqCst);
            let expires = iso8601::format(Timestamp::from_millis(0).plus_secs(NOW + 3600));
            let document = json!({"token": {"user": {"id": "zaqar"}, "expires_at": expires}});
            let mut answer = document_of(201, &document);
            let token = format!("own-{made}").parse().unwrap();
            answer.headers_mut().insert("x-subject-token", token);
            return answer;
        }
        self.validated.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.lock().await;
        assert_eq!(header("openstack-identity-access-rules").as_deref(), Some("1"));
        let own = header("x-auth-token").unwrap();
        if self.refused.lock().unwrap().as_ref() == Some(&own) {
            return document_of(401, &json!({}));
        }
        let subject = header("x-subject-token").unwrap();
        match self.tokens.lock().unwrap().get(&subject) {
            Some(document) => document_of(200, document),
            None => document_of(404, &json!({"error": {"code": 404}})),
        }
    }
}

impl State {
    fn answer_trust(&self, request: &http::request::Parts, asked: Value) -> Response<Full<Bytes>> {
        if request.headers["x-auth-token"] == "limited" {
            return document_of(403, &json!({}));
        }
        match request.uri.path().strip_prefix("/v3/OS-TRUST/trusts/") {
            None => {
                let mut trusts = self.trusts.lock().unwrap();
                // As in Keystone, a duplicate conflicts.
                if trusts.is_empty() {
                    trusts.push(json!({"first": asked}));
                    return document_of(409, &json!({}));
                }
                trusts.push(asked["trust"].clone());
                document_of(201, &json!({"trust": {"id": "t1"}}))
            }
            Some(id @ ("t1" | "elsewhere")) => {
                let trustee = if id == "t1" { "zaqar" } else { "other" };
                let trust = json!({
                    "trustor_user_id": "u", "project_id": "p", "trustee_user_id": trustee,
                });
                document_of(200, &json!({ "trust": trust }))
            }
            Some(_) => document_of(404, &json!({})),
        }
    }

    fn give_trust_token(&self, trust: &str) -> Response<Full<Bytes>> {
        if self.ended.lock().unwrap().iter().any(|ended| ended == trust) {
            return document_of(401, &json!({}));
        }
        let made = self.trust_tokens.fetch_add(1, Ordering::SeqCst);
        let expires = iso8601::format(Timestamp::from_millis(0).plus_secs(NOW + 3600));
        let document = json!({"token": {
            "user": {"id": "u"}, "project": {"id": "p"}, "expires_at": expires,
        }});
        let mut answer = document_of(201, &document);
        let token = format!("of-{trust}-{made}").parse().unwrap();
        answer.headers_mut().insert("x-subject-token", token);
        answer
    }
}

fn document_of(status: u16, document: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(document.to_string())));
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
    answer
}

fn is_valid(answer: Result<Validity, Error>) -> bool {
    matches!(answer.unwrap(), Validity::Valid(_))
}

#[tokio::test]
async fn a_token_is_validated_once_while_it_is_remembered() {
    let keystone = Keystone::start().await;
    keystone.give("t", 3600, &["member"]);
    let validator = keystone.validator(keystone.options());
    let asking = (0..20).map(|_| validator.validate(" t\n", false));
    for answer in futures_util::future::join_all(asking).await {
        assert!(is_valid(answer));
    }
    assert!(is_valid(validator.validate("t", false).await));
    assert_eq!(keystone.validated(), 1);
    assert_eq!(keystone.state.made.load(Ordering::SeqCst), 1);

    let uncached = Options { cached_for: Duration::ZERO, ..keystone.options() };
    let validator = keystone.validator(uncached);
    for _ in 0..2 {
        assert!(is_valid(validator.validate("t", false).await));
    }
    assert_eq!(keystone.validated(), 3);
}

#[tokio::test]
async fn what_is_not_valid_is_not_remembered() {
    let keystone = Keystone::start().await;
    let validator = keystone.validator(keystone.options());
    for token in ["t", "", "line\nbreak", "\u{e9}"] {
        assert!(!is_valid(validator.validate(token, false).await), "{token:?}");
    }
    keystone.give("t", 3600, &[]);
    assert!(is_valid(validator.validate("t", false).await));
    keystone.revoke("t");
    assert!(is_valid(validator.validate("t", false).await), "remembered");
}

#[tokio::test]
async fn an_expiry_is_noticed_at_once() {
    let keystone = Keystone::start().await;
    keystone.give("t", 100, &[]);
    let validator = keystone.validator(keystone.options());
    assert!(is_valid(validator.validate("t", false).await));
    keystone.clock.advance(Duration::from_secs(99));
    assert!(is_valid(validator.validate("t", false).await));
    keystone.clock.advance(Duration::from_secs(1));
    assert!(!is_valid(validator.validate("t", false).await));
    assert!(is_valid(validator.validate("t", true).await), "a service may use it");
}

#[tokio::test]
async fn our_own_token_is_made_again_when_it_is_refused_or_old() {
    let keystone = Keystone::start().await;
    keystone.give("t", 36_000, &[]);
    let uncached = Options { cached_for: Duration::ZERO, ..keystone.options() };
    let validator = keystone.validator(uncached);
    assert!(is_valid(validator.validate("t", false).await));
    *keystone.state.refused.lock().unwrap() = Some("own-0".to_owned());
    assert!(is_valid(validator.validate("t", false).await));
    assert_eq!(keystone.state.made.load(Ordering::SeqCst), 2);
    keystone.clock.advance(Duration::from_secs(3600 - 30));
    assert!(is_valid(validator.validate("t", false).await));
    assert_eq!(keystone.state.made.load(Ordering::SeqCst), 3);
    *keystone.state.refused.lock().unwrap() = Some("own-2".to_owned());
    assert!(is_valid(validator.validate("t", false).await));
}

#[tokio::test]
async fn nobody_waits_for_another_token_and_too_many_are_told_at_once() {
    let keystone = Keystone::start().await;
    for token in ["slow", "cached", "b"] {
        keystone.give(token, 3600, &[]);
    }
    let few = Options { max_waiting: 1, ..keystone.options() };
    let validator = Arc::new(keystone.validator(few));
    assert!(is_valid(validator.validate("cached", false).await));
    let closed = keystone.state.gate.lock().await;
    let slow = Arc::clone(&validator);
    let slow = tokio::spawn(async move { slow.validate("slow", false).await });
    while keystone.validated() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(is_valid(validator.validate("cached", false).await));
    let refused = validator.validate("b", false).await;
    assert!(matches!(refused, Err(Error::Overloaded { limit: 1 })), "{refused:?}");
    drop(closed);
    assert!(is_valid(slow.await.unwrap()));
    assert!(is_valid(validator.validate("b", false).await));
}

#[tokio::test]
async fn a_keystone_that_is_away_lets_in_only_who_is_remembered() {
    let keystone = Keystone::start().await;
    keystone.give("known", 100, &[]);
    let quick = Options { timeout: Duration::from_millis(200), ..keystone.options() };
    let validator = keystone.validator(quick);
    assert!(is_valid(validator.validate("known", false).await));
    // Accepts connections and never answers.
    let _closed = keystone.state.gate.lock().await;
    assert!(is_valid(validator.validate("known", false).await));
    let unknown = validator.validate("unknown", false).await;
    assert!(matches!(unknown, Err(Error::Unreachable { .. })), "{unknown:?}");
    keystone.clock.advance(Duration::from_secs(100));
    assert!(!is_valid(validator.validate("known", false).await), "it expired");
}

#[tokio::test]
async fn a_request_needs_a_valid_user_and_no_bad_service() {
    let keystone = Keystone::start().await;
    keystone.give("user", 100, &["member"]);
    keystone.give("service", 10_000, &["service"]);
    keystone.give("nobody", 10_000, &["member"]);
    let middleware = keystone.middleware(|_| {});
    let lenient = keystone.middleware(|options| options.service_tokens.required = false);
    let verify = async |middleware: &Middleware, user, service| {
        let (user_token, service_token) = (Some(user), Some(service));
        let asked = AuthRequest {
            user_token,
            service_token,
            request: Some(("GET", "/v2/queues")),
            trace_parent: None,
        };
        middleware.verify(asked).await
    };
    let verified = verify(&middleware, "user", "service").await.unwrap();
    assert_eq!(verified.user.unwrap().roles, ["member"]);
    assert_eq!(verified.service.unwrap().roles, ["service"]);
    for (user, service) in [("", ""), ("bad", ""), ("user", "bad"), ("user", "nobody")] {
        let rejected = verify(&middleware, user, service).await;
        assert!(matches!(rejected, Err(Rejection::Unauthorized)), "{user} {service}");
    }
    assert!(verify(&lenient, "user", "nobody").await.is_ok());
    keystone.clock.advance(Duration::from_secs(100));
    assert!(verify(&middleware, "user", "service").await.is_ok(), "a service finishes its work");
    assert!(verify(&lenient, "user", "nobody").await.is_err(), "which needs the role");
    assert!(verify(&middleware, "user", "").await.is_err());
    let challenge = format!("Keystone uri=\"{}\"", keystone.url);
    assert_eq!(middleware.challenge(), challenge);
}

#[tokio::test]
async fn only_a_services_role_extends_what_its_user_may_do() {
    let keystone = Keystone::start().await;
    keystone.give("user", 100, &["member"]);
    keystone.give("service", 10_000, &["service"]);
    keystone.give("nobody", 10_000, &["member"]);
    let mut options = keystone.options();
    options.service_tokens.required = false;
    let clock: Arc<dyn Clock> = keystone.clock.clone();
    let session = Arc::new(Session::new(options, Arc::clone(&clock)).unwrap());
    let authenticator = zaqar_auth::Keystone::with_session(session, clock);
    for (service, secs) in [("", 100), ("nobody", 100), ("service", 10_000)] {
        let (user_token, service_token) = (Some("user"), Some(service));
        // As of a connection over WebSocket, which lasts until then.
        let asked = AuthRequest { user_token, service_token, ..AuthRequest::default() };
        let identity = authenticator.authenticate(asked).await.unwrap();
        let expected = Timestamp::from_millis(0).plus_secs(NOW + secs);
        assert_eq!(identity.expires, expected, "{service:?}");
    }
}

#[tokio::test]
async fn a_delayed_decision_lets_requests_on_without_identity() {
    let keystone = Keystone::start().await;
    keystone.give("user", 100, &["member"]);
    let middleware = keystone.middleware(|options| options.delay_auth_decision = true);
    for (token, is_known) in [(Some("user"), true), (Some("bad"), false), (None, false)] {
        let verified =
            middleware.verify(AuthRequest { user_token: token, ..AuthRequest::default() });
        assert_eq!(verified.await.unwrap().user.is_some(), is_known, "{token:?}");
    }
    let away = keystone.middleware(|options| {
        options.delay_auth_decision = true;
        options.auth_url = "http://127.0.0.1:1".to_owned();
    });
    let verified = away.verify(AuthRequest { user_token: Some("user"), ..AuthRequest::default() });
    assert!(verified.await.unwrap().user.is_none());
}

#[tokio::test]
async fn a_keystone_that_refuses_connections_is_an_answer_503() {
    let keystone = Keystone::start().await;
    let away = keystone.middleware(|options| options.auth_url = "http://127.0.0.1:1".to_owned());
    let verified =
        away.verify(AuthRequest { user_token: Some("t"), ..AuthRequest::default() }).await;
    assert!(matches!(verified, Err(Rejection::Unavailable(_))), "{verified:?}");
    let verified = away.verify(AuthRequest::default()).await;
    assert!(
        matches!(verified, Err(Rejection::Unauthorized)),
        "without a token Keystone is not asked"
    );
}

impl Keystone {
    fn session(&self) -> Arc<Session> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Arc::new(Session::new(self.options(), clock).unwrap())
    }

    fn trust_tokens(&self) -> TrustTokens {
        TrustTokens::new(self.session(), self.clock.clone())
    }
}

#[tokio::test]
async fn a_trust_is_made_as_it_is_asked_for_and_ends_within_the_calendar() {
    let keystone = Keystone::start().await;
    let session = keystone.session();
    let token = Secret::new("user".to_owned());
    let roles = ["member".to_owned()];
    let (token, roles) = (&token, &roles[..]);
    for (secs, expires_at) in [
        (NOW + 60, "2026-11-29T06:01:00."),
        (NOW + 253_402_300_799, "9999-12-31T23:59:59."),
        (u64::MAX / 1000, "9999-12-31T23:59:59."),
    ] {
        let expires = Timestamp::from_millis(0).plus_secs(secs);
        let trust = Trust { token, user: "u", project: "p", roles, expires };
        assert_eq!(session.create_trust(trust).await.unwrap(), "t1");
        let mut asked = keystone.state.trusts.lock().unwrap().pop().unwrap();
        let asked_until = asked.as_object_mut().unwrap().remove("expires_at").unwrap();
        assert!(asked_until.as_str().unwrap().starts_with(expires_at), "{asked_until}");
        let expected = json!({
            "trustor_user_id": "u", "trustee_user_id": "zaqar", "project_id": "p",
            "impersonation": true, "roles": [{"name": "member"}],
        });
        assert_eq!(asked, expected);
    }
    let limited = Secret::new("limited".to_owned());
    let expires = Timestamp::from_millis(NOW * 1000);
    let trust = Trust { token: &limited, user: "u", project: "p", roles, expires };
    let refused = session.create_trust(trust).await;
    assert!(matches!(refused, Err(TrustError::Refused { status: 403 })), "{refused:?}");
}

#[tokio::test]
async fn a_trust_is_somebodys_and_in_us() {
    let keystone = Keystone::start().await;
    let session = keystone.session();
    let expected = Trustor { user: "u".to_owned(), project: "p".to_owned() };
    assert_eq!(session.trustor("t1").await.unwrap(), expected);
    for id in ["elsewhere", "unknown", "", "../users", "a b", &"x".repeat(300)] {
        let refused = session.trustor(id).await;
        assert!(matches!(refused, Err(TrustError::Refused { .. })), "{id}: {refused:?}");
    }
}

#[tokio::test]
async fn a_trusts_token_is_cached_until_it_is_old_or_rejected() {
    let keystone = Keystone::start().await;
    let tokens = keystone.trust_tokens();
    let made = || keystone.state.trust_tokens.load(Ordering::SeqCst);
    let first = tokens.get("t1").await.unwrap();
    assert_eq!((first.trustor.user.as_str(), first.trustor.project.as_str()), ("u", "p"));
    let again = futures_util::future::join_all((0..20).map(|_| tokens.get("t1"))).await;
    assert!(again.into_iter().all(|again| again.unwrap().token == first.token));
    assert_eq!(made(), 1);
    assert_ne!(tokens.get("t2").await.unwrap().token, first.token);
    assert!(tokens.forget("t1", &first.token).await);
    assert!(!tokens.forget("t1", &first.token).await, "it is gone");
    let second = tokens.get("t1").await.unwrap();
    assert_ne!(second.token, first.token);
    assert!(!tokens.forget("t1", &first.token).await, "it was replaced");
    assert_eq!(made(), 3);
    // Within a minute of its expiry it is replaced.
    keystone.clock.advance(Duration::from_secs(3600 - 61));
    assert_eq!(tokens.get("t1").await.unwrap().token, second.token);
    keystone.clock.advance(Duration::from_secs(1));
    assert_ne!(tokens.get("t1").await.unwrap().token, second.token);
}

#[tokio::test]
async fn a_trust_that_has_ended_gives_no_token_and_that_is_not_cached() {
    let keystone = Keystone::start().await;
    let tokens = keystone.trust_tokens();
    // The trust exists; nobody knows how long it will give no token.
    keystone.state.ended.lock().unwrap().extend(["t1".to_owned(), "t3".to_owned()]);
    let refused = tokens.get("t1").await;
    assert!(matches!(refused, Err(TrustError::Keystone(_))), "{refused:?}");
    let gone = tokens.get("t3").await;
    assert!(matches!(gone, Err(TrustError::Refused { status: 404 })), "{gone:?}");
    keystone.state.ended.lock().unwrap().clear();
    assert!(tokens.get("t1").await.is_ok());
    assert!(matches!(tokens.get("").await, Err(TrustError::Refused { .. })));
}
