//! The results of a self-test of one store.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use zaqar_core::storage::Volume;

use crate::Error;

/// The health of a store.
#[derive(Debug)]
pub struct StoreHealth {
    /// Whether it answers.
    pub reachable: bool,
    /// Every operation by name, in the order they ran.
    pub operations: Vec<(&'static str, Probe)>,
    /// The number of messages, if the store can count them.
    pub volume: Option<Volume>,
    /// Its problems.
    pub problems: Vec<String>,
}

impl StoreHealth {
    /// A store with these problems, before any operation was tested.
    pub(crate) fn new(problems: Vec<String>) -> Self {
        Self { reachable: problems.is_empty(), operations: Vec::new(), volume: None, problems }
    }

    /// The document of the original.
    pub(crate) fn document(&self) -> Value {
        let status = |(name, probe): &(&str, Probe)| {
            let error = probe.error.as_ref().map(ToString::to_string);
            let seconds = probe.took.as_secs_f64();
            let status = json!({ "succeeded": error.is_none(), "seconds": seconds, "ref": error });
            ((*name).to_owned(), status)
        };
        let volume = self.volume.as_ref().map(|volume| {
            let (free, claimed) = (volume.free, volume.claimed);
            json!({ "free": free, "claimed": claimed, "total": free + claimed })
        });
        let mut document = json!({
            "storage_reachable": self.reachable,
            "operation_status": self.operations.iter().map(status).collect::<Map<_, _>>(),
            "message_volume": volume,
        });
        // Our addition: the original has no problems.
        if !self.problems.is_empty() {
            document["problems"] = json!(self.problems);
        }
        document
    }
}

/// The result of one operation.
#[derive(Debug)]
pub struct Probe {
    /// How long it took.
    pub took: Duration,
    /// The error, if it failed.
    pub error: Option<Error>,
}

pub(crate) async fn timed<T>(
    out: &mut Vec<(&'static str, Probe)>,
    name: &'static str,
    operation: impl Future<Output = Result<T, Error>>,
) -> Option<T> {
    let start = Instant::now();
    let (value, error) = match operation.await {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    };
    out.push((name, Probe { took: start.elapsed(), error }));
    value
}
