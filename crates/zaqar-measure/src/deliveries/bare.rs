//! A bare HTTP client, built as the server's: what it sends is known before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::zaqar::BODY;

/// Bytes around a message's body in a notification.
const ENVELOPE: usize = 72;

type Bare = Client<HttpConnector, Full<Bytes>>;

/// Sends requests, so many at once, on as many threads as the server has; requests a second.
pub(super) async fn rate(
    addresses: Vec<SocketAddr>,
    in_flight: usize,
    requests: usize,
) -> Result<f64, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Serve { source })?;
    let thread =
        std::thread::spawn(move || runtime.block_on(send_all(addresses, in_flight, requests)));
    tokio::task::spawn_blocking(move || thread.join())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or(Error::Nothing { reason: "the bare client panicked" })?
}

async fn send_all(
    addresses: Vec<SocketAddr>,
    in_flight: usize,
    requests: usize,
) -> Result<f64, Error> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Bare = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http1_title_case_headers(true)
        .build(connector);
    let body = Bytes::from(format!("\"{}\"", "x".repeat(BODY + ENVELOPE - 2)));
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut sending = JoinSet::new();
    for _ in 0..in_flight {
        let (client, body, next) = (client.clone(), body.clone(), Arc::clone(&next));
        let addresses = addresses.clone();
        sending.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return Ok(());
                }
                send(&client, addresses[number % addresses.len()], body.clone()).await?;
            }
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.map_err(|_| Error::Nothing { reason: "the bare client panicked" })??;
    }
    Ok(requests as f64 / started.elapsed().as_secs_f64())
}

async fn send(client: &Bare, address: SocketAddr, body: Bytes) -> Result<(), Error> {
    let failed = |reason: String| Error::Answer { reason };
    let request = Request::post(format!("http://{address}/"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| failed(error.to_string()))?;
    let answer = client.request(request).await.map_err(|error| failed(error.to_string()))?;
    let is_taken = answer.status().is_success();
    answer.into_body().collect().await.map_err(|error| failed(error.to_string()))?;
    if is_taken { Ok(()) } else { Err(failed("an endpoint rejects".to_owned())) }
}
