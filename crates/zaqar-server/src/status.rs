//! The parts of a running server and their state: for probes, metrics and reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zaqar_auth::{Permissions, Quotas};
use zaqar_core::pools::{PoolStatus, PoolStores};
use zaqar_core::storage::Upkeep;
use zaqar_core::{Clock, MemoryBudget, OperationLimit, TaskMonitor};
use zaqar_transport_http::ConnectionCounts;

use crate::error::with_causes;
use crate::store::{Figures, Stores};
use crate::traces::Counts;

/// A store without a ping result for this long counts as unavailable: its ping hangs.
const STALE: Duration = Duration::from_secs(10);

/// The parts of one server, as they are added. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    parts: Arc<Mutex<Parts>>,
    phase: Arc<watch::Sender<Phase>>,
    /// The server's long-lived tasks.
    pub(crate) tasks: TaskMonitor,
}

#[derive(Default, Clone)]
struct Parts {
    stores: Vec<StoreStatus>,
    transports: Vec<TransportStatus>,
    deliveries: Option<zaqar_notify::Handle>,
    bounds: Option<Bounds>,
    permissions: Option<Arc<Permissions>>,
    quotas: Option<Quotas>,
    traces: Option<Counts>,
    pools: Option<Arc<dyn PoolStores>>,
    opened: Option<Stores>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("transports", &self.transports).finish_non_exhaustive()
    }
}

/// The phase of a server's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Stores are being opened and addresses bound.
    #[default]
    Starting,
    /// Requests are accepted.
    Serving,
    /// Requests are no longer accepted.
    Stopping,
}

/// An open store.
#[derive(Clone)]
pub(crate) struct StoreStatus {
    /// Its driver and role, as text.
    pub(crate) name: String,
    /// The role, for metrics: `message` or `management`.
    pub(crate) role: &'static str,
    pub(crate) upkeep: Arc<dyn Upkeep>,
    pub(crate) health: StoreHealth,
    pub(crate) figures: Option<Figures>,
}

/// A transport that listens.
#[derive(Debug, Clone)]
pub(crate) struct TransportStatus {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) connections: Option<ConnectionCounts>,
}

/// Limits that all requests share.
#[derive(Clone)]
pub(crate) struct Bounds {
    pub(crate) operations: OperationLimit,
    pub(crate) memory: MemoryBudget,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The result of a store's last ping. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreHealth {
    last: Arc<Mutex<Option<PingResult>>>,
}

/// The time and result of a ping.
type PingResult = (Instant, Result<(), String>);

impl StoreHealth {
    /// Records the result of a ping.
    pub(crate) fn note(&self, result: &Result<(), zaqar_core::storage::Error>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(with_causes(error)),
        };
        *self.lock() = Some((Instant::now(), result));
    }

    /// Whether the store is available.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &*self.lock() {
            None => Err("not pinged yet".to_owned()),
            Some((at, _)) if at.elapsed() > STALE => {
                Err(format!("no answer for {} s", at.elapsed().as_secs()))
            }
            Some((_, result)) => result.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PingResult>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    /// The status of a server whose tasks this monitor watches.
    pub(crate) fn new(tasks: TaskMonitor) -> Self {
        Self { tasks, ..Self::default() }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(crate) fn add_store(&self, store: StoreStatus) {
        self.parts().stores.push(store);
    }

    pub(crate) fn add_transport(&self, transport: TransportStatus) {
        self.parts().transports.push(transport);
    }

    pub(crate) fn set_deliveries(&self, handle: zaqar_notify::Handle) {
        self.parts().deliveries = Some(handle);
    }

    pub(crate) fn set_permissions(&self, permissions: Arc<Permissions>) {
        self.parts().permissions = Some(permissions);
    }

    pub(crate) fn set_quotas(&self, quotas: Option<Quotas>) {
        self.parts().quotas = quotas;
    }

    pub(crate) fn set_pools(&self, pools: Arc<dyn PoolStores>) {
        self.parts().pools = Some(pools);
    }

    /// The state of each pool, by name; `None` without pooling.
    pub(crate) fn pools(&self) -> Option<Vec<PoolStatus>> {
        let pools = self.parts().pools.clone();
        pools.map(|pools| pools.statuses())
    }

    pub(crate) fn set_opened(&self, stores: Stores) {
        self.parts().opened = Some(stores);
    }

    /// The stores once they are open, to be asked about queues.
    pub(crate) fn opened(&self) -> Option<Stores> {
        self.parts().opened.clone()
    }

    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        self.parts().bounds = Some(bounds);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The phase and its changes.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The policies.
    pub(crate) fn permissions(&self) -> Option<Arc<Permissions>> {
        self.parts().permissions.clone()
    }

    pub(crate) fn set_traces(&self, counts: Counts) {
        self.parts().traces = Some(counts);
    }

    /// Counts of spans; `None` if nothing is traced.
    pub(crate) fn traces(&self) -> Option<Counts> {
        self.parts().traces.clone()
    }

    /// The quotas; `None` if nothing is limited.
    pub(crate) fn quotas(&self) -> Option<Quotas> {
        self.parts().quotas.clone()
    }

    pub(crate) fn stores(&self) -> Vec<StoreStatus> {
        self.parts().stores.clone()
    }

    pub(crate) fn transports(&self) -> Vec<TransportStatus> {
        self.parts().transports.clone()
    }

    pub(crate) fn deliveries(&self) -> Option<zaqar_notify::Handle> {
        self.parts().deliveries.clone()
    }

    pub(crate) fn bounds(&self) -> Option<Bounds> {
        self.parts().bounds.clone()
    }

    /// Whether the process is alive: `/live`.
    ///
    /// # Errors
    /// The tasks that died.
    pub(crate) fn live(&self) -> Result<(), Vec<String>> {
        let failures = self.tasks.failures();
        if failures.is_empty() {
            return Ok(());
        }
        Err(failures.iter().map(ToString::to_string).collect())
    }

    /// Whether requests should be sent to this server.
    ///
    /// # Errors
    /// All reasons why not.
    pub(crate) fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.live().err().unwrap_or_default();
        match self.phase() {
            Phase::Starting => reasons.push("the server is starting".to_owned()),
            Phase::Serving => {}
            Phase::Stopping => reasons.push("the server is stopping".to_owned()),
        }
        for store in self.stores() {
            if let Err(why) = store.health.check() {
                reasons.push(format!("{}: {why}", store.name));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::storage::Error;
    use zaqar_storage_testkit::Memory;

    use super::*;

    #[test]
    fn a_server_is_ready_once_it_serves_and_its_stores_do() {
        let status = Status::default();
        let health = StoreHealth::default();
        status.add_store(StoreStatus {
            name: "memory (both roles)".to_owned(),
            role: "message",
            upkeep: Arc::new(Memory::new()),
            health: health.clone(),
            figures: None,
        });
        let starting = "the server is starting".to_owned();
        let unasked = "memory (both roles): not pinged yet".to_owned();
        assert_eq!(status.ready(), Err(vec![starting, unasked]));
        status.set_phase(Phase::Serving);
        health.note(&Ok(()));
        assert_eq!(status.ready(), Ok(()));
        health.note(&Err(Error::unavailable("refused")));
        let away = "memory (both roles): the store cannot be reached: refused".to_owned();
        assert_eq!(status.ready(), Err(vec![away]));
        health.note(&Ok(()));
        drop(status.tasks.guard("writer"));
        let dead = "the task \"writer\" ended unexpectedly".to_owned();
        assert_eq!((status.live(), status.ready()), (Err(vec![dead.clone()]), Err(vec![dead])));
    }
}
