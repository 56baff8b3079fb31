//! The listener for operators: probes, metrics and reports over HTTP.
//!
//! It checks no token and shows what operators may see, so by default it listens on loopback, and
//! only if `[admin] port` is set. It shares nothing with the transports except the listener's code,
//! so it answers even when they are overloaded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use tracing::{error, info, warn};
use zaqar_core::{ProjectId, QueueName};
use zaqar_transport_http::{ConnectionBody, Server, ServerOptions};

use crate::config;
use crate::error::{StartError, with_causes};
use crate::metrics::{self, Metrics};
use crate::report::Reporter;
use crate::varz::varz;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Connections at once; further ones are rejected with 503.
const MAX_CONNECTIONS: usize = 64;
/// Pages of metrics and reports that are created at once; others wait.
const AT_ONCE: usize = 2;

const PAGES: &str = "\
/live                 200 while no long-lived task has died
/ready                200 while the server serves and its stores do
/metrics              metrics in the text format of Prometheus
/metrics/queues?project=ID
                      of a project's first 100 queues; the next ones with &after=NAME
/varz                 what the server is and does, as one JSON object
/report               the Guru Meditation Report
/report?format=json   the same as JSON
";

/// The listener, bound.
pub(crate) struct Admin {
    listener: TcpListener,
    pages: Arc<Pages>,
}

struct Pages {
    reporter: Reporter,
    metrics: Metrics,
    making: Semaphore,
}

impl Admin {
    /// Binds the address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn bind(
        settings: &config::Admin,
        reporter: Reporter,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let (host, port) = (settings.bind.as_str(), settings.port);
        let listener = TcpListener::bind((host, port))
            .await
            .map_err(|error| format!("[admin] cannot listen on {host} port {port}: {error}"))?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            warn!(
                %address,
                "[admin] listens on more than loopback and checks no token: anyone can see \
                 the configuration without its secrets, the last errors, and the load"
            );
        }
        info!(%address, "the listener for operators is open");
        let pages = Pages { reporter, metrics, making: Semaphore::new(AT_ONCE) };
        Ok(Self { listener, pages: Arc::new(pages) })
    }

    /// Answers until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let pages = self.pages;
        let service = service_fn(move |request: Request<ConnectionBody>| {
            let pages = Arc::clone(&pages);
            async move {
                let query = request.uri().query().unwrap_or_default();
                let page = PageRequest { method: request.method(), path: request.uri().path() };
                Ok::<_, Infallible>(pages.answer(page, query).await)
            }
        });
        let options = ServerOptions {
            name: Some("admin"),
            max_connections: MAX_CONNECTIONS,
            header_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            ..ServerOptions::default()
        };
        let server = Server { listener: self.listener.into(), service, options };
        if let Err(error) = server.run(shutdown).await {
            let error = &error as &dyn std::error::Error;
            error!(error, "the listener for operators failed");
        }
    }
}

/// The parsed request line.
#[derive(Clone, Copy)]
struct PageRequest<'a> {
    method: &'a Method,
    path: &'a str,
}

impl Pages {
    async fn answer(&self, request: PageRequest<'_>, query: &str) -> Response<Full<Bytes>> {
        if !matches!(*request.method, Method::GET | Method::HEAD) {
            let mut answer = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let status = self.reporter.status();
        match request.path {
            "/" => page(StatusCode::OK, TEXT, PAGES),
            "/live" => probe(status.live(), "live\n"),
            "/ready" => probe(status.ready(), "ready\n"),
            "/metrics" => self.metrics().await,
            "/varz" => self.varz().await,
            "/metrics/queues" => self.queues(query).await,
            "/report" if query == "format=json" => self.report(true).await,
            "/report" => self.report(false).await,
            _ => page(StatusCode::NOT_FOUND, TEXT, PAGES),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let _place = self.making.acquire().await;
        let (metrics, reporter) = (self.metrics.clone(), self.reporter.clone());
        let made = move || metrics.text(reporter.status(), reporter.recent());
        match tokio::task::spawn_blocking(made).await {
            Ok(text) => page(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    async fn queues(&self, query: &str) -> Response<Full<Bytes>> {
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.filter(|(own, _)| *own == name).map(|(_, value)| value).next()?;
            Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        let project = value("project").map(|id| ProjectId::new(&id));
        let after = value("after").map(|name| QueueName::new(&name)).transpose();
        let (Some(Ok(project)), Ok(after)) = (project, after) else {
            let text = "?project=ID, and &after=NAME for the next page\n";
            return page(StatusCode::BAD_REQUEST, TEXT, text);
        };
        let Some(stores) = self.reporter.status().opened() else {
            return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the stores are not open yet\n");
        };
        let _place = self.making.acquire().await;
        match metrics::queue_text(&stores, &project, after.as_ref()).await {
            Ok(text) => page(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => {
                let text = format!("{}\n", with_causes(&error));
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        }
    }

    async fn varz(&self) -> Response<Full<Bytes>> {
        let _place = self.making.acquire().await;
        let (metrics, reporter) = (self.metrics.clone(), self.reporter.clone());
        let made = move || varz(&metrics, reporter.status(), reporter.recent());
        match tokio::task::spawn_blocking(made).await {
            Ok(object) => page(StatusCode::OK, JSON, format!("{object:#}\n")),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    async fn report(&self, as_json: bool) -> Response<Full<Bytes>> {
        let _place = self.making.acquire().await;
        let report = self.reporter.report().await;
        if as_json {
            page(StatusCode::OK, JSON, report.json())
        } else {
            page(StatusCode::OK, TEXT, report.text())
        }
    }
}

/// The answer of a probe: a word, or all reasons with 503.
fn probe(state: Result<(), Vec<String>>, well: &'static str) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => page(StatusCode::OK, TEXT, well),
        Err(reasons) => {
            let text: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
        }
    }
}

fn page(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Idle connections would only delay the stop.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
