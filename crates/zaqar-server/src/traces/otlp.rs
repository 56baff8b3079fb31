//! OTLP over HTTP, in its JSON form: the request, and its client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::exporter::{Failure, Sink};
use super::span::{Kind, Span, nanos};
use crate::config::Otlp;
use crate::error::StartError;

/// The timeouts of connecting, and of a whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a response that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends spans to a collector.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    service: String,
}

impl Collector {
    pub(super) fn new(options: &Otlp) -> Result<Self, StartError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(options.ca_file.as_deref())?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(4))
            .pool_max_idle_per_host(1)
            .build(connector);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &options.headers {
            let name: HeaderName = name.parse()?;
            let mut value = HeaderValue::from_str(value.expose())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let uri = format!("{}/v1/traces", options.endpoint.trim_end_matches('/')).parse()?;
        Ok(Self { client, uri, headers, service: options.service.clone() })
    }

    async fn post(&self, document: Bytes) -> Result<(), Failure> {
        let mut request = Request::new(Full::new(document));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        let answer = self.client.request(request).await.map_err(Failure::retryable)?;
        let status = answer.status();
        // Read to the end, so that the connection can be reused.
        let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::retryable(refused(status))),
            status => Err(Failure::permanent(refused(status))),
        }
    }
}

fn refused(status: StatusCode) -> String {
    format!("the collector answered {status}")
}

#[async_trait]
impl Sink for Collector {
    async fn send(&self, spans: &[Arc<Span>]) -> Result<(), Failure> {
        let document = Bytes::from(document(spans, &self.service).to_string());
        match tokio::time::timeout(TIMEOUT, self.post(document)).await {
            Ok(sent) => sent,
            Err(elapsed) => Err(Failure::retryable(elapsed)),
        }
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path)? {
                roots.add(certificate?)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The request to OTLP's trace service. Ids are hexadecimal, 64-bit numbers are strings.
fn document(spans: &[Arc<Span>], service: &str) -> Value {
    let spans: Vec<_> = spans.iter().map(|span| shown(span)).collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = [("service.name", service), ("service.version", version)];
    let resource: Vec<_> = resource.map(|(key, value)| attribute(key, value)).to_vec();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{
                "scope": { "name": "zaqar-server", "version": version },
                "spans": spans,
            }],
        }],
    })
}

fn shown(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    };
    let mut attributes: Vec<_> =
        span.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let mut document = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id.short()),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanos(span.began).to_string(),
        "endTimeUnixNano": nanos(span.ended).to_string(),
    });
    if let Some(parent) = span.parent {
        document["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(error) = span.error {
        attributes.push(attribute("error.type", error));
        document["status"] = json!({ "code": 2, "message": error });
    }
    document["attributes"] = attributes.into();
    document
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}
