//! Requests over plain HTTP.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};
use zaqar_notify::http::{Options, WebhookClient};
use zaqar_notify::outcome::{Answer, Attempt, Failure, Verdict};
use zaqar_notify::retry::RetryAfter;

use crate::receiver::{
    NOW, Receiver, answer_all, answered, client, options, post, post_for, project, read_request,
};

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    let (seen, mut requests) = mpsc::channel(1);
    let receiver = Receiver::start(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).await.unwrap();
            let _closed = stream.write_all(b"HTTP/1.1 204 \r\n\r\n").await;
        }
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("x-own", HeaderValue::from_static("yes"));
    let body = Bytes::from_static(b"{\"ttl\":60}");
    let attempt = client().post(&project("p"), &receiver.target(), headers, body, None, NOW).await;
    assert_eq!(answered(attempt).status, 204);
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    let host = format!("Host: {}\r\n", receiver.address);
    for part in ["Content-Type: application/json\r\n", "X-Own: yes\r\n", &host, "{\"ttl\":60}"] {
        assert!(request.contains(part), "{part} is missing in {request}");
    }
    assert!(request.contains("User-Agent: zaqar-server/"), "{request}");
}

#[tokio::test]
async fn an_answer_is_read_with_its_retry_after() {
    let receiver = Receiver::start(|number, stream| {
        assert_eq!(number, 0, "the connection is kept");
        let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy";
        answer_all(stream, answer)
    })
    .await;
    let client = client();
    for _ in 0..3 {
        let attempt = post(&client, &receiver.target()).await;
        let retry_after = Some(RetryAfter::from_delay(Duration::from_secs(7)));
        let expected = Answer { status: 503, retry_after, body: Bytes::from_static(b"busy") };
        assert_eq!(attempt, Attempt::Answered(expected));
    }
    assert_eq!(receiver.connections(), 1);
}

/// A date in it is compared with the time that the caller passes, not with the wall clock.
#[tokio::test]
async fn a_date_to_retry_after_is_one_of_the_callers_clock() {
    let receiver = Receiver::start(|_, stream| {
        let answer = "HTTP/1.1 503 Busy\r\nRetry-After: Sun, 29 Nov 2026 06:00:00 GMT\r\n\
            Content-Length: 0\r\n\r\n";
        answer_all(stream, answer)
    })
    .await;
    let asked = answered(post(&client(), &receiver.target()).await).retry_after.unwrap();
    let delay = asked.bounded(Duration::ZERO);
    // An hour after `NOW`, less the duration of the request.
    let bounds = Duration::from_secs(3600 - 60)..=Duration::from_secs(3600);
    assert!(bounds.contains(&delay), "{delay:?}");
}

#[tokio::test]
async fn a_receiver_that_failed_can_work_again() {
    let receiver = Receiver::start(|_, mut stream| async move {
        for answer in ["HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\n\r\n"] {
            read_request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let client = client();
    assert_eq!(post(&client, &receiver.target()).await.verdict(), Verdict::Retry(None));
    assert_eq!(post(&client, &receiver.target()).await.verdict(), Verdict::Delivered);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let receiver = Receiver::start(|_, stream| {
        let answer = "HTTP/1.1 307 \r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
        answer_all(stream, answer)
    })
    .await;
    let attempt = post(&client(), &receiver.target()).await;
    assert_eq!(attempt.verdict(), Verdict::Rejected);
    assert_eq!(answered(attempt).status, 307);
    assert_eq!(receiver.connections(), 1);
}

/// Time is paused until the request has arrived; then it advances to the timeout.
#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let arrived = Arc::new(Notify::new());
    let signal = arrived.clone();
    let receiver = Receiver::start(move |_, mut stream| {
        let signal = signal.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            signal.notify_one();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (client, target) = (client(), receiver.target());
    let posting = tokio::spawn(async move { post(&client, &target).await });
    arrived.notified().await;
    tokio::time::pause();
    let expected = Failure::TimedOut(Duration::from_secs(15));
    assert_eq!(posting.await.unwrap(), Attempt::Failed(expected));
}

#[tokio::test]
async fn a_shorter_time_out_is_kept_and_a_longer_one_is_not() {
    let arrived = Arc::new(Notify::new());
    let signal = arrived.clone();
    let receiver = Receiver::start(move |_, mut stream| {
        let signal = signal.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            signal.notify_one();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let client = client();
    for (asked, expected) in [(3, 3), (60, 15)] {
        let (client, target) = (client.clone(), receiver.target());
        let asked = Some(Duration::from_secs(asked));
        let posting = tokio::spawn(async move {
            let body = Bytes::from_static(b"{}");
            client.post(&project("p"), &target, HeaderMap::new(), body, asked, NOW).await
        });
        arrived.notified().await;
        tokio::time::pause();
        let expected = Failure::TimedOut(Duration::from_secs(expected));
        assert_eq!(posting.await.unwrap(), Attempt::Failed(expected));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_body_without_end_is_read_to_its_bound() {
    let (written, mut total) = mpsc::channel(1);
    let receiver = Receiver::start(move |_, mut stream| {
        let written = written.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut sum = 0u64;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                sum += 4096;
            }
            written.send(sum).await.unwrap();
        }
    })
    .await;
    let answer = answered(post(&client(), &receiver.target()).await);
    assert_eq!((answer.status, answer.body.len()), (200, Answer::KEPT));
    // The connection is closed: otherwise the receiver would write for ever.
    assert!(total.recv().await.is_some());
}

/// The answer counts even if reading its body fails.
#[tokio::test]
async fn a_body_that_stops_half_way_ends_with_the_time_out() {
    let arrived = Arc::new(Notify::new());
    let signal = arrived.clone();
    let receiver = Receiver::start(move |_, mut stream| {
        let signal = signal.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
            signal.notify_one();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (client, target) = (client(), receiver.target());
    let posting = tokio::spawn(async move { post(&client, &target).await });
    arrived.notified().await;
    tokio::time::pause();
    assert_eq!(answered(posting.await.unwrap()).status, 200);
}

#[tokio::test]
async fn headers_without_end_are_no_answer() {
    let receiver = Receiver::start(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"X-More: and more and more and more\r\n").await.is_ok() {}
    })
    .await;
    let attempt = post(&client(), &receiver.target()).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoAnswer(_))), "{attempt:?}");
    assert_eq!(attempt.verdict(), Verdict::Retry(None));
}

#[tokio::test]
async fn connections_that_end_early_are_retried_later() {
    for garbage in ["", "HTTP/1.1 2", "SSH-2.0-OpenSSH_9\r\n"] {
        let receiver = Receiver::start(move |_, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            let _closed = stream.write_all(garbage.as_bytes()).await;
        })
        .await;
        let attempt = post(&client(), &receiver.target()).await;
        assert!(matches!(attempt, Attempt::Failed(Failure::NoAnswer(_))), "{attempt:?}");
        assert_eq!(attempt.verdict(), Verdict::Retry(None));
    }
}

/// At most one request is lost when a kept connection is closed.
#[tokio::test]
async fn kept_connections_that_are_closed_are_replaced() {
    let receiver = Receiver::start(|_, mut stream| async move {
        // The answer does not announce that the connection closes.
        if read_request(&mut stream).await.is_some() {
            let _closed = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let client = client();
    let mut delivered = 0;
    while delivered < 3 {
        let mut attempt = post(&client, &receiver.target()).await;
        if let Attempt::Failed(Failure::NoAnswer(_)) = attempt {
            attempt = post(&client, &receiver.target()).await;
        }
        assert_eq!(attempt.verdict(), Verdict::Delivered);
        delivered += 1;
    }
    assert!(receiver.connections() >= 3);
}

#[tokio::test]
async fn nobody_listens() {
    let receiver = Receiver::start(|_, _| async {}).await;
    let target = receiver.target();
    drop(receiver);
    tokio::task::yield_now().await;
    let attempt = post(&client(), &target).await;
    assert_eq!(attempt.verdict(), Verdict::Retry(None));
}

/// Above the limits, a connection ends with its request; so a project that sends to very many
/// receivers fills no table of descriptors.
#[tokio::test]
async fn kept_connections_are_bounded() {
    let options = Options { max_kept: 3, max_kept_per_project: 2, ..options() };
    let client = WebhookClient::new(&options).unwrap();
    let (one, other, third) = (project("one"), project("other"), project("third"));
    let mut receivers = Vec::new();
    for (project, is_kept) in [
        (&one, true),
        (&one, true),
        (&one, false),
        (&other, true),
        (&other, false),
        (&third, false),
    ] {
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let ended = std::sync::Mutex::new(Some(ended));
        let receiver = Receiver::start(move |_, stream| {
            let ended = ended.lock().unwrap().take();
            async move {
                answer_all(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                drop(ended);
            }
        })
        .await;
        let attempt = post_for(project, &client, &receiver.target()).await;
        assert_eq!(answered(attempt).status, 200);
        if !is_kept {
            // The client has closed it.
            end.await.unwrap_err();
        }
        receivers.push((project, receiver, is_kept));
    }
    for (project, receiver, is_kept) in &receivers {
        let attempt = post_for(project, &client, &receiver.target()).await;
        assert_eq!(answered(attempt).status, 200);
        assert_eq!(receiver.connections(), if *is_kept { 1 } else { 2 });
    }
}

#[tokio::test]
async fn connecting_is_bounded() {
    let options = Options { connect_timeout: Duration::from_secs(5), ..options() };
    let client = WebhookClient::with_resolver(&options, Unresolved).unwrap();
    let target = zaqar_notify::target::Target::parse("http://slow.example/").unwrap();
    tokio::time::pause();
    let attempt = post(&client, &target).await;
    match attempt {
        Attempt::Failed(Failure::NoConnection(text)) => assert!(text.contains("5000 ms"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A name server that never answers.
struct Unresolved;

#[async_trait::async_trait]
impl zaqar_notify::http::Resolve for Unresolved {
    async fn resolve(
        &self,
        _: &zaqar_core::ProjectId,
        _: &str,
    ) -> std::io::Result<Vec<std::net::IpAddr>> {
        std::future::pending().await
    }
}
