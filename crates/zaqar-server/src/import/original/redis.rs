//! What the original keeps in Redis (`zaqar/storage/redis` of its release 23.0): nothing is
//! changed.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use zaqar_core::Secret;
use zaqar_transport_ws::msgpack_to_json;

use super::{OldMessage, OldQueue, OldSubscription, Original, Place};
use crate::error::StartError;

/// Queues, messages and keys that are read at a time.
const PAGE: isize = 100;
/// How long it takes to connect, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer takes, at most: a hundred messages of a Redis that is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The sorted set of a project's queues.
const QUEUES: &str = ".queues_set";

/// A Redis of the original.
pub(crate) struct OnRedis {
    connection: MultiplexedConnection,
}

type Fields = HashMap<String, Vec<u8>>;

impl OnRedis {
    pub(super) async fn open(uri: &Secret<String>) -> Result<Self, redis::RedisError> {
        let client = redis::Client::open(uri.expose().as_str())?;
        // Without these an answer has half a second.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        Ok(Self { connection: client.get_multiplexed_async_connection_with_config(&config).await? })
    }

    async fn range(&mut self, key: &str, from: usize) -> Result<Vec<String>, redis::RedisError> {
        let from = isize::try_from(from).unwrap_or(isize::MAX - PAGE);
        let mut range = redis::cmd("ZRANGE");
        range.arg(key).arg(from).arg(from + PAGE - 1).query_async(&mut self.connection).await
    }

    /// The hashes that a sorted set names.
    async fn records(&mut self, set: &str, from: usize) -> Result<Vec<Fields>, redis::RedisError> {
        let ids = self.range(set, from).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGETALL").arg(id);
        }
        pipe.query_async(&mut self.connection).await
    }
}

#[async_trait]
impl Original for OnRedis {
    /// Cost: it looks at every key of the Redis.
    async fn projects(&mut self) -> Result<Vec<String>, StartError> {
        let (mut cursor, mut projects) = (0_u64, Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("*{QUEUES}")).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection).await?;
            let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
            projects.extend(keys.filter_map(|key| key.strip_suffix(QUEUES).map(str::to_owned)));
            if next == 0 {
                break;
            }
            cursor = next;
        }
        projects.sort();
        projects.dedup();
        Ok(projects)
    }

    async fn queues(&mut self, project: &str, from: usize) -> Result<Vec<String>, StartError> {
        let names = self.range(&format!("{project}{QUEUES}"), from).await?;
        let prefix = format!("{project}.");
        let name = |name: String| name.strip_prefix(&prefix).map(str::to_owned);
        Ok(names.into_iter().filter_map(name).collect())
    }

    async fn metadata(&mut self, names: OldQueue<'_>) -> Result<Option<String>, StartError> {
        let mut get = redis::cmd("HGET");
        let found: Option<Vec<u8>> = get
            .arg(format!("{}.{}", names.project, names.queue))
            .arg("m")
            .query_async(&mut self.connection)
            .await?;
        Ok(found.map_or(Some("{}".to_owned()), |packed| msgpack_to_json(&packed)))
    }

    async fn messages(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldMessage>>, StartError> {
        let key = format!("{}.{}.messages", names.project, names.queue);
        Ok(self.records(&key, from).await?.iter().map(message).collect())
    }

    async fn subscriptions(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldSubscription>>, StartError> {
        let key = format!("{}.{}.subscriptions", names.project, names.queue);
        Ok(self.records(&key, from).await?.iter().map(subscription).collect())
    }
}

fn message(fields: &Fields) -> Place<OldMessage> {
    if fields.is_empty() {
        return None;
    }
    let read = || {
        let body = fields.get("b").ok_or("a message without a body")?;
        Ok(OldMessage {
            body: msgpack_to_json(body).ok_or("a body that has no form in JSON")?,
            client: text(fields, "u").unwrap_or_default(),
            expires: number(fields, "e").ok_or("a message without an expiry")?,
            shown: number(fields, "d").unwrap_or_default(),
        })
    };
    Some(read())
}

fn subscription(fields: &Fields) -> Place<OldSubscription> {
    if fields.is_empty() {
        return None;
    }
    let read = || {
        let options = fields.get("o").ok_or("a subscription without options")?;
        Ok(OldSubscription {
            subscriber: text(fields, "u").ok_or("a subscription without a subscriber")?,
            options: msgpack_to_json(options).ok_or("options that have no form in JSON")?,
            expires: number(fields, "e").ok_or("a subscription without an expiry")?,
            // Records of before confirmations have none.
            confirmed: number(fields, "c").is_none_or(|confirmed| confirmed != 0),
        })
    };
    Some(read())
}

fn text(fields: &Fields, name: &str) -> Option<String> {
    String::from_utf8(fields.get(name)?.clone()).ok()
}

/// Python writes some of them with a fraction.
fn number(fields: &Fields, name: &str) -> Option<u64> {
    let text = text(fields, name)?;
    text.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &[u8])]) -> Fields {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
    }

    #[test]
    fn a_message_is_read_as_the_original_wrote_it() {
        // {"a": 1}, packed.
        let body: &[u8] = b"\x81\xa1a\x01";
        let all = fields(&[("b", body), ("u", b"client"), ("e", b"170.5"), ("d", b"0")]);
        let read = OldMessage {
            body: "{\"a\":1}".to_owned(),
            client: "client".to_owned(),
            expires: 170,
            shown: 0,
        };
        assert_eq!(message(&all), Some(Ok(read)));
        assert_eq!(message(&fields(&[])), None);
        assert_eq!(
            message(&fields(&[("b", b"\xc1"), ("e", b"1")])),
            Some(Err("a body that has no form in JSON"))
        );
        assert_eq!(message(&fields(&[("b", body)])), Some(Err("a message without an expiry")));
    }
}
