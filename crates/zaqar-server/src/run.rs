//! Runs the server from its settings to its stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_api::{Api, Keyring, Layers, Options, Sweeper, Tracer};
use zaqar_auth::Quotas;
use zaqar_core::storage::{Error as StorageError, Upkeep};
use zaqar_core::{
    Clock, MemoryBounds, MemoryBudget, OperationLimit, StateLog, SystemClock, TaskMonitor,
};

use crate::access::Access;
use crate::admin::Admin;
use crate::announce::{EventPoster, Integrations};
use crate::config::Settings;
use crate::drivers::embedded;
use crate::error::StartError;
use crate::memory;
use crate::metrics::Metrics;
use crate::notify;
use crate::pools::Pooling;
use crate::preflight;
use crate::registry::Registry;
use crate::report::{RecentErrors, Reporter};
use crate::service_manager::{self, Passed};
use crate::status::{Bounds, Phase, Status, StoreHealth, StoreStatus, TransportStatus};
use crate::store::{StoreContext, Stores};
use crate::supervisor::{Supervisor, stop_on_failure};
use crate::traces::Traces;
use crate::transport::Transport;

/// Serves with these settings until `shutdown`; then answers accepted requests and closes the
/// stores.
///
/// # Errors
/// The server cannot start: a store cannot be opened, an address cannot be bound, a setting is not
/// supported by this build. While serving: a long-lived task died, after which the server stops as
/// at `shutdown`; or a store cannot be closed.
pub async fn run(
    registry: &Registry,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let tasks = TaskMonitor::default();
    let reporter = Reporter::new(settings, tasks, RecentErrors::default())?;
    run_monitored(registry, settings, shutdown, &reporter, Passed::default()).await
}

/// Like [`run`], with further tasks of the caller under the same supervision, reports, and sockets
/// from the service manager.
pub(crate) async fn run_monitored(
    registry: &Registry,
    settings: &Settings,
    shutdown: CancellationToken,
    reporter: &Reporter,
    passed: Passed,
) -> Result<(), StartError> {
    let tasks = &reporter.status().tasks;
    tokio::select! {
        served = serve(registry, settings, &shutdown, reporter, passed) => served?,
        never = stop_on_failure(tasks, &shutdown) => match never {},
    }
    match tasks.failures().into_iter().next() {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

/// Runs the operators' listener for the whole time, and serves clients meanwhile.
async fn serve(
    registry: &Registry,
    settings: &Settings,
    shutdown: &CancellationToken,
    reporter: &Reporter,
    passed: Passed,
) -> Result<(), StartError> {
    warn_of_missing_strategy(settings);
    let end = CancellationToken::new();
    let mut watched = Supervisor::new(&reporter.status().tasks);
    let mut metrics = None;
    if let Some(options) = &settings.admin {
        let counted = Metrics::default();
        let admin = Admin::bind(options, reporter.clone(), counted.clone()).await?;
        watched.spawn("listener for operators".to_owned(), &end, admin.run(end.clone()));
        metrics = Some(counted);
    }
    let served = serve_clients(registry, settings, shutdown, reporter, metrics, passed).await;
    end.cancel();
    watched.join().await;
    if served.is_ok() {
        info!("stopped");
    }
    served
}

async fn serve_clients(
    registry: &Registry,
    settings: &Settings,
    shutdown: &CancellationToken,
    reporter: &Reporter,
    metrics: Option<Metrics>,
    passed: Passed,
) -> Result<(), StartError> {
    let status = reporter.status();
    let tasks = &status.tasks;
    let context = StoreContext { unreliable: settings.unreliable, tasks: tasks.clone() };
    let stores = tokio::select! {
        // Opening a store may take long while it is unavailable; that must not delay a stop.
        () = shutdown.cancelled() => return Ok(()),
        opened = registry.open_stores(settings, &context) => opened?,
    };
    let served = async {
        let pooling = Pooling::if_set(registry, settings, &context, &stores)?;
        let opened = Opened { stores: &stores, pooling };
        serve_stores(registry, settings, shutdown, reporter, metrics, passed, opened).await
    };
    let served = served.await;
    if served.is_err() {
        // A start that failed closes what it opened; why it failed says more than how this went.
        let _ = close(&stores, false).await;
    }
    served
}

/// The configured stores, and the pools beside them.
struct Opened<'a> {
    stores: &'a Stores,
    pooling: Option<Pooling>,
}

async fn serve_stores(
    registry: &Registry,
    settings: &Settings,
    shutdown: &CancellationToken,
    reporter: &Reporter,
    metrics: Option<Metrics>,
    passed: Passed,
    Opened { stores, pooling }: Opened<'_>,
) -> Result<(), StartError> {
    let status = reporter.status();
    let tasks = &status.tasks;
    let stores = Pooling::spread(stores.clone(), pooling.as_ref()).await;
    let (traces, exporters) = Traces::new(&settings.traces)?.unzip();
    let stores = watch_calls(stores, metrics.as_ref(), traces.as_ref());
    register_stores(status, &stores, settings);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let keyring = keyring(settings);
    let access = Access::new(settings, &stores, &clock)?;
    let event_poster = Arc::new(EventPoster::default());
    let integrations =
        Integrations { keystone: access.session.clone(), event_poster: Arc::clone(&event_poster) };
    let channels = registry.channels(settings)?;
    let memory = memory_budget(settings);
    let deliveries = notify::Deliveries::new(
        settings,
        &stores,
        &clock,
        keyring.clone(),
        integrations,
        channels,
        &memory,
    )?;
    status.set_deliveries(deliveries.handle());
    let layers = access.layers(Layers {
        pipelines: registry.pipelines(settings)?,
        metrics: metrics.as_ref().map(Metrics::layer),
        tracer: traces.clone().map(|traces| Arc::new(traces) as Arc<dyn Tracer>),
        subscribers: Some(deliveries.subscribers()),
        ..Layers::default()
    });
    let options = Options { keyring, memory, ..options(settings, &clock, layers, tasks) };
    let options = Pooling::register(pooling.as_ref(), status, options);
    let api = Api::new(Arc::clone(&stores.management), Arc::clone(&stores.messages), options);
    event_poster.set_api(api.clone());
    register_layers(status, &api, &clock, &access, traces.as_ref());
    let names = &settings.drivers.transports;
    let (assigned, left) = passed.assign(names);
    service_manager::log_assignment(names, &assigned, &left);
    access.begin().await;
    let transports = registry.bind_transports(&api, settings, assigned).await?;

    // Stores are maintained until the last request is answered.
    let last_request = CancellationToken::new();
    let mut maintenance = Supervisor::new(tasks);
    start_maintenance(&mut maintenance, status, &clock, &last_request);
    for (name, snapshots) in embedded::snapshots(settings, &clock)? {
        maintenance.spawn(name, &last_request, snapshots.run(last_request.clone()));
    }
    start_watches(&mut maintenance, pooling.as_ref(), &access, &last_request);
    // Spans are sent until nothing is done any more that has one.
    let last_span = CancellationToken::new();
    let mut exporting = Supervisor::new(tasks);
    if let Some(exporters) = exporters {
        exporting.spawn("traces".to_owned(), &last_span, exporters.run(last_span.clone()));
    }
    // Deliveries that are left when the server stops are kept for another server, or the next
    // start.
    let mut delivering = Supervisor::new(tasks);
    delivering.spawn("deliveries".to_owned(), shutdown, deliveries.run(shutdown.clone()));
    let stopping = tokio::spawn(stop_time(shutdown.clone()));
    serve_transports(transports, status, shutdown).await;
    // Transports that failed end before a stop is requested.
    shutdown.cancel();
    let ended = async {
        delivering.join().await;
        // Subscriptions of connections that were not ended one by one end with this server's lease.
        api.stop_pushes().await;
        last_request.cancel();
        maintenance.join().await;
        last_span.cancel();
        exporting.join().await;
    };
    let deadline =
        stopping.await.unwrap_or_else(|_| Instant::now()) + settings.graceful_shutdown_timeout;
    let is_away = wait_for_tasks(ended, deadline, status, [&last_request, &last_span]).await;
    close(&stores, is_away).await?;
    Ok(())
}

/// Follows what administrators change while the server runs: pools, policies and quotas.
fn start_watches(
    maintenance: &mut Supervisor,
    pooling: Option<&Pooling>,
    access: &Access,
    stop: &CancellationToken,
) {
    if let Some(pooling) = pooling {
        let following = Arc::clone(&pooling.pooled).run(stop.clone());
        maintenance.spawn("watch of the pools".to_owned(), stop, following);
    }
    let watching = Arc::clone(&access.permissions).watch(stop.clone());
    maintenance.spawn("watch of the policies".to_owned(), stop, watching);
    if let Some(quotas) = access.quotas.clone().filter(Quotas::is_managed) {
        maintenance.spawn("watch of the quotas".to_owned(), stop, quotas.watch(stop.clone()));
    }
}

/// How long a stop goes on with a store that is away. What background tasks would still write is
/// done by another server, or after the next start, as after a kill.
const AWAY: Duration = Duration::from_secs(2);
/// How long the close of a store that is away may take.
const CLOSE_AWAY: Duration = Duration::from_secs(5);

/// Waits until background tasks have ended, or are cut off: at the deadline, and where a store is
/// away. Returns whether one is.
async fn wait_for_tasks(
    ended: impl Future<Output = ()>,
    deadline: Instant,
    status: &Status,
    stops: [&CancellationToken; 2],
) -> bool {
    let cut_off = async {
        let is_away = tokio::select! {
            () = sleep_until(deadline) => false,
            () = store_is_away(status) => true,
        };
        // To end now is no failure of theirs.
        for stop in stops {
            stop.cancel();
        }
        is_away
    };
    tokio::select! {
        () = ended => false,
        is_away = cut_off => {
            warn!(is_store_away = is_away, "background tasks are cut off");
            is_away
        }
    }
}

/// Waits until a store has been away for [`AWAY`].
async fn store_is_away(status: &Status) {
    let mut since = None;
    loop {
        let serves = status.stores().iter().all(|store| store.health.check().is_ok());
        let away: Instant = *since.get_or_insert_with(Instant::now);
        if serves {
            since = None;
        } else if away.elapsed() >= AWAY {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn close(stores: &Stores, is_away: bool) -> Result<(), StorageError> {
    let closing = async {
        stores.messages.shut_down().await?;
        stores.management.shut_down().await
    };
    if !is_away {
        return closing.await;
    }
    timeout(CLOSE_AWAY, closing).await.unwrap_or_else(|_| {
        warn!("a store that is away is not closed");
        Ok(())
    })
}

/// The same stores, with metrics and spans of their calls if these are enabled.
fn watch_calls(stores: Stores, metrics: Option<&Metrics>, traces: Option<&Traces>) -> Stores {
    let are_traced = traces.is_some_and(Traces::wants_store_calls);
    // The wrapper that counts calls also creates their spans.
    match metrics.cloned().or_else(|| are_traced.then(Metrics::default)) {
        Some(metrics) => metrics.count_calls(stores),
        None => stores,
    }
}

/// When a stop was requested.
async fn stop_time(shutdown: CancellationToken) -> Instant {
    shutdown.cancelled().await;
    Instant::now()
}

/// Registers the layers with the status.
fn register_layers(
    status: &Status,
    api: &Api,
    clock: &Arc<dyn Clock>,
    access: &Access,
    traces: Option<&Traces>,
) {
    status.set_bounds(Bounds {
        operations: api.operations().clone(),
        memory: api.memory().clone(),
        clock: Arc::clone(clock),
    });
    status.set_permissions(Arc::clone(&access.permissions));
    status.set_quotas(access.quotas.clone());
    if let Some(traces) = traces {
        status.set_traces(traces.counts().clone());
    }
}

/// Serves on all transports until the last one has ended.
async fn serve_transports(
    transports: Vec<(String, Box<dyn Transport>)>,
    status: &Status,
    shutdown: &CancellationToken,
) {
    let mut serving = Supervisor::new(&status.tasks);
    for (name, transport) in transports {
        info!(address = transport.address(), "serving");
        status.add_transport(TransportStatus {
            name: name.clone(),
            address: transport.address(),
            connections: transport.connections(),
        });
        let name = format!("transport {name}");
        serving.spawn(name, shutdown, transport.run(shutdown.clone()));
    }
    status.set_phase(Phase::Serving);
    tokio::select! {
        () = shutdown.cancelled() => {}
        // They end without a stop only if one of them failed, which stops the others.
        () = serving.ended() => {}
    }
    status.set_phase(Phase::Stopping);
    serving.join().await;
}

/// The options of the API, except its keys and its memory budget.
fn options(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    layers: Layers,
    tasks: &TaskMonitor,
) -> Options {
    Options {
        limits: settings.limits.clone(),
        clock: Arc::clone(clock),
        checksums: settings.enable_checksum,
        signing_key: settings.signed_url_key.clone(),
        operations: OperationLimit::new(settings.overload.operations()),
        expensive_operations_per_project: settings.overload.expensive_operations_per_project(),
        tasks: tasks.clone(),
        layers,
        ..Options::default()
    }
}

/// Registers the stores with the status.
fn register_stores(status: &Status, stores: &Stores, settings: &Settings) {
    status.set_opened(stores.clone());
    let names = &settings.drivers;
    let register =
        |driver: &str, roles: &str, role, upkeep: Arc<dyn Upkeep>, figures: &Option<_>| {
            status.add_store(StoreStatus {
                name: format!("{driver} ({roles})"),
                role,
                upkeep,
                health: StoreHealth::default(),
                figures: figures.clone(),
            });
        };
    let messages = Arc::clone(&stores.messages) as _;
    let roles = if stores.is_one { "both roles" } else { "message store" };
    register(&names.message_store, roles, "message", messages, &stores.message_figures);
    if !stores.is_one {
        let management = Arc::clone(&stores.management) as _;
        let figures = &stores.management_figures;
        register(&names.management_store, "management store", "management", management, figures);
    }
}

/// Starts the tasks that sweep and ping each store.
fn start_maintenance(
    supervisor: &mut Supervisor,
    status: &Status,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) {
    for StoreStatus { name, role, upkeep, health, .. } in status.stores() {
        let sweeper = Sweeper::new(Arc::clone(&upkeep), Arc::clone(clock));
        supervisor.spawn(format!("sweeper of the {role} store"), stop, sweeper.run(stop.clone()));
        let watching = watch(name, upkeep, health, stop.clone());
        supervisor.spawn(format!("watch of the {role} store"), stop, watching);
    }
}

/// How often a store is pinged.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Pings a store every second: logs when it becomes unavailable and available again, and returns if
/// it is dead, which stops the server.
async fn watch(name: String, store: Arc<dyn Upkeep>, health: StoreHealth, stop: CancellationToken) {
    let log = StateLog::new();
    loop {
        let pinged = tokio::select! {
            () = stop.cancelled() => return,
            pinged = store.ping() => pinged,
        };
        health.note(&pinged);
        match pinged {
            Ok(()) => {
                if let Some(failures) = log.success() {
                    info!(store = name, failures, "the store is available again");
                }
            }
            Err(StorageError::Closed) => return,
            Err(error) => {
                if let Some(failures) = log.failure() {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, store = name, failures, "the store is unavailable");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(WATCH_INTERVAL) => {}
        }
    }
}

/// A file with the settings of Keystone's middleware, but without the line that enables it, was
/// meant to protect the server: the original's guide enables the middleware elsewhere.
fn warn_of_missing_strategy(settings: &Settings) {
    if let Some((origin, problem)) = preflight::missing_strategy(settings) {
        error!(origin, "{problem}");
    }
}

/// The budget of `[limits]`.
fn memory_budget(settings: &Settings) -> MemoryBudget {
    let bounds = settings.overload.memory_bounds(memory::available());
    let MemoryBounds { process, connection, project } = bounds;
    info!(bytes = process, connection, project, "memory budget");
    MemoryBudget::new(bounds)
}

/// The keys that encrypt bodies. An invalid key is ignored: queues that request encryption are then
/// rejected, others are served.
fn keyring(settings: &Settings) -> Option<Arc<Keyring>> {
    let option = settings.message_encryption_key.as_ref()?;
    match Keyring::parse(option) {
        Ok(keyring) => Some(Arc::new(keyring)),
        Err(error) => {
            let origin = settings.raw().origin("transport", "message_encryption_key");
            warn!(%error, %origin, "[transport] message_encryption_key is invalid; no queue can be encrypted");
            None
        }
    }
}
