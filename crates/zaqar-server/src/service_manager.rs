//! The protocol of systemd and compatible service managers: notifications (`NOTIFY_SOCKET`) and
//! passed listeners (`LISTEN_FDS`). Without a service manager there are neither.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::status::{Phase, Status};

/// The names that systemd gives to unnamed descriptors.
const NAMELESS: [&str; 2] = ["unknown", "stored"];

/// Listeners that a service manager passed to this process.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// By the name of the transport.
    named: BTreeMap<String, TcpListener>,
    /// For transports without a named listener, in order.
    others: Vec<TcpListener>,
}

impl Passed {
    /// Takes them from the environment, once. Must be called before any thread is started.
    ///
    /// A listener whose name (`FileDescriptorName=`) is that of a transport is for that transport;
    /// every other one is for the next transport without one, in the order of `[drivers]
    /// transport`.
    ///
    /// # Errors
    /// A descriptor is not a listening TCP socket.
    pub(crate) fn take() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut passed = Self::default();
        let mut names = names.split(':');
        for index in 0..descriptors.len() {
            let name = names.next().unwrap_or_default();
            let Some(listener) = descriptors.take_tcp_listener(index)? else { continue };
            listener.set_nonblocking(true)?;
            let is_unit = name.is_empty() || name.contains('.') || NAMELESS.contains(&name);
            if is_unit || passed.named.contains_key(name) {
                passed.others.push(listener);
            } else {
                passed.named.insert(name.to_owned(), listener);
            }
        }
        Ok(passed)
    }

    /// The listener for each of these transports, if there is one. Also returns the names of unused
    /// listeners.
    pub(crate) fn assign(
        mut self,
        transports: &[String],
    ) -> (Vec<Option<TcpListener>>, Vec<String>) {
        let mut assigned: Vec<_> = transports.iter().map(|name| self.named.remove(name)).collect();
        let mut others = self.others.into_iter();
        for place in assigned.iter_mut().filter(|place| place.is_none()) {
            *place = others.next();
        }
        let unnamed = others.map(|listener| match listener.local_addr() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        });
        (assigned, self.named.into_keys().chain(unnamed).collect())
    }
}

/// Notifies the service manager when the server is ready, and, if it wants a watchdog
/// (`WATCHDOG_USEC`), at a third of its interval while the runtime works and no task has died.
/// Never returns.
pub(crate) async fn run(status: Status) {
    let watchdog = sd_notify::watchdog_enabled();
    let beats = async {
        let Some(time) = watchdog else { return };
        let third = (time / 3).max(Duration::from_millis(1));
        loop {
            if status.live().is_ok() {
                notify(&[NotifyState::Watchdog]);
            }
            tokio::time::sleep(third).await;
        }
    };
    let serves = async {
        // It fails only if the phase can no longer change.
        if status.phases().wait_for(|phase| *phase == Phase::Serving).await.is_ok() {
            notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        }
    };
    tokio::join!(beats, serves, std::future::pending::<()>());
}

/// Notifies that the server stops.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Notifies that the configuration is being reloaded; [`reloaded`] must follow.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager cannot be notified of a reload"),
    }
}

/// Notifies that it was reloaded.
pub(crate) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Logs the assigned and the unused listeners.
pub(crate) fn log_assignment(
    transports: &[String],
    assigned: &[Option<TcpListener>],
    left: &[String],
) {
    for (transport, listener) in transports.iter().zip(assigned) {
        if let Some(address) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
            info!(transport, %address, "listening on a socket of the service manager");
        }
    }
    for name in left {
        warn!(
            name,
            "a socket of the service manager is used by no transport of [drivers] transport"
        );
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn address(listener: &TcpListener) -> String {
        listener.local_addr().unwrap().to_string()
    }

    #[test]
    fn named_listeners_go_to_their_transports_and_others_in_order() {
        let (named, first, second) = (listener(), listener(), listener());
        let expected = [address(&first), address(&named)];
        let left_over = address(&second);
        let passed = Passed {
            named: BTreeMap::from([
                ("websocket".to_owned(), named),
                ("odd".to_owned(), listener()),
            ]),
            others: vec![first, second],
        };
        let transports = ["wsgi", "websocket"].map(str::to_owned);
        let (assigned, left) = passed.assign(&transports);
        let assigned: Vec<_> = assigned.iter().map(|one| address(one.as_ref().unwrap())).collect();
        assert_eq!(assigned, expected);
        assert_eq!(left, ["odd".to_owned(), left_over]);
        let (assigned, left) = Passed::default().assign(&transports);
        assert!(assigned.iter().all(Option::is_none) && left.is_empty());
    }
}
