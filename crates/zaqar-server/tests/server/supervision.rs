//! The death of any long-lived task stops the server in order, with an error.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use zaqar_api::{Api, Context, Ping};
use zaqar_core::storage::Upkeep;
use zaqar_core::{ClientId, ProjectId};
use zaqar_server::config::known::Known;
use zaqar_server::{
    Binding, ConnectionCounts, Registry, StartError, Transport, TransportDriver, run,
};
use zaqar_storage_testkit::Fault;

use crate::support::{Driver, load, registry};

/// The behaviour of the transport `test`.
#[derive(Clone, Copy)]
enum Behaviour {
    Serve,
    Panic,
    Return,
    /// Closes the server's store.
    KillStore,
}

struct TestTransport {
    behaviour: Behaviour,
    driver: Arc<Driver>,
    /// Cancelled when the transport was drained and had seen the API's ping fail.
    drained: CancellationToken,
}

struct Bound {
    transport: TestTransport,
    api: Api,
}

#[async_trait]
impl TransportDriver for TestTransport {
    fn options(&self) -> &'static [Known] {
        &[]
    }

    fn check(&self, _: &zaqar_server::config::Settings) -> Result<(), StartError> {
        Ok(())
    }

    async fn bind(&self, binding: Binding<'_>) -> Result<Box<dyn Transport>, StartError> {
        let Self { behaviour, driver, drained } = self;
        let (driver, drained) = (Arc::clone(driver), drained.clone());
        let transport = Self { behaviour: *behaviour, driver, drained };
        Ok(Box::new(Bound { transport, api: binding.api }))
    }
}

#[async_trait]
impl Transport for Bound {
    fn address(&self) -> String {
        "nowhere".to_owned()
    }

    fn connections(&self) -> Option<ConnectionCounts> {
        None
    }

    async fn run(self: Box<Self>, shutdown: CancellationToken) {
        match self.transport.behaviour {
            Behaviour::Serve => {}
            Behaviour::Panic => panic!("a planted panic"),
            Behaviour::Return => return,
            Behaviour::KillStore => {
                let stores = self.transport.driver.stores.lock().unwrap().clone();
                for store in stores {
                    store.shut_down().await.unwrap();
                }
            }
        }
        shutdown.cancelled().await;
        let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"));
        if self.api.call(&context, Ping).await.is_err() {
            self.transport.drained.cancel();
        }
    }
}

/// Runs a server with this transport and another one until it stops by itself. Returns its error,
/// and whether the other transport was drained and saw the server unhealthy.
async fn run_with(behaviour: Behaviour, fault: Option<Fault>) -> (String, bool) {
    let driver = Arc::new(Driver { fault, ..Driver::default() });
    let drained = CancellationToken::new();
    let transport = |behaviour| {
        let (driver, drained) = (Arc::clone(&driver), drained.clone());
        Arc::new(TestTransport { behaviour, driver, drained })
    };
    let registry = registry(&driver)
        .transport("test", transport(behaviour))
        .transport("other", transport(Behaviour::Serve));
    let text = "[drivers]\ntransport = other, test\n\
                message_store = memory\nmanagement_store = memory\n";
    let settings = load(&registry, text).unwrap().settings;
    let running = run(&registry, &settings, CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
    (ended.expect("it ends").unwrap_err().to_string(), drained.is_cancelled())
}

#[tokio::test]
async fn a_panic_in_a_transport_ends_the_server_with_an_error() {
    let ended = run_with(Behaviour::Panic, None).await;
    assert_eq!(ended, ("the task \"transport test\" panicked".to_owned(), true));
}

#[tokio::test]
async fn a_transport_that_returns_ends_the_server_with_an_error() {
    let ended = run_with(Behaviour::Return, None).await;
    assert_eq!(ended, ("the task \"transport test\" ended unexpectedly".to_owned(), true));
}

#[tokio::test]
async fn a_panic_in_a_sweeper_ends_the_server_with_an_error() {
    let ended = run_with(Behaviour::Serve, Some(Fault::SweepPanics)).await;
    assert_eq!(ended, ("the task \"sweeper of the message store\" panicked".to_owned(), true));
}

#[tokio::test]
async fn the_death_of_a_store_ends_the_server_with_an_error() {
    let ended = run_with(Behaviour::KillStore, None).await;
    let expected = "the task \"watch of the message store\" ended unexpectedly";
    assert_eq!(ended, (expected.to_owned(), true));
}

#[tokio::test]
async fn a_stop_is_no_failure() {
    let driver = Arc::new(Driver::default());
    let drained = CancellationToken::new();
    let transport =
        TestTransport { behaviour: Behaviour::Serve, driver: Arc::clone(&driver), drained };
    let registry: Registry = registry(&driver).transport("test", Arc::new(transport));
    let text = "[drivers]\ntransport = test\nmessage_store = memory\nmanagement_store = memory\n";
    let settings = load(&registry, text).unwrap().settings;
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    run(&registry, &settings, shutdown).await.unwrap();
}
