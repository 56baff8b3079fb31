//! Metrics: counters of operations and store calls, and the page that shows all metrics.
//!
//! Counters are atomics that exist from the start, one for each operation, wire and outcome. So
//! counting takes no lock and no allocation, and the number of series is bounded: no label has a
//! name that a client chose. Everything else is read when the page is requested.

mod calls;
mod histogram;
mod operations;
mod page;
mod process;
mod queues;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(crate) use calls::outcome_name;
pub(crate) use operations::error_name;
pub(crate) use process::Process;
pub(crate) use queues::text as queue_text;

use calls::{MessageCounts, StoreCalls};
use operations::Operations;
use store::{MeteredManagement, MeteredMessages};

use crate::report::RecentErrors;
use crate::status::Status;
use crate::store::Stores;

/// The counters of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    counted: Arc<Counted>,
}

#[derive(Debug)]
struct Counted {
    operations: Arc<Operations>,
    message_store: Arc<StoreCalls>,
    management_store: Arc<StoreCalls>,
    messages: Arc<MessageCounts>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            counted: Arc::new(Counted {
                operations: Arc::default(),
                message_store: Arc::new(StoreCalls::new("message")),
                management_store: Arc::new(StoreCalls::new("management")),
                messages: Arc::default(),
            }),
        }
    }
}

impl Metrics {
    /// The layer that counts operations.
    pub(crate) fn layer(&self) -> Arc<dyn zaqar_api::Metrics> {
        Arc::clone(&self.counted.operations) as _
    }

    /// The same stores, with their calls counted.
    pub(crate) fn count_calls(&self, stores: Stores) -> Stores {
        let Counted { message_store, management_store, messages, .. } = &*self.counted;
        let (calls, counts) = (Arc::clone(message_store), Arc::clone(messages));
        Stores {
            messages: Arc::new(MeteredMessages::new(stores.messages, calls, counts)),
            management: Arc::new(MeteredManagement::new(
                stores.management,
                Arc::clone(management_store),
            )),
            ..stores
        }
    }

    /// Totals of operations and messages, for `/varz`.
    pub(crate) fn summary(&self) -> Value {
        let Counted { operations, messages, .. } = &*self.counted;
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for one in operations.counted() {
            for (outcome, count) in one.outcomes {
                *totals.entry(outcome).or_default() += count;
            }
        }
        json!({
            "operations": totals,
            "messages": {
                "posted": messages.posted.get(),
                "claimed": messages.claimed.get(),
                "redelivered": messages.redelivered.get(),
                "popped": messages.popped.get(),
                "deleted": messages.deleted.get(),
                "released": messages.released.get(),
                "expired": messages.expired.get(),
                "dead_lettered": messages.dead_lettered.get(),
            },
        })
    }

    /// All metrics in the text format of Prometheus. Reads `/proc`, which blocks briefly.
    ///
    /// Cost: milliseconds; bounded by the number of operations, methods of stores, and destinations
    /// of deliveries.
    pub(crate) fn text(&self, status: &Status, recent: &RecentErrors) -> String {
        page::text(&self.counted, status, recent)
    }
}

/// The media type of [`Metrics::text`].
pub(crate) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
