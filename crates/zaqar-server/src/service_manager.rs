//! What systemd, or another service manager with its protocol, is told (`NOTIFY_SOCKET`), and the
//! listeners that it passes (`LISTEN_FDS`). Without it there is nothing to tell, and no listener.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::status::{Phase, Status};

/// The name that systemd gives to descriptors of a socket without one.
const NAMELESS: [&str; 2] = ["unknown", "stored"];

/// Listeners that a service manager passed to this process.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// By the name of the transport.
    named: BTreeMap<String, TcpListener>,
    /// For the transports without a named one, in their order.
    others: Vec<TcpListener>,
}

impl Passed {
    /// Takes them from the environment, once. Call it before any thread is started.
    ///
    /// A name (`FileDescriptorName=`) that is a transport's is for that transport; every other
    /// listener is for the next transport that has none, in the order of `[drivers] transport`.
    ///
    /// # Errors
    /// A descriptor that is not a listening TCP socket.
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

    /// The listener for each of these transports, where there is one. What is left belongs to
    /// nobody, and its names are answered, too.
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

/// Tells the service manager when the server serves, and, where it wants to know
/// (`WATCHDOG_USEC`), every third of its time that the runtime runs and no task has died. Never
/// returns.
pub(crate) async fn tell(status: Status) {
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
        // It fails only where nobody can change the phase any more.
        if status.phases().wait_for(|phase| *phase == Phase::Serving).await.is_ok() {
            notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        }
    };
    tokio::join!(beats, serves, std::future::pending::<()>());
}

/// Tells that the server stops.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Tells that the configuration is being read again; [`reloaded`] must follow.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager is not told of a reload"),
    }
}

/// Tells that it was read.
pub(crate) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Says what was passed, and what of it nobody listens on.
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
        warn!(name, "a socket of the service manager belongs to no transport: [drivers] transport");
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told how the server is");
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
