//! OSprofiler's Redis driver: writes what `osprofiler trace show` reads.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use zaqar_core::Secret;

use super::exporter::{Failure, Sink};
use super::profiler::events;
use super::span::Span;
use crate::error::StartError;

/// The timeout of connecting, and of one batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pushes events to the lists that OSprofiler reads.
pub(super) struct Lists {
    client: redis::Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    service: String,
    /// `filter_error_trace`: traces with an error are also listed separately.
    lists_errors: bool,
}

impl Lists {
    pub(super) fn new(
        uri: &Secret<String>,
        service: &str,
        lists_errors: bool,
    ) -> Result<Self, StartError> {
        let client = redis::Client::open(uri.expose().as_str())
            .map_err(|error| format!("[profiler] connection_string: {error}"))?;
        let (connection, service) = (Mutex::default(), service.to_owned());
        Ok(Self { client, connection, service, lists_errors })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        // Without these, the timeout is half a second.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn push(&self, spans: &[Arc<Span>]) -> Result<(), redis::RedisError> {
        let mut pipe = redis::pipe();
        for span in spans {
            let Some(profile) = &span.profile else { continue };
            let key = format!("osprofiler_opt:{}", profile.base);
            let events = events(span, profile, &self.service);
            for event in &events {
                pipe.cmd("LPUSH").arg(&key).arg(event.to_string()).ignore();
            }
            if self.lists_errors && span.error.is_some() {
                let known = serde_json::json!({
                    "base_id": profile.base, "timestamp": events[1]["timestamp"],
                });
                let key = format!("osprofiler_error:{}", profile.base);
                pipe.cmd("SET").arg(key).arg(known.to_string()).ignore();
            }
        }
        let mut connection = self.connection.lock().await;
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        pipe.query_async::<()>(&mut open).await?;
        // A connection that failed is not used again.
        *connection = Some(open);
        Ok(())
    }
}

#[async_trait]
impl Sink for Lists {
    async fn send(&self, spans: &[Arc<Span>]) -> Result<(), Failure> {
        match tokio::time::timeout(TIMEOUT, self.push(spans)).await {
            Ok(sent) => sent.map_err(Failure::retryable),
            Err(elapsed) => Err(Failure::retryable(elapsed)),
        }
    }
}
