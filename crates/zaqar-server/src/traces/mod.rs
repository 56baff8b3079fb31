//! Traces: a span for each operation and for its calls to stores, sent by OTLP and to OSprofiler's
//! Redis.
//!
//! Nothing here delays a request: a finished span is put into a bounded queue, or dropped. Requests
//! to webhooks never contain a trace.

mod exporter;
mod otlp;
mod profiler;
mod redis;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use zaqar_api::{
    ActiveSpan, Authentication, Context, Error, Facts, Method, ProfilerHeaders, TraceParent,
    Tracer, Wire,
};
use zaqar_core::storage;

use crate::config::{self, ProfilerTarget};
use crate::error::StartError;
use crate::metrics::{error_name, outcome_name};

pub(crate) use exporter::Counts;

use exporter::{Exporter, SpanSender};
use profiler::Traced;
use span::{Kind, Profile, Span, SpanId};

/// Records operations, as the settings configure it. Clones share it.
#[derive(Clone)]
pub(crate) struct Traces {
    inner: Arc<Inner>,
}

struct Inner {
    settings: config::Traces,
    host: String,
    /// Gets every span.
    all: Option<SpanSender>,
    /// Gets the spans that OSprofiler requested.
    profiled: Option<SpanSender>,
    counts: Counts,
}

/// The exporters, to be run.
pub(crate) struct Exporters(Vec<Exporter>);

impl Exporters {
    /// Sends until `stop`, and then the rest.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut running = tokio::task::JoinSet::new();
        for exporter in self.0 {
            running.spawn(exporter.run(stop.clone()));
        }
        running.join_all().await;
    }
}

impl Traces {
    /// `None` if the settings enable no traces.
    ///
    /// # Errors
    /// The collector's or Redis's settings are invalid.
    pub(crate) fn new(settings: &config::Traces) -> Result<Option<(Self, Exporters)>, StartError> {
        let (counts, mut exporters) = (Counts::default(), Vec::new());
        let mut add = |sink| {
            let (sender, exporter) = Exporter::new(sink, counts.clone());
            exporters.push(exporter);
            sender
        };
        let all = match &settings.otlp {
            Some(options) => Some(add(Box::new(otlp::Collector::new(options)?))),
            None => None,
        };
        let profiled = match settings.profiler.as_ref() {
            None => None,
            Some(profiler) => Some(match &profiler.target {
                ProfilerTarget::Otlp(options) => add(Box::new(otlp::Collector::new(options)?)),
                ProfilerTarget::Redis(uri) => {
                    let lists = redis::Lists::new(uri, SERVICE, profiler.lists_errors)?;
                    add(Box::new(lists))
                }
            }),
        };
        if exporters.is_empty() {
            return Ok(None);
        }
        let (settings, host) = (settings.clone(), host());
        let inner = Arc::new(Inner { settings, host, all, profiled, counts });
        Ok(Some((Self { inner }, Exporters(exporters))))
    }

    /// Whether calls to stores are recorded at all.
    pub(crate) fn wants_store_calls(&self) -> bool {
        let profiler = self.inner.settings.profiler.as_ref();
        self.inner.all.is_some()
            || profiler.is_some_and(|one| one.message_store || one.management_store)
    }

    /// Counts of spans.
    pub(crate) fn counts(&self) -> &Counts {
        &self.inner.counts
    }
}

/// The service's name for OSprofiler, as in the original.
const SERVICE: &str = "Zaqar-server";

impl Tracer for Traces {
    fn begin(&self, context: &Context, facts: &Facts<'_>) -> Option<Arc<dyn ActiveSpan>> {
        let traced = self.inner.profiled(context);
        if traced.is_none() && !self.inner.samples(context) {
            return None;
        }
        let id = SpanId::random();
        let base = traced.as_ref().and_then(|traced| span::parse_uuid(&traced.base));
        let (trace, parent) = match (context.trace_parent, &traced, base) {
            (Some(parent), _, _) => (parent.trace, Some(parent.span)),
            (None, Some(traced), Some(base)) => {
                let parent =
                    span::parse_uuid(&traced.parent).filter(|_| traced.parent != traced.base);
                // The lower half is the id in OSprofiler's own OTLP driver.
                (base, parent.map(|parent| (parent & u128::from(u64::MAX)) as u64))
            }
            (None, _, _) => (rand::random::<u128>().max(1), None),
        };
        let path = facts.path();
        let attributes = attributes(context, facts, &path, traced.as_ref());
        Some(Arc::new(Active {
            traces: self.clone(),
            trace,
            id,
            parent,
            kind: match context.authentication {
                Authentication::Server => Kind::Internal,
                Authentication::Unchecked { .. }
                | Authentication::Token(_)
                | Authentication::Signature(_) => Kind::Server,
            },
            name: facts.declaration.name,
            profile: traced
                .map(|traced| self.inner.profile(traced, facts.declaration.method, &path)),
            began: wall_clock(),
            started: Instant::now(),
            attributes,
            has_ended: AtomicBool::new(false),
        }))
    }
}

impl Inner {
    /// Whether an operation is sampled for general traces.
    fn samples(&self, context: &Context) -> bool {
        let Some(options) = &self.settings.otlp else { return false };
        match context.trace_parent {
            Some(parent) => parent.sampled,
            None => options.sample >= 1.0 || rand::random::<f64>() < options.sample,
        }
    }

    /// OSprofiler's headers, if they are valid.
    fn profiled(&self, context: &Context) -> Option<Traced> {
        let (headers, profiler) = (context.profiler.as_ref()?, self.settings.profiler.as_ref()?);
        if !profiler.wsgi || context.wire != Wire::Http {
            return None;
        }
        profiler::verify(headers, &profiler.keys)
    }

    fn profile(&self, traced: Traced, method: Method, path: &str) -> Profile {
        let request =
            json!({ "path": path, "query": "", "method": method.as_str(), "scheme": "http" });
        Profile {
            base: traced.base,
            parent: traced.parent,
            key: traced.key,
            name: "wsgi",
            info: json!({ "host": self.host, "request": request }),
        }
    }

    fn take(&self, span: Span) {
        let is_profiled = span.profile.is_some();
        let span = Arc::new(span);
        if let Some(all) = &self.all {
            all.take(&span);
        }
        if let Some(profiled) = self.profiled.as_ref().filter(|_| is_profiled) {
            profiled.take(&span);
        }
    }
}

/// The span of an operation in progress.
struct Active {
    traces: Traces,
    trace: u128,
    id: SpanId,
    parent: Option<u64>,
    kind: Kind,
    name: &'static str,
    profile: Option<Profile>,
    began: SystemTime,
    started: Instant,
    attributes: Vec<(&'static str, String)>,
    has_ended: AtomicBool,
}

impl Active {
    fn finish(&self, error: Option<&'static str>) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.traces.inner.take(Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            kind: self.kind,
            name: self.name.to_owned(),
            began: self.began,
            ended: self.began + self.started.elapsed(),
            attributes: self.attributes.clone(),
            error,
            profile: self.profile.clone(),
        });
    }

    /// OSprofiler's data for a call to a store, if it was requested.
    fn profile_of(&self, role: &str, call: &str) -> Option<Profile> {
        let profiler = self.traces.inner.settings.profiler.as_ref()?;
        let (is_wanted, name) = match role {
            "message" => (profiler.message_store, "message_store"),
            _ => (profiler.management_store, "management_store"),
        };
        let own = self.profile.as_ref().filter(|_| is_wanted)?;
        let info = json!({ "host": self.traces.inner.host, "function": { "name": call } });
        let (base, parent) = (own.base.clone(), self.id.uuid());
        Some(Profile { base, parent, key: own.key, name, info })
    }
}

impl ActiveSpan for Active {
    fn store_call(
        &self,
        role: &'static str,
        call: &'static str,
        elapsed: Duration,
        error: Option<&storage::Error>,
    ) {
        let profile = self.profile_of(role, call);
        if profile.is_none() && self.traces.inner.all.is_none() {
            return;
        }
        let ended = self.began + self.started.elapsed();
        self.traces.inner.take(Span {
            trace: self.trace,
            id: SpanId::random(),
            parent: Some(self.id.short()),
            kind: Kind::Client,
            name: format!("{role} store: {call}"),
            began: ended.checked_sub(elapsed).unwrap_or(self.began),
            ended,
            attributes: vec![
                ("db.operation.name", call.to_owned()),
                ("zaqar.store", role.to_owned()),
            ],
            error: error.map(|error| outcome_name(Some(error))),
            profile,
        });
    }

    fn context(&self) -> TraceParent {
        TraceParent { trace: self.trace, span: self.id.short(), sampled: true }
    }

    fn profiler(&self) -> Option<ProfilerHeaders> {
        let (profile, settings) = (self.profile.as_ref()?, &self.traces.inner.settings);
        let key = settings.profiler.as_ref()?.keys.get(profile.key)?;
        profiler::sign(&profile.base, &self.id.uuid(), key)
    }

    fn end(&self, error: Option<&Error>) {
        self.finish(error.map(error_name));
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.finish(Some("cancelled"));
    }
}

/// The attributes of an operation's span, which never contain message data.
fn attributes(
    context: &Context,
    facts: &Facts<'_>,
    path: &str,
    traced: Option<&Traced>,
) -> Vec<(&'static str, String)> {
    let wire = match context.wire {
        Wire::InProcess => "none",
        Wire::Http => "http",
        Wire::WebSocket => "websocket",
    };
    let mut attributes = vec![
        ("messaging.system", "zaqar".to_owned()),
        ("http.request.method", facts.declaration.method.as_str().to_owned()),
        ("url.path", path.to_owned()),
        ("zaqar.wire", wire.to_owned()),
        ("zaqar.project", context.project.as_str().to_owned()),
        ("zaqar.request_id", context.request_id.as_str().to_owned()),
    ];
    if let Some(queue) = facts.queue {
        attributes.push(("messaging.destination.name", queue.as_str().to_owned()));
    }
    if let Some(traced) = traced {
        attributes.push(("osprofiler.base_id", traced.base.clone()));
        attributes.push(("osprofiler.parent_id", traced.parent.clone()));
    }
    attributes
}

/// Wall-clock time, comparable with the spans of other machines.
#[expect(clippy::disallowed_methods, reason = "a span says when it was; nothing depends on it")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// This machine's name, as OSprofiler shows it.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
