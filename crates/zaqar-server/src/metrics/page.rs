//! The page of metrics: every family with its name, help and samples.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use zaqar_auth::quotas::Limit;
use zaqar_core::MemoryBounds;

use crate::metrics::Counted;
use crate::metrics::histogram::Snapshot;
use crate::metrics::process::Process;
use crate::report::RecentErrors;
use crate::status::{Phase, Status};
use crate::store::FigureKind;

pub(super) type Labels = Vec<(&'static str, String)>;
pub(super) type Samples = Vec<(Labels, f64)>;

/// All metrics in the text format of Prometheus.
pub(super) fn text(counted: &Counted, status: &Status, recent: &RecentErrors) -> String {
    let mut families = Families::default();
    build(&mut families);
    operations(&mut families, counted);
    stores(&mut families, counted, status);
    messages(&mut families, counted);
    connections(&mut families, status);
    deliveries(&mut families, status);
    bounds(&mut families, status);
    quotas(&mut families, status);
    traces(&mut families, status);
    pools(&mut families, status);
    state(&mut families, status, recent);
    process(&mut families);
    families.text()
}

/// Complete families.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: String,
    help: &'static str,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Counters(Samples),
    Gauges(Samples),
    Histograms(Vec<(Labels, Snapshot)>),
}

impl Families {
    fn counters(&mut self, name: &str, help: &'static str, samples: Samples) {
        self.add(name, help, Content::Counters(samples));
    }

    pub(super) fn gauges(&mut self, name: &str, help: &'static str, samples: Samples) {
        self.add(name, help, Content::Gauges(samples));
    }

    fn histograms(&mut self, name: &str, help: &'static str, all: Vec<(Labels, Snapshot)>) {
        self.add(name, help, Content::Histograms(all));
    }

    fn counter(&mut self, name: &str, help: &'static str, value: f64) {
        self.counters(name, help, vec![(Labels::new(), value)]);
    }

    fn gauge(&mut self, name: &str, help: &'static str, value: f64) {
        self.gauges(name, help, vec![(Labels::new(), value)]);
    }

    fn add(&mut self, name: &str, help: &'static str, content: Content) {
        self.0.push(Family { name: name.to_owned(), help, content });
    }

    /// They as text.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, content } in &self.0 {
            let kind = match content {
                Content::Counters(_) => MetricType::Counter,
                Content::Gauges(_) => MetricType::Gauge,
                Content::Histograms(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            match content {
                Content::Counters(samples) => {
                    for (labels, value) in samples {
                        let mut one = family.encode_family(labels)?;
                        one.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                    }
                }
                Content::Gauges(samples) => {
                    for (labels, value) in samples {
                        family.encode_family(labels)?.encode_gauge(value)?;
                    }
                }
                Content::Histograms(all) => {
                    for (labels, Snapshot { sum, count, buckets }) in all {
                        let mut one = family.encode_family(labels)?;
                        one.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn build(families: &mut Families) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    families.gauges("zaqar_build_info", "1, with the version of the server", vec![(version, 1.0)]);
}

fn operations(families: &mut Families, counted: &Counted) {
    let (mut totals, mut durations) = (Samples::new(), Vec::new());
    for one in counted.operations.counted() {
        let labels = [("operation", one.operation), ("wire", one.wire)];
        let labels = || labels.map(|(name, value)| (name, value.to_owned())).to_vec();
        for (outcome, count) in one.outcomes {
            let mut labels = labels();
            labels.push(("outcome", outcome.to_owned()));
            totals.push((labels, float(count)));
        }
        durations.push((labels(), one.durations));
    }
    let help = "Operations that ended, by name, wire and outcome";
    families.counters("zaqar_operations", help, totals);
    let help = "Seconds that operations took, from the transport's call to their end";
    families.histograms("zaqar_operation_duration_seconds", help, durations);
}

fn stores(families: &mut Families, counted: &Counted, status: &Status) {
    let (mut totals, mut durations) = (Samples::new(), Vec::new());
    let mut swept = Samples::new();
    for calls in [&counted.message_store, &counted.management_store] {
        for one in calls.counted() {
            let labels = [("store", calls.role), ("call", one.call)];
            let labels = || labels.map(|(name, value)| (name, value.to_owned())).to_vec();
            for (outcome, count) in one.outcomes {
                let mut labels = labels();
                labels.push(("outcome", outcome.to_owned()));
                totals.push((labels, float(count)));
            }
            durations.push((labels(), one.durations));
        }
        swept.push((of_store(calls.role), float(calls.swept.get())));
    }
    let help = "Calls to the stores that ended, by role of the store, method and outcome";
    families.counters("zaqar_store_calls", help, totals);
    let help = "Seconds that calls to the stores took";
    families.histograms("zaqar_store_call_duration_seconds", help, durations);
    let help = "Rows that sweeps deleted or moved: what expired, was purged, or became visible";
    families.counters("zaqar_swept_rows", help, swept);

    let (mut up, mut figures) = (Samples::new(), Vec::new());
    for store in status.stores() {
        let serves = store.health.check().is_ok();
        up.push((of_store(store.role), f64::from(u8::from(serves))));
        let told = store.figures.as_ref().map(|figures| figures()).unwrap_or_default();
        figures.extend(told.into_iter().map(|figure| (store.role, figure)));
    }
    families.gauges("zaqar_store_up", "1 while the store is available, by its last ping", up);
    figures.sort_by_key(|(role, figure)| (figure.name, *role));
    for same in figures.chunk_by(|(_, one), (_, other)| one.name == other.name) {
        let samples = same.iter().map(|(role, figure)| (of_store(role), figure.value)).collect();
        let Some((_, first)) = same.first() else { continue };
        let name = format!("zaqar_store_{}", first.name);
        match first.kind {
            FigureKind::Counter => families.counters(&name, first.help, samples),
            FigureKind::Gauge => families.gauges(&name, first.help, samples),
        }
    }
}

fn messages(families: &mut Families, counted: &Counted) {
    let messages = &counted.messages;
    let counter = |families: &mut Families, name, help, count: &super::calls::Count| {
        families.counter(name, help, float(count.get()));
    };
    let help = "Messages that were posted to queues and topics through this server";
    counter(families, "zaqar_messages_posted", help, &messages.posted);
    let help = "Messages returned by claims, counted each time";
    counter(families, "zaqar_messages_claimed", help, &messages.claimed);
    let help = "Messages returned by claims, not for the first time";
    counter(families, "zaqar_messages_redelivered", help, &messages.redelivered);
    let help = "Messages returned by pops";
    counter(families, "zaqar_messages_popped", help, &messages.popped);
    let help = "Messages named in successful deletions, including those that were gone before";
    counter(families, "zaqar_messages_deleted", help, &messages.deleted);
    let help = "Messages that clients freed by releasing their claim";
    counter(families, "zaqar_messages_released", help, &messages.released);
    let help = "Messages that expired, as this server's sweeps found";
    counter(families, "zaqar_messages_expired", help, &messages.expired);
    let help = "Messages that claims moved to a dead-letter queue";
    counter(families, "zaqar_messages_dead_lettered", help, &messages.dead_lettered);
}

fn connections(families: &mut Families, status: &Status) {
    let (mut open, mut accepted, mut rejected) = (Samples::new(), Samples::new(), Samples::new());
    for transport in status.transports() {
        let Some(counts) = transport.connections else { continue };
        let labels = || vec![("transport", transport.name.clone())];
        open.push((labels(), size(counts.open())));
        accepted.push((labels(), float(counts.accepted())));
        rejected.push((labels(), float(counts.rejected())));
    }
    families.gauges("zaqar_connections", "Connections that are open", open);
    let help = "Connections that were accepted";
    families.counters("zaqar_connections_accepted", help, accepted);
    let help = "Connections rejected because of their number or the memory budget";
    families.counters("zaqar_connections_rejected", help, rejected);
}

fn deliveries(families: &mut Families, status: &Status) {
    let Some(handle) = status.deliveries() else { return };
    let (counts, circuits) = (handle.counts(), handle.circuits());
    let by = |label: &'static str, values: &[(&str, f64)]| -> Samples {
        values.iter().map(|(name, value)| (vec![(label, (*name).to_owned())], *value)).collect()
    };
    let ended = by(
        "outcome",
        &[
            ("delivered", float(counts.delivered)),
            ("failed", float(counts.failed)),
            ("expired", float(counts.expired)),
        ],
    );
    let help = "Deliveries to subscribers that ended, by outcome";
    families.counters("zaqar_deliveries", help, ended);
    let help = "Failed attempts to deliver that are retried";
    families.counter("zaqar_delivery_retries", help, float(counts.retried));
    let help = "Subscriptions that were suspended";
    families.counter("zaqar_subscriptions_suspended", help, float(counts.suspended));
    let help = "Deliveries in progress";
    families.gauge("zaqar_deliveries_in_flight", help, f64::from(handle.in_flight()));
    let help = "Subscriptions that this server is serving";
    families.gauge("zaqar_subscriptions_served", help, size(handle.served()));
    let states = by("circuit", &[("ok", size(circuits.ok)), ("open", size(circuits.open))]);
    let help = "Destinations of deliveries with something in progress or failed, by circuit";
    families.gauges("zaqar_destinations", help, states);
}

fn bounds(families: &mut Families, status: &Status) {
    let Some(bounds) = status.bounds() else { return };
    let operations = &bounds.operations;
    let help = "Operations in progress";
    families.gauge("zaqar_operations_in_progress", help, size(operations.in_progress()));
    let help = "Operations rejected because too many were in progress";
    families.counter("zaqar_operations_shed", help, float(operations.refused()));
    let MemoryBounds { process, .. } = bounds.memory.bounds();
    let help = "Bytes of the memory budget that are in use";
    families.gauge("zaqar_memory_budget_used_bytes", help, size(bounds.memory.in_use()));
    families.gauge("zaqar_memory_budget_bytes", "Bytes of the memory budget", size(process));
    let help = "Requests, responses and connections that the memory budget rejected";
    families.counter("zaqar_memory_budget_rejections", help, float(bounds.memory.refused()));
    let clock = bounds.clock.status();
    #[expect(clippy::cast_precision_loss, reason = "an offset beyond 2^53 ms is no clock")]
    let offset = clock.offset_ms as f64 / 1000.0;
    let help = "Seconds that the wall clock is ahead of the time this server uses";
    families.gauge("zaqar_clock_offset_seconds", help, offset);
    let help = "1 while the wall clock agrees with the time this server uses";
    families.gauge("zaqar_clock_steady", help, f64::from(u8::from(clock.is_steady())));
}

/// Rejections by quotas; absent if nothing is limited.
fn quotas(families: &mut Families, status: &Status) {
    let Some(quotas) = status.quotas() else { return };
    let sample =
        |(limit, count): (Limit, u64)| (vec![("quota", limit.option().to_owned())], float(count));
    let help = "Operations that a quota or a rate of their project rejected";
    families.counters("zaqar_quota_rejections", help, quotas.rejections().map(sample).to_vec());
}

/// Spans that were sent and dropped; absent if nothing is traced.
fn traces(families: &mut Families, status: &Status) {
    let Some(counts) = status.traces() else { return };
    let outcomes = [("sent", counts.sent()), ("dropped", counts.dropped())];
    let sample =
        |(outcome, count): (&str, u64)| (vec![("outcome", outcome.to_owned())], float(count));
    let help = "Spans that were sent, and that were dropped, by exporter's outcome";
    families.counters("zaqar_trace_spans", help, outcomes.map(sample).to_vec());
}

fn pools(families: &mut Families, status: &Status) {
    let pools = status.pools().unwrap_or_default();
    let up = pools.into_iter().map(|pool| {
        let serves = f64::from(u8::from(pool.problem.is_none()));
        (vec![("pool", pool.name.to_string())], serves)
    });
    let help = "1 while the pool is available, by its last check, at most some seconds ago";
    families.gauges("zaqar_pool_up", help, up.collect());
}

fn state(families: &mut Families, status: &Status, recent: &RecentErrors) {
    let serves = f64::from(u8::from(status.phase() == Phase::Serving));
    families.gauge("zaqar_serving", "1 while the server accepts requests", serves);
    let ready = f64::from(u8::from(status.ready().is_ok()));
    families.gauge("zaqar_ready", "1 while /ready answers 200", ready);
    let (warnings, errors) = recent.counts();
    let by_level = [("warning", warnings), ("error", errors)]
        .map(|(level, count)| (vec![("level", level.to_owned())], float(count)));
    let help = "Warnings and errors that were logged";
    families.counters("zaqar_log_events", help, by_level.to_vec());
}

fn process(families: &mut Families) {
    let process = Process::read();
    if let Some(seconds) = process.cpu_seconds {
        let help = "Seconds of CPU time in user and system mode";
        families.counter("process_cpu_seconds", help, seconds);
    }
    let gauges = [
        ("process_start_time_seconds", "Start, seconds since the epoch", process.start_time),
        ("process_threads", "Threads", process.threads),
        ("process_resident_memory_bytes", "Bytes of resident memory", process.resident_bytes),
        ("process_virtual_memory_bytes", "Bytes of virtual memory", process.virtual_bytes),
        ("process_open_fds", "Open file descriptors", process.open_fds),
        ("process_max_fds", "File descriptors that may be open", process.max_fds),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            families.gauge(name, help, value);
        }
    }
}

fn of_store(role: &str) -> Labels {
    vec![("store", role.to_owned())]
}

#[expect(clippy::cast_precision_loss, reason = "what was counted is far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "what was counted is far below 2^53")]
const fn size(count: usize) -> f64 {
    count as f64
}
