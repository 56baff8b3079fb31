//! Quotas and rates on both wires.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zaqar_api::{Layers, Quota};
use zaqar_auth::Quotas;
use zaqar_auth::quotas::{Limit, Limits, Options};
use zaqar_core::SystemClock;
use zaqar_storage_testkit::Memory;

use crate::support::{Operation, Socket, Wires};

/// Both wires over one store, with these limits for every project.
fn limited(limits: &[(Limit, u64)]) -> (Wires, Quotas, Arc<Memory>) {
    let store = Arc::new(Memory::new());
    let with = |limits: Limits, (limit, value): &(Limit, u64)| limits.with(*limit, *value);
    let default = limits.iter().fold(Limits::default(), with);
    let options = Options { default, projects_file: None, is_managed: false };
    let clock = Arc::new(SystemClock);
    let quotas = Quotas::load(&options, store.clone(), store.clone(), clock).unwrap();
    let quota = Some(Arc::new(quotas.clone()) as Arc<dyn Quota>);
    let layers = Layers { quota, ..Layers::default() };
    let options = zaqar_api::Options { layers, ..Default::default() };
    (Wires::on(store.clone(), options), quotas, store)
}

async fn http(wires: &Wires, method: &'static str, path: &'static str, body: &str) -> (u16, Value) {
    let document: &'static str = Box::leak(body.to_owned().into_boxed_str());
    let operation = Operation { name: "", method, path, document, frame: None };
    wires.http(&operation, &[]).await
}

/// The body of a post with this many messages.
fn messages(count: usize) -> String {
    let messages = vec![json!({ "body": "x" }); count];
    json!({ "messages": messages }).to_string()
}

async fn post(wires: &Wires, count: usize) -> (u16, Value) {
    http(wires, "POST", "/v2/queues/q/messages", &messages(count)).await
}

async fn push_post(socket: &mut Socket, queue: &str, count: usize) -> (u16, Value) {
    let messages = vec![json!({ "body": "x" }); count];
    let body = json!({ "queue_name": queue, "messages": messages });
    socket.ask("message_post", &body.to_string(), &[]).await
}

fn says(answer: &(u16, Value), status: u16, text: &str) {
    assert_eq!(answer.0, status, "{answer:?}");
    assert!(answer.1.to_string().contains(text), "{text}: {answer:?}");
}

#[tokio::test]
async fn a_full_queue_accepts_no_message_on_either_wire_until_some_are_deleted() {
    let (wires, quotas, _) = limited(&[(Limit::QueueMessages, 4)]);
    let mut socket = wires.connect().await;
    assert_eq!(post(&wires, 2).await.0, 201);
    assert_eq!(push_post(&mut socket, "q", 2).await.0, 201);
    let text = "A queue may have at most 4 messages, and would have 5 ([quotas] \
                max_messages_per_queue).";
    says(&post(&wires, 1).await, 403, text);
    says(&push_post(&mut socket, "q", 1).await, 403, text);
    assert_eq!(post(&wires, 5).await.0, 403, "all or none");
    assert_eq!(push_post(&mut socket, "other", 4).await.0, 201, "another queue");
    assert_eq!(quotas.rejections()[Limit::QueueMessages as usize], (Limit::QueueMessages, 3));
    // Deleted messages free capacity, once the queue is counted again.
    assert_eq!(http(&wires, "DELETE", "/v2/queues/q/messages?pop=2", "").await.0, 200);
    let began = Instant::now();
    while post(&wires, 2).await.0 != 201 {
        assert!(began.elapsed() < Duration::from_secs(60), "the freed capacity is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(post(&wires, 1).await.0, 403);
}

#[tokio::test]
async fn bytes_and_messages_of_a_project_are_those_of_all_its_queues_and_topics() {
    let (wires, _, _) = limited(&[(Limit::Messages, 5)]);
    let mut socket = wires.connect().await;
    assert_eq!(push_post(&mut socket, "a", 2).await.0, 201);
    assert_eq!(http(&wires, "POST", "/v2/topics/t/messages", &messages(2)).await.0, 201);
    let text = "A project may have at most 5 messages, and would have 6 ([quotas] max_messages).";
    says(&post(&wires, 2).await, 403, text);
    assert_eq!(post(&wires, 1).await.0, 201);

    let size = messages(1).len() as u64;
    let (wires, _, _) = limited(&[(Limit::QueueBytes, 2 * size), (Limit::Bytes, 3 * size)]);
    assert_eq!(post(&wires, 1).await.0, 201);
    assert_eq!(post(&wires, 1).await.0, 201);
    says(&post(&wires, 1).await, 403, "([quotas] max_bytes_per_queue)");
    assert_eq!(http(&wires, "POST", "/v2/queues/r/messages", &messages(1)).await.0, 201);
    let full = http(&wires, "POST", "/v2/queues/r/messages", &messages(1)).await;
    says(&full, 403, "([quotas] max_bytes)");
}

#[tokio::test]
async fn a_server_counts_what_was_there_before_it() {
    let (wires, _, store) = limited(&[]);
    assert_eq!(post(&wires, 3).await.0, 201);
    let default = Limits::default().with(Limit::QueueMessages, 3).with(Limit::QueueBytes, 1 << 20);
    let options = Options { default, projects_file: None, is_managed: false };
    let clock = Arc::new(SystemClock);
    let quotas = Quotas::load(&options, store.clone(), store.clone(), clock).unwrap();
    let layers = Layers { quota: Some(Arc::new(quotas)), ..Layers::default() };
    let wires = Wires::on(store, zaqar_api::Options { layers, ..Default::default() });
    says(&post(&wires, 1).await, 403, "and would have 4");
}

#[tokio::test]
async fn queues_count_however_they_are_created() {
    let (wires, _, _) = limited(&[(Limit::Queues, 2)]);
    let mut socket = wires.connect().await;
    assert_eq!(http(&wires, "PUT", "/v2/queues/a", "{}").await.0, 201);
    assert_eq!(push_post(&mut socket, "b", 1).await.0, 201);
    let text = "A project may have at most 2 queues, and would have 3 ([quotas] max_queues).";
    says(&http(&wires, "PUT", "/v2/topics/c", "{}").await, 403, text);
    says(&push_post(&mut socket, "c", 1).await, 403, text);
    says(&socket.ask("subscription_create", r#"{"queue_name":"c"}"#, &[]).await, 403, text);
    says(&socket.ask("queue_create", r#"{"queue_name":"c"}"#, &[]).await, 403, text);
    // Existing queues can be used and requested again.
    assert_eq!(http(&wires, "PUT", "/v2/queues/a", "{}").await.0, 204);
    assert_eq!(push_post(&mut socket, "a", 1).await.0, 201);
    assert_eq!(http(&wires, "DELETE", "/v2/queues/a", "").await.0, 204);
    let began = Instant::now();
    while http(&wires, "PUT", "/v2/queues/c", "{}").await.0 != 201 {
        assert!(began.elapsed() < Duration::from_secs(60), "the freed capacity is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn subscriptions_of_connections_count_with_the_others() {
    let (wires, _, _) = limited(&[(Limit::Subscriptions, 2)]);
    let mut socket = wires.connect().await;
    let address = r#"{"subscriber":"http://h/x"}"#;
    let path = "/v2/queues/q/subscriptions";
    assert_eq!(http(&wires, "POST", path, address).await.0, 201);
    let connection = r#"{"queue_name":"q"}"#;
    assert_eq!(socket.ask("subscription_create", connection, &[]).await.0, 201);
    let text = "A project may have at most 2 subscriptions, and would have 3 ([quotas] \
                max_subscriptions).";
    says(&socket.ask("subscription_create", r#"{"queue_name":"r"}"#, &[]).await, 403, text);
    says(&http(&wires, "POST", path, r#"{"subscriber":"http://h/y"}"#).await, 403, text);
}

#[tokio::test]
async fn above_a_rate_both_wires_say_when_to_retry() {
    let (wires, _, _) = limited(&[(Limit::RequestRate, 1)]);
    let mut socket = wires.connect().await;
    let began = Instant::now();
    let mut answers = 0;
    let rejected = loop {
        let answer = http(&wires, "GET", "/v2/queues/q/stats", "").await;
        answers += 1;
        // The burst, and what the bucket regains while this runs.
        assert!(answers <= 4 + began.elapsed().as_secs(), "no rate");
        if answer.0 != 200 {
            break answer;
        }
    };
    let text = "A project may have at most 1 requests a second ([quotas] \
                max_requests_per_second).";
    says(&rejected, 503, text);
    loop {
        let answer = socket.ask("queue_get_stats", r#"{"queue_name":"q"}"#, &[]).await;
        if answer.0 == 503 {
            says(&answer, 503, text);
            break;
        }
    }
    // Health checks are free.
    assert_eq!(http(&wires, "GET", "/v2/ping", "").await.0, 204);
}

#[tokio::test]
async fn what_is_pushed_counts_towards_the_rate_of_bytes_and_is_never_held_back() {
    let (wires, _, store) = limited(&[(Limit::ByteRate, 10)]);
    let mut socket = wires.connect().await;
    let subscribed = socket.ask("subscription_create", r#"{"queue_name":"q"}"#, &[]).await;
    assert_eq!(subscribed.0, 201);
    // Another server of the deployment, without limits.
    let other = Wires::on(store, zaqar_api::Options::default());
    let body = json!({ "messages": [{ "body": "x".repeat(4000) }] }).to_string();
    for _ in 0..3 {
        assert_eq!(http(&other, "POST", "/v2/queues/q/messages", &body).await.0, 201);
    }
    for _ in 0..3 {
        assert_eq!(socket.next().await["body"], "x".repeat(4000));
    }
    says(&post(&wires, 1).await, 503, "10 bytes a second ([quotas] max_bytes_per_second)");
    assert_eq!(http(&wires, "GET", "/v2/queues/q/messages", "").await.0, 200, "posts nothing");
}
