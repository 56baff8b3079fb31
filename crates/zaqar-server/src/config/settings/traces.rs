//! `[traces]` and `[profiler]`: what is traced, and where it is sent.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};
use zaqar_core::Secret;

use crate::config::reader::{Options, Reader};

/// The well-known default key.
const DEFAULT_KEY: &str = "SECRET_KEY";

const DRIVERS: &str = "a URI of a supported driver: redis://HOST:PORT/DB or otlp://HOST:PORT";
const PUBLIC_KEY: &str =
    "SECRET_KEY is the well-known default: requests signed with it are not traced";
const NO_DRIVER: &str = "requests are not traced: the supported drivers are redis:// and otlp://";

/// What is traced, and where it is sent.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// `[traces]`; `None` without an `otlp_endpoint`.
    pub otlp: Option<Otlp>,
    /// `[profiler]`, if it is enabled and has a key and a driver.
    pub profiler: Option<Profiler>,
}

/// A collector for OTLP over HTTP.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// Its URL, without `/v1/traces`.
    pub endpoint: String,
    /// Headers of every request.
    pub headers: Vec<(String, Secret<String>)>,
    /// The CA certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The fraction of requests that is sampled, unless the caller has decided.
    pub sample: f64,
    /// `service.name`.
    pub service: String,
}

/// Tracing that OSprofiler's headers request.
#[derive(Debug, Clone)]
pub struct Profiler {
    /// `hmac_keys`, without the default.
    pub keys: Vec<Secret<String>>,
    /// `connection_string`.
    pub target: ProfilerTarget,
    /// `trace_wsgi_transport`.
    pub wsgi: bool,
    /// `trace_message_store`.
    pub message_store: bool,
    /// `trace_management_store`.
    pub management_store: bool,
    /// `filter_error_trace`: traces with an error are also listed separately.
    pub lists_errors: bool,
}

/// A driver of OSprofiler.
#[derive(Debug, Clone)]
pub enum ProfilerTarget {
    /// `redis://`
    Redis(Secret<String>),
    /// `otlp://`
    Otlp(Otlp),
}

impl Traces {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let otlp = otlp(&mut reader.section("traces"));
        let prefix = reader.section("profiler_otlp").optional_text("service_name_prefix");
        let profiler = profiler(&mut reader.section("profiler"), prefix.as_deref());
        Self { otlp, profiler }
    }
}

fn otlp(options: &mut Options<'_>) -> Option<Otlp> {
    let endpoint = options.optional_text("otlp_endpoint");
    let headers = headers(options);
    let sample = options.float("sample");
    let service = options.text("service_name");
    let ca_file = options.optional_text("ca_file").map(PathBuf::from);
    let endpoint = endpoint?;
    if !is_url(&endpoint) {
        options.refuse("otlp_endpoint", "a URL such as http://collector.example.org:4318");
        return None;
    }
    Some(Otlp { endpoint, headers, ca_file, sample, service })
}

fn is_url(text: &str) -> bool {
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    text.parse::<Uri>().is_ok_and(|uri| is_web(&uri) && uri.host().is_some())
}

fn headers(options: &mut Options<'_>) -> Vec<(String, Secret<String>)> {
    let items = options.list("otlp_headers");
    let given = items.iter().filter(|item| !item.is_empty());
    let headers: Option<Vec<_>> = given.map(|item| header(item)).collect();
    headers.unwrap_or_else(|| {
        options.refuse("otlp_headers", "headers as NAME=VALUE, separated by commas");
        Vec::new()
    })
}

fn header(item: &str) -> Option<(String, Secret<String>)> {
    let (name, value) = item.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let fits = name.parse::<HeaderName>().is_ok() && HeaderValue::from_str(value).is_ok();
    fits.then(|| (name.to_owned(), Secret::new(value.to_owned())))
}

fn profiler(options: &mut Options<'_>, prefix: Option<&str>) -> Option<Profiler> {
    if !options.boolean("enabled") {
        return None;
    }
    let all = options.list("hmac_keys");
    if all.iter().any(|key| key == DEFAULT_KEY) {
        options.warn("hmac_keys", PUBLIC_KEY);
    }
    let is_ours = |key: &String| !key.is_empty() && key != DEFAULT_KEY;
    let keys: Vec<_> = all.into_iter().filter(is_ours).map(Secret::new).collect();
    let target = target(options, prefix)?;
    let profiler = Profiler {
        keys,
        target,
        wsgi: options.boolean("trace_wsgi_transport"),
        message_store: options.boolean("trace_message_store"),
        management_store: options.boolean("trace_management_store"),
        lists_errors: options.boolean("filter_error_trace"),
    };
    (!profiler.keys.is_empty()).then_some(profiler)
}

fn target(options: &mut Options<'_>, prefix: Option<&str>) -> Option<ProfilerTarget> {
    let text = options.text("connection_string");
    let (scheme, rest) = text.split_once("://").unwrap_or((text.as_str(), ""));
    match scheme {
        "redis" | "rediss" => Some(ProfilerTarget::Redis(Secret::new(text))),
        "otlp" if is_url(&format!("http://{rest}")) => {
            let prefix = prefix.map(|prefix| format!("{prefix}-")).unwrap_or_default();
            Some(ProfilerTarget::Otlp(Otlp {
                endpoint: format!("http://{rest}"),
                headers: Vec::new(),
                ca_file: None,
                sample: 0.0,
                service: format!("{prefix}Zaqar-Zaqar-server"),
            }))
        }
        "otlp" => {
            options.refuse("connection_string", DRIVERS);
            None
        }
        // Files of other deployments name drivers that this server does not have.
        _ => {
            options.warn("connection_string", NO_DRIVER);
            None
        }
    }
}
