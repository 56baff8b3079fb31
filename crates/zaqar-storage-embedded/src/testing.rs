//! Helpers of this crate's unit tests.

use std::sync::mpsc;

use bytes::Bytes;
use tempfile::TempDir;
use zaqar_core::storage::{Batch, ClaimRequest, NewMessage};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey, QueueName,
    Timestamp, Version,
};

use crate::{Embedded, Options};

/// A new store and its directory.
pub(crate) fn store() -> (Embedded, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Embedded::open(Options::new(directory.path())).unwrap(), directory)
}

pub(crate) fn key(name: &str) -> QueueKey {
    QueueKey {
        project: ProjectId::new("p").unwrap(),
        kind: Kind::Queue,
        name: QueueName::new(name).unwrap(),
    }
}

pub(crate) const fn generation() -> Generation {
    Generation { incarnation: Incarnation::new(7), version: Version::new(1) }
}

/// A number of seconds after the start of the tests.
pub(crate) const fn time(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000 + secs * 1000)
}

/// A post of `count` messages with this ttl in seconds.
pub(crate) fn batch(count: usize, ttl: u64) -> Batch {
    let payload = Payload::plain(Bytes::from_static(b"{}"));
    let messages = vec![NewMessage { payload, ttl, delay: 0 }; count];
    Batch { request: 0, client: ClientId::new("c"), messages, notify: true }
}

/// A claim of up to 1000 messages.
pub(crate) fn request(id: u128, ttl: u64) -> ClaimRequest {
    ClaimRequest { grace: 60, ..ClaimRequest::new(ClaimId::new(id), ttl, 1000) }
}

/// Blocks the writer in a transaction until it is dropped, so that all requests in the meantime
/// become one batch.
pub(crate) struct Hold(#[expect(dead_code, reason = "it acts by being dropped")] mpsc::Sender<()>);

/// Returns once the writer is blocked.
#[expect(clippy::disallowed_methods, reason = "a test that sends once")]
pub(crate) fn hold(store: &Embedded) -> Hold {
    let (release, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let store = store.clone();
    let mut first = Some((entered, held));
    tokio::spawn(async move {
        store
            .write(move |_| {
                if let Some((entered, held)) = first.take() {
                    entered.send(()).unwrap();
                    let _ = held.recv();
                }
                Ok(())
            })
            .await
    });
    inside.recv().unwrap();
    Hold(release)
}
