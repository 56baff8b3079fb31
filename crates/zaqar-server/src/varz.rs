//! `/varz`: the state of the server as one JSON object, for people and small scripts.

use serde_json::{Map, Value, json};

use crate::metrics::{Metrics, Process};
use crate::report::RecentErrors;
use crate::status::{Phase, Status};

/// The object. Reads `/proc`, which blocks briefly.
pub(crate) fn varz(metrics: &Metrics, status: &Status, recent: &RecentErrors) -> Value {
    let process = Process::read();
    let (warnings, errors) = recent.counts();
    let mut shown = json!({
        "product": "zaqar-server",
        "version": env!("CARGO_PKG_VERSION"),
        "phase": phase(status.phase()),
        "not_ready": status.ready().err().unwrap_or_default(),
        "process": {
            "pid": std::process::id(),
            "start_time": process.start_time,
            "cpu_seconds": process.cpu_seconds,
            "resident_bytes": process.resident_bytes,
            "virtual_bytes": process.virtual_bytes,
            "threads": process.threads,
            "open_fds": process.open_fds,
            "max_fds": process.max_fds,
        },
        "log": { "warnings": warnings, "errors": errors },
        "stores": stores(status),
        "transports": transports(status),
        "tasks": status.tasks.running().len(),
    });
    if let (Value::Object(shown), Value::Object(counted)) = (&mut shown, metrics.summary()) {
        shown.extend(counted);
        shown.extend(bounds(status));
        shown.extend(deliveries(status));
        shown.extend(limits(status));
    }
    shown
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Stopping => "stopping",
    }
}

fn stores(status: &Status) -> Vec<Value> {
    let shown = |store: crate::status::StoreStatus| {
        let told = store.figures.as_ref().map(|figures| figures()).unwrap_or_default();
        let figures: Map<String, Value> =
            told.into_iter().map(|figure| (figure.name.to_owned(), figure.value.into())).collect();
        let fault = store.health.check().err();
        json!({ "name": store.name, "role": store.role, "fault": fault, "figures": figures })
    };
    status.stores().into_iter().map(shown).collect()
}

fn transports(status: &Status) -> Vec<Value> {
    let shown = |transport: crate::status::TransportStatus| {
        let counts = transport.connections.as_ref();
        json!({
            "name": transport.name,
            "address": transport.address,
            "connections": counts.map(|counts| counts.open()),
            "accepted": counts.map(|counts| counts.accepted()),
            "rejected": counts.map(|counts| counts.rejected()),
        })
    };
    status.transports().into_iter().map(shown).collect()
}

fn bounds(status: &Status) -> Map<String, Value> {
    let Some(bounds) = status.bounds() else { return Map::new() };
    let clock = bounds.clock.status();
    object(json!({
        "operations_in_progress": bounds.operations.in_progress(),
        "operations_shed": bounds.operations.refused(),
        "memory_budget": {
            "bytes": bounds.memory.bounds().process,
            "used_bytes": bounds.memory.in_use(),
            "rejections": bounds.memory.refused(),
        },
        "clock": { "offset_ms": clock.offset_ms, "steady": clock.is_steady() },
    }))
}

fn deliveries(status: &Status) -> Map<String, Value> {
    let Some(handle) = status.deliveries() else { return Map::new() };
    let (counts, circuits) = (handle.counts(), handle.circuits());
    object(json!({
        "deliveries": {
            "in_flight": handle.in_flight(),
            "subscriptions_served": handle.served(),
            "delivered": counts.delivered,
            "failed": counts.failed,
            "expired": counts.expired,
            "retried": counts.retried,
            "suspended": counts.suspended,
            "destinations": { "ok": circuits.ok, "open": circuits.open },
        },
    }))
}

/// Rejections by quotas, and counts of spans, if these are enabled.
fn limits(status: &Status) -> Map<String, Value> {
    let mut shown = Map::new();
    if let Some(quotas) = status.quotas() {
        let rejections = quotas.rejections();
        let rejections: Map<String, Value> = rejections
            .into_iter()
            .map(|(limit, count)| (limit.option().to_owned(), count.into()))
            .collect();
        shown.insert("quota_rejections".to_owned(), rejections.into());
    }
    if let Some(counts) = status.traces() {
        let spans = json!({ "sent": counts.sent(), "dropped": counts.dropped() });
        shown.insert("trace_spans".to_owned(), spans);
    }
    shown
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}
