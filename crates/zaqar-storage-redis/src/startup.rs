//! Checks when a store is opened: versions, settings that lose data, and data of the original.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other replies and errors are treated alike"
)]

use redis::{Cmd, Value, cmd};
use tracing::{debug, warn};

use crate::error::{Error, Failure};
use crate::layout;
use crate::server::Server;

/// Queues of the original whose messages are counted, at most.
const COUNTED_QUEUES: usize = 100;
/// Indexes of the original: its queues, and its queues with subscriptions.
const QUEUE_INDEX: &str = "msgset_index";
const SUBSCRIPTION_INDEX: &str = "subset_index";

/// Checks the servers. Data of the original is only counted.
pub(crate) async fn check(server: &Server) -> Result<(), Error> {
    let info = || {
        let mut info = cmd("INFO");
        info.arg("everything");
        info
    };
    // This also waits for a server that is unavailable.
    server
        .send("", cmd("PING").arg("zaqar"))
        .await
        .map_err(|failure| server.connect_error(failure))?;
    let mut has_log = false;
    for answer in server.pool().send_to_all(info).await {
        match answer {
            Ok(info) => {
                let info = text(&info);
                has_log |= field(&info, "aof_enabled") != Some("0");
                check_node(server, &info)?;
            }
            Err(Failure::Rejected(error)) if error.code() == Some("NOPERM") => {
                has_log = true;
                warn!("INFO is not allowed: neither version nor settings of Redis are checked");
            }
            Err(failure) => {
                has_log = true;
                warn!(?failure, "the version of a Redis node cannot be read");
            }
        }
    }
    if !has_log && has_no_snapshots(server).await {
        warn!(
            address = server.address(),
            "Redis writes nothing to disk (save \"\" and appendonly no): when it ends, all queues and \
             messages are lost"
        );
    }
    read_max_bulk(server).await;
    layout::check(server).await?;
    match count_original(server).await {
        Ok((0, 0, _)) => {}
        Ok((queues, subscribed, messages)) => warn!(
            queues,
            subscribed_queues = subscribed,
            messages_of_the_first_queues = messages,
            "this Redis holds data of the original Zaqar: it is ignored and not changed"
        ),
        Err(failure) => debug!(?failure, "data of the original Zaqar could not be counted"),
    }
    Ok(())
}

/// Checks the version and settings of a node.
fn check_node(server: &Server, info: &str) -> Result<(), Error> {
    if let Some(version) = field(info, "redis_version")
        && number(version) < Some((6, 2))
    {
        return Err(Error::Version { version: version.to_owned() });
    }
    if field(info, "cluster_enabled") == Some("1") && !server.is_cluster() {
        return Err(Error::Uri {
            reason: "names a node of a Cluster: add cluster=true".to_owned(),
        });
    }
    if let Some(policy) = field(info, "maxmemory_policy")
        && policy != "noeviction"
        && field(info, "maxmemory") != Some("0")
    {
        warn!(
            policy,
            node = field(info, "tcp_port"),
            "Redis evicts messages when it is full: set maxmemory-policy noeviction"
        );
    }
    Ok(())
}

/// The first two numbers of a version.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Whether no node makes snapshots. Where CONFIG is not allowed, as in many managed services, that
/// is not known.
async fn has_no_snapshots(server: &Server) -> bool {
    let ask = || {
        let mut ask = cmd("CONFIG");
        ask.arg("GET").arg("save");
        ask
    };
    let answers = server.pool().send_to_all(ask).await;
    !answers.is_empty() && answers.iter().all(|answer| answer.as_ref().is_ok_and(is_empty_setting))
}

/// Whether the answer of `CONFIG GET` is one setting without a value.
fn is_empty_setting(answer: &Value) -> bool {
    match answer {
        Value::Array(setting) => {
            setting.len() == 2 && setting.get(1).is_some_and(|value| text(value).is_empty())
        }
        Value::Map(settings) => settings.iter().all(|(_, value)| text(value).is_empty()),
        _ => false,
    }
}

/// Reads the largest argument that Redis is configured to accept.
async fn read_max_bulk(server: &Server) {
    let mut ask = cmd("CONFIG");
    ask.arg("GET").arg("proto-max-bulk-len");
    // A user without permission to ask keeps the default.
    if let Ok(Value::Array(setting)) = server.send("", &ask).await
        && let Some(bytes) = setting.get(1).and_then(|bytes| text(bytes).parse().ok())
    {
        server.set_max_bulk(bytes);
    }
}

/// Counts the queues of the original, its queues with subscriptions, and the messages of the first
/// queues.
async fn count_original(server: &Server) -> Result<(u64, u64, u64), Failure> {
    let queues = cardinality(server, QUEUE_INDEX).await?;
    let subscribed = cardinality(server, SUBSCRIPTION_INDEX).await?;
    let mut messages = 0;
    if queues > 0 {
        let first = server
            .send(QUEUE_INDEX, cmd("ZRANGE").arg(QUEUE_INDEX).arg(0).arg(COUNTED_QUEUES - 1))
            .await?;
        if let Value::Array(names) = first {
            for name in &names {
                messages += cardinality(server, &text(name)).await?;
            }
        }
    }
    Ok((queues, subscribed, messages))
}

async fn cardinality(server: &Server, key: &str) -> Result<u64, Failure> {
    let mut card: Cmd = cmd("ZCARD");
    match server.send(key, card.arg(key)).await? {
        Value::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
        _ => Ok(0),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_setting_without_a_value_turns_snapshots_off() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for (answer, is_off) in [
            (Value::Array(vec![bulk("save"), bulk("")]), true),
            (Value::Array(vec![bulk("save"), bulk("3600 1 300 100")]), false),
            (Value::Array(Vec::new()), false),
            (Value::Okay, false),
        ] {
            assert_eq!(is_empty_setting(&answer), is_off, "{answer:?}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        for (version, is_new) in
            [("6.2.14", true), ("7.0.15", true), ("8.0.0", true), ("10.1", true), ("6.0.9", false)]
        {
            assert_eq!(number(version) >= Some((6, 2)), is_new, "{version}");
        }
    }
}
