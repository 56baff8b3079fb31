//! Subscribes itself to a queue and takes signed webhooks: `webhook-receiver QUEUE [COUNT]`. What
//! is not signed with the subscription's secret is answered 401.
//!
//! The server must be allowed to call it: `[notification] allow_networks = 127.0.0.0/8`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zaqar_client::NewSubscription;
use zaqar_client::cloud::Settings;
use zaqar_client::webhook::{Headers, Notification, Verifier};
use zaqar_core::{Clock, SystemClock};

/// The largest webhook.
const MAX_BODY: usize = 1024 * 1024;
/// Webhooks whose ids are remembered, to tell a repeat.
const REMEMBERED: usize = 10_000;

struct Receiver {
    verifier: Verifier,
    clock: SystemClock,
    seen: Mutex<VecDeque<String>>,
    received: mpsc::Sender<Notification>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: webhook-receiver QUEUE [COUNT]")?;
    let count: usize = arguments.next().map_or(Ok(usize::MAX), |text| text.parse())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}/", listener.local_addr()?);

    let queue = Settings::from_env()?.builder()?.build()?.queue(&name)?;
    let new = NewSubscription::new(&address).ttl(3600).option("signing", true);
    let subscribed = queue.subscribe(&new).await?;
    let secret = subscribed.secret.ok_or("the server does not sign")?;
    println!("{address} is subscribed to {name}");

    let (received, mut notifications) = mpsc::channel(16);
    let verifier = Verifier::new(&secret)?;
    let (clock, seen) = (SystemClock, Mutex::default());
    let receiver = Arc::new(Receiver { verifier, clock, seen, received });
    tokio::spawn(serve(listener, receiver));
    let mut left = count;
    while left > 0 {
        let Some(notification) = notifications.recv().await else { break };
        println!("{}", notification.body.as_json());
        left -= 1;
    }
    queue.subscription(&subscribed.subscription_id).delete().await?;
    Ok(())
}

async fn serve(listener: TcpListener, receiver: Arc<Receiver>) {
    while let Ok((stream, _)) = listener.accept().await {
        let receiver = Arc::clone(&receiver);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let receiver = Arc::clone(&receiver);
                async move {
                    let mut answer = Response::new(Empty::<Bytes>::new());
                    *answer.status_mut() = receiver.receive(request).await;
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A connection that breaks concerns its client alone: the server sends again.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Receiver {
    /// 2xx is "got it": the server sends no more.
    async fn receive(&self, request: Request<Incoming>) -> StatusCode {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return StatusCode::PAYLOAD_TOO_LARGE;
        };
        let body = body.to_bytes();
        let headers = Headers {
            id: text(&head.headers, "webhook-id"),
            timestamp: text(&head.headers, "webhook-timestamp"),
            signature: text(&head.headers, "webhook-signature"),
        };
        if let Err(error) = self.verifier.verify(&headers, &body, self.clock.now()) {
            println!("rejected: {error}");
            return StatusCode::UNAUTHORIZED;
        }
        let Ok(notification) = serde_json::from_slice(&body) else {
            return StatusCode::BAD_REQUEST;
        };
        // A place first: an id that is remembered is one whose notification is received.
        let Ok(place) = self.received.reserve().await else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        // Delivery is at least once: a repeat has the same id.
        if !self.is_repeat(headers.id) {
            place.send(notification);
        }
        StatusCode::NO_CONTENT
    }

    fn is_repeat(&self, id: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.iter().any(|known| known == id) {
            return true;
        }
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(id.to_owned());
        false
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
