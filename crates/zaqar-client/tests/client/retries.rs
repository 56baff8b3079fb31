//! Which requests are repeated, and the limits of an answer.

use std::time::Duration;

use futures_util::TryStreamExt;
use zaqar_client::{ClaimOptions, Client, Error, Listed, NewMessage, Retries, SignedUrl};

use crate::scripted::{Answer, Scripted};

fn client(server: &Scripted, retries: Retries) -> Client {
    let retries = Retries { first_pause: Duration::from_millis(1), ..retries };
    Client::builder().url(&server.url).project("p").retries(retries).build().unwrap()
}

fn hello() -> NewMessage {
    NewMessage::new("hello").unwrap()
}

#[tokio::test]
async fn reads_are_repeated_and_posts_are_not() {
    let server = Scripted::start(|number, request| {
        let posted = r#"{"resources":["/v2/queues/q/messages/m"]}"#;
        match (number, request.line.split(' ').next().unwrap()) {
            (0, _) => None,
            (1, _) => Some(Answer::new(503, "").with("Retry-After: 0")),
            (_, "GET") => {
                Some(Answer::new(200, r#"{"messages":{"claimed":0,"free":1,"total":1}}"#))
            }
            (3, _) => Some(Answer::new(503, r#"{"title":"Service temporarily unavailable"}"#)),
            (4, _) => None,
            _ => Some(Answer::new(201, posted)),
        }
    })
    .await;
    let once = client(&server, Retries::default());
    let queue = once.queue("q").unwrap();
    assert_eq!(queue.stats().await.unwrap().free, 1);
    assert_eq!(server.lines(), ["GET /v2/queues/q/stats"; 3]);

    let error = queue.post([hello()]).await.unwrap_err();
    assert_eq!((error.status(), error.may_be_done()), (Some(503), true));
    assert!(error.to_string().contains("temporarily"), "{error}");
    let error = queue.post([hello()]).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }) && error.may_be_done(), "{error}");
    assert_eq!(server.asked().len(), 5);
}

#[tokio::test]
async fn posts_are_repeated_with_the_same_client_id_if_allowed() {
    let server = Scripted::start(|number, _| match number {
        0 => None,
        1 => Some(Answer::new(503, "")),
        _ => Some(Answer::new(201, r#"{"resources":["/v2/queues/q/messages/m"]}"#)),
    })
    .await;
    let client = client(&server, Retries { posts_may_repeat: true, ..Retries::default() });
    let ids = client.queue("q").unwrap().post([hello().ttl(60)]).await.unwrap();
    assert_eq!(ids[0].as_str(), "m");
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    for request in &asked {
        assert_eq!(request.header("client-id"), Some(client.id()));
        assert_eq!(request.body, r#"{"messages":[{"body":"hello","ttl":60}]}"#);
    }
}

#[tokio::test]
async fn claims_and_pops_are_never_repeated() {
    let server = Scripted::start(|_, _| Some(Answer::new(503, ""))).await;
    let client = client(&server, Retries { posts_may_repeat: true, ..Retries::default() });
    let queue = client.queue("q").unwrap();
    assert!(queue.claim(&ClaimOptions::default()).await.is_err());
    assert!(queue.pop(3).await.is_err());
    let lines = ["POST /v2/queues/q/claims?limit=10", "DELETE /v2/queues/q/messages?pop=3"];
    assert_eq!(server.lines(), lines);
}

#[tokio::test]
async fn a_refused_connection_is_an_error_and_nothing_was_done() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let retries = Retries { first_pause: Duration::from_millis(1), ..Retries::default() };
    let client = Client::builder().url(&url).project("p").retries(retries).build().unwrap();
    let error = client.queue("q").unwrap().post([hello()]).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { url: asked, .. } if *asked == url), "{error}");
    assert!(!error.may_be_done());
}

#[tokio::test]
async fn an_answer_is_bounded_in_time_and_size() {
    let server = Scripted::start(|number, _| {
        (number > 0).then(|| Answer::new(200, &format!("\"{}\"", "x".repeat(2000))))
    })
    .await;
    let builder = Client::builder().url(&server.url).project("p").retries(Retries::never());
    let small = builder.clone().max_answer(1000).build().unwrap();
    let error = small.queue("q").unwrap().metadata().await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    let error = small.queue("q").unwrap().metadata().await.unwrap_err();
    assert!(matches!(error, Error::TooLong { limit: 1000, .. }), "{error}");

    // A server that accepts connections and never answers.
    let unresponsive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", unresponsive.local_addr().unwrap());
    let client = builder.url(url).timeout(Duration::from_millis(20)).build().unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn every_path_gets_the_prefix_of_the_url_and_pages_are_followed() {
    let server = Scripted::start(|number, _| {
        let message = r#"{"href":"/v2/queues/q/messages/m1","ttl":60,"age":0,"body":1}"#;
        let link = r#"{"rel":"next","href":"/v2/queues/q/messages?marker=m1"}"#;
        Some(match number {
            0 => Answer::new(200, &format!("{{\"messages\":[{message}],\"links\":[{link}]}}")),
            _ => Answer::new(204, ""),
        })
    })
    .await;
    let url = SignedUrl {
        paths: vec!["/v2/queues/q/messages".to_owned(), "/v2/queues/q/claims".to_owned()],
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        project: "owner".to_owned(),
        expires: "2099-01-01T00:00:00".to_owned(),
        signature: "abc".to_owned(),
    };
    let builder = Client::builder().url(format!("{}/messaging/v2/", server.url)).project("mine");
    let client = builder.signed(url).build().unwrap();
    let messages = client.queue("q").unwrap().messages(&Listed::default());
    let messages: Vec<_> = messages.try_collect().await.unwrap();
    assert_eq!(messages[0].id.as_str(), "m1");
    let asked = server.asked();
    let first =
        "GET /messaging/v2/queues/q/messages?echo=true&include_claimed=false&include_delayed=false";
    assert_eq!(asked[0].line, first);
    assert_eq!(asked[1].line, "GET /messaging/v2/queues/q/messages?marker=m1");
    for (header, value) in [
        ("url-signature", "abc"),
        ("url-methods", "GET,POST"),
        ("url-paths", "/v2/queues/q/messages,/v2/queues/q/claims"),
        ("x-project-id", "owner"),
    ] {
        assert_eq!(asked[1].header(header), Some(value));
    }
}
