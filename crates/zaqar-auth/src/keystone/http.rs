//! Requests to Keystone, bounded in time and size.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;

use super::{Error, Options, Tls};

/// The environment variable that Python's requests reads, and so the original's middleware.
const BUNDLE: &str = "REQUESTS_CA_BUNDLE";
/// The longest response body; a token with a large catalog has some 100 KiB.
const MAX_ANSWER: usize = 1024 * 1024;
/// Idle connections, at most.
const IDLE: usize = 16;
/// How long idle connections are kept; shorter than the keep-alive time of Keystone's servers.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// The pause before the first retry to connect; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// A client for one Keystone.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    retries: u32,
}

/// A response, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Bytes,
    url: String,
}

impl Answer {
    /// The bytes that were answered.
    pub(super) const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The document that was answered.
    pub(super) fn json(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.body).map_err(|source| self.malformed(source))
    }

    pub(super) fn malformed(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Malformed { url: self.url.clone(), source: source.into().into() }
    }

    /// An error for a status that was not expected.
    pub(super) fn refused(&self, request: &'static str) -> Error {
        Error::Refused { url: self.url.clone(), request, status: self.status }
    }
}

impl Http {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(options.connect_timeout));
        connector.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(&options.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_FOR)
            .build(connector);
        Ok(Self { client, timeout: options.timeout, retries: options.retries })
    }

    /// Sends a request. Only connecting is retried, after a pause; the timeout covers all attempts.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        document: Option<&Value>,
    ) -> Result<Answer, Error> {
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable {
            url: url.to_owned(),
            source: source.into(),
        };
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| unreachable(e.into()))?;
        let body = document.map(|document| Bytes::from(document.to_string())).unwrap_or_default();
        let asking = async {
            let mut pause = PAUSE;
            let mut tries = 0;
            loop {
                let mut request = Request::new(Full::new(body.clone()));
                *request.method_mut() = method.clone();
                *request.uri_mut() = uri.clone();
                request.headers_mut().clone_from(headers);
                // Pass the caller's trace on. Its value is hexadecimal, so it is a valid header.
                let parent = zaqar_api::outgoing_trace().map(|parent| parent.to_string());
                if let Some(Ok(parent)) = parent.map(http::HeaderValue::try_from) {
                    request.headers_mut().insert("traceparent", parent);
                }
                add_profile(request.headers_mut());
                match self.client.request(request).await {
                    Ok(answer) => break Ok(answer),
                    Err(error) if error.is_connect() && tries < self.retries => {
                        tries += 1;
                        tokio::time::sleep(pause).await;
                        pause *= 2;
                    }
                    Err(error) => break Err(unreachable(error.into())),
                }
            }
        };
        let whole = async {
            let (head, body) = asking.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(unreachable)?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
                url: url.to_owned(),
            })
        };
        match tokio::time::timeout(self.timeout, whole).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(unreachable(elapsed.into())),
        }
    }
}

/// OSprofiler's headers, where the operation is recorded for it.
fn add_profile(headers: &mut HeaderMap) {
    let Some(profile) = zaqar_api::outgoing_profile() else { return };
    for (name, value) in [("x-trace-info", profile.info), ("x-trace-hmac", profile.signature)] {
        if let Ok(value) = http::HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn tls(options: &Tls) -> Result<ClientConfig, Error> {
    let wrong = |option, reason: String| Error::Options { option, reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("cafile", error.to_string()))?;
    let builder = if options.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(options.cafile.as_deref())?)
    };
    let Some((certfile, keyfile)) = &options.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = certificates("certfile", certfile)?;
    let key = PrivateKeyDer::from_pem_file(keyfile)
        .map_err(|error| wrong("keyfile", format!("{}: {error}", keyfile.display())))?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|error| wrong("certfile", error.to_string()))
}

/// The authorities that are trusted: `cafile`'s, else those of `REQUESTS_CA_BUNDLE`, as with
/// Python's requests, else the system's.
fn roots(cafile: Option<&Path>) -> Result<RootCertStore, Error> {
    let bundle = || std::env::var_os(BUNDLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let file = match cafile {
        Some(path) => Some(("cafile", path.to_owned())),
        None => bundle().map(|path| (BUNDLE, path)),
    };
    let mut roots = RootCertStore::empty();
    let Some((option, path)) = file else {
        // A machine without CA certificates can still use a Keystone without TLS.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    roots.add_parsable_certificates(certificates(option, &path)?);
    if roots.is_empty() {
        let reason = format!("{}: no certificate in it can be used", path.display());
        return Err(Error::Options { option, reason });
    }
    Ok(roots)
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong =
        |reason: String| Error::Options { option, reason: format!("{}: {reason}", path.display()) };
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate is in it".to_owned())) } else { Ok(found) }
}

/// Accepts any certificate, for `insecure = True`. Signatures are still checked.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
