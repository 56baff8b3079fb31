//! The connections of deliveries to the rest of the server: posting events, and the public URLs for
//! confirmations.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tracing::{debug, warn};
use zaqar_api::{Api, Authentication, Context, Error, PostMessages, PostedMessage, QueueRef};
use zaqar_auth::keystone::Session;
use zaqar_core::storage::Error as StorageError;
use zaqar_core::{ClientId, Kind, ProjectId, QueueName, StateLog};
use zaqar_notify::{Directory, EventSink, PublicUrls};

/// How long a request to subscribe waits for Keystone's catalog.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits logs of rejected events: subscribers cause them.
static REJECTED: StateLog = StateLog::new();

/// What deliveries need from the rest of the server.
pub(crate) struct Integrations {
    /// Its catalog has the public URLs of this server.
    pub(crate) keystone: Option<Arc<Session>>,
    /// Posts events.
    pub(crate) event_poster: Arc<EventPoster>,
}

impl Integrations {
    /// The source of the public URLs, if there is one.
    pub(crate) fn directory(&self) -> Option<Arc<dyn Directory>> {
        let session = Arc::clone(self.keystone.as_ref()?);
        Some(Arc::new(Catalog { session }))
    }
}

/// Posts events through the API, like any message.
#[derive(Default)]
pub(crate) struct EventPoster {
    api: OnceLock<Api>,
}

impl EventPoster {
    /// The API is created after deliveries are; events wait until then.
    pub(crate) fn set_api(&self, api: Api) {
        let _is_first = self.api.set(api);
    }

    /// Posts events in one step; the inner error says why they were rejected.
    async fn try_post(
        &self,
        project: &ProjectId,
        queue: &QueueName,
        events: &[Value],
    ) -> Result<Result<(), Error>, StorageError> {
        let Some(api) = self.api.get() else {
            return Err(StorageError::unavailable("the server is starting"));
        };
        let context = Context::new(project.clone(), ClientId::new("zaqar-notify"))
            .authenticated(Authentication::Server);
        let bodies: Vec<_> = events.iter().map(|event| Bytes::from(event.to_string())).collect();
        let size: usize = bodies.iter().map(Bytes::len).sum();
        let message = |body| PostedMessage { body, ttl: None, delay: None };
        let post = PostMessages {
            queue: QueueRef { kind: Kind::Queue, name: queue.clone() },
            size: u64::try_from(size).unwrap_or(u64::MAX),
            messages: bodies.into_iter().map(message).collect(),
            notify: false,
        };
        match api.call(&context, post).await {
            Ok(_) => Ok(Ok(())),
            Err(Error::Storage(error)) => Err(error),
            Err(Error::Overloaded { .. } | Error::DeadlineExceeded | Error::Contended) => {
                Err(StorageError::unavailable("the server is overloaded"))
            }
            // Until the project may have one more queue, or there is a key.
            Err(error @ (Error::OverQuota { .. } | Error::CannotSeal)) => {
                Err(StorageError::unavailable(error))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

#[async_trait]
impl EventSink for EventPoster {
    async fn post(
        &self,
        project: &ProjectId,
        queue: &QueueName,
        events: &[Value],
    ) -> Result<(), StorageError> {
        match self.try_post(project, queue, events).await? {
            Ok(()) => {}
            Err(error) if events.len() < 2 => log_rejected(&error, project, queue),
            // One of them, or that they are so many.
            Err(_) => {
                for event in events.chunks(1) {
                    if let Err(error) = self.try_post(project, queue, event).await? {
                        log_rejected(&error, project, queue);
                    }
                }
            }
        }
        Ok(())
    }
}

fn log_rejected(error: &Error, project: &ProjectId, queue: &QueueName) {
    if let Some(events) = REJECTED.failure() {
        let error = error as &dyn std::error::Error;
        warn!(error, %project, %queue, events, "an event about a subscriber was rejected");
    }
}

/// Reads public URLs from Keystone's catalog.
struct Catalog {
    session: Arc<Session>,
}

#[async_trait]
impl Directory for Catalog {
    async fn public_urls(&self) -> PublicUrls {
        let asked = tokio::time::timeout(CATALOG_TIMEOUT, self.session.public_urls()).await;
        match asked {
            Ok(Ok(urls)) => PublicUrls { http: urls.zaqar, websocket: urls.zaqar_websocket },
            Ok(Err(error)) => {
                debug!(error = &error as &dyn std::error::Error, "confirmations lack URLs");
                PublicUrls::default()
            }
            Err(_) => PublicUrls::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use zaqar_api::{Layers, Options};
    use zaqar_auth::quotas;
    use zaqar_core::limits::Limits;
    use zaqar_core::storage::Messages;
    use zaqar_core::{Clock, QueueKey, SystemClock};
    use zaqar_storage_testkit::Memory;

    use super::*;
    use crate::report::RecentErrors;

    #[tokio::test]
    async fn of_events_that_are_rejected_together_each_is_posted_that_can_be() {
        let store = Arc::new(Memory::new());
        let limits = Limits { max_messages_post_size: 100, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        let poster = EventPoster::default();
        let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new("q").unwrap());
        let event = |length: usize| json!("e".repeat(length));
        let events = [event(70), event(200), event(70)];
        let early = poster.post(&project, &name, &events).await;
        assert!(matches!(early, Err(StorageError::Unavailable { .. })), "{early:?}");
        poster.set_api(Api::new(store.clone(), store.clone(), options));
        poster.post(&project, &name, &events).await.unwrap();
        let (recent, _guard) = RecentErrors::keep();
        for _ in 0..10 {
            poster.post(&project, &name, &events[1..2]).await.unwrap();
        }
        let (warnings, _) = recent.counts();
        assert!(warnings < 10, "{warnings}: not one for each event");
        let queue = QueueKey { project, kind: Kind::Queue, name };
        let stats = store.stats(&queue, SystemClock.now()).await.unwrap().unwrap();
        assert_eq!(stats.free, 2);
    }

    #[tokio::test]
    async fn events_wait_while_their_queue_exceeds_the_quota_of_queues() {
        let (store, clock) = (Arc::new(Memory::new()), Arc::new(SystemClock));
        let default = quotas::Limits::default().with(quotas::Limit::Queues, 1);
        let limits = quotas::Options { default, projects_file: None, is_managed: false };
        let quotas = quotas::Quotas::load(&limits, store.clone(), store.clone(), clock).unwrap();
        let layers = Layers { quota: Some(Arc::new(quotas)), ..Layers::default() };
        let poster = EventPoster::default();
        poster.set_api(Api::new(
            store.clone(),
            store.clone(),
            Options { layers, ..Options::default() },
        ));
        let (project, event) = (ProjectId::new("p").unwrap(), [json!(1)]);
        let post = |name| poster.post(&project, name, &event);
        let [first, second] = ["first", "second"].map(|name| QueueName::new(name).unwrap());
        post(&first).await.unwrap();
        for _ in 0..2 {
            let waits = post(&second).await;
            assert!(matches!(waits, Err(StorageError::Unavailable { .. })), "{waits:?}");
            post(&first).await.unwrap();
        }
        let key = QueueKey { project: project.clone(), kind: Kind::Queue, name: second };
        assert_eq!(store.stats(&key, SystemClock.now()).await.unwrap(), None);
    }
}
