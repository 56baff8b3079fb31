//! What is in the servers when a store is opened: versions, settings that lose data, and data of
//! the original.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "replies and errors that are not named are treated alike"
)]

use redis::{Cmd, Value, cmd};
use tracing::{debug, warn};

use crate::error::{Error, Trouble};
use crate::layout;
use crate::server::Server;

/// Queues of the original's whose messages are counted.
const LOOK: usize = 100;
/// Indexes of the original that name what it keeps: of queues, and of queues with subscriptions.
const QUEUES: &str = "msgset_index";
const SUBSCRIBED: &str = "subset_index";

/// Looks at the servers. Nothing of the original is touched.
pub(crate) async fn look(server: &Server) -> Result<(), Error> {
    let info = || {
        let mut info = cmd("INFO");
        info.arg("everything");
        info
    };
    // The first question also waits for a server that is away.
    server.send("", cmd("PING").arg("zaqar")).await.map_err(Error::connect)?;
    for said in server.pool().send_to_all(info).await {
        match said {
            Ok(info) => judge(server, &text(&info))?,
            Err(Trouble::Refused(error)) if error.code() == Some("NOPERM") => warn!(
                "INFO is not allowed: neither version nor maxmemory-policy of Redis is checked"
            ),
            Err(trouble) => warn!(?trouble, "a node of Redis could not be asked for its version"),
        }
    }
    ask_max_bulk(server).await;
    layout::check(server).await?;
    match count(server).await {
        Ok((0, 0, _)) => {}
        Ok((queues, subscribed, messages)) => warn!(
            queues,
            subscribed_queues = subscribed,
            messages_of_the_first_queues = messages,
            "this Redis holds data of the original Zaqar: it is left alone and not shown"
        ),
        Err(trouble) => debug!(?trouble, "data of the original could not be looked for"),
    }
    Ok(())
}

/// What a node says of itself.
fn judge(server: &Server, info: &str) -> Result<(), Error> {
    if let Some(version) = field(info, "redis_version")
        && number(version) < Some((6, 2))
    {
        return Err(Error::Version { version: version.to_owned() });
    }
    if field(info, "cluster_enabled") == Some("1") && !server.is_cluster() {
        return Err(Error::Uri {
            reason: "names a node of a Cluster: say cluster=true".to_owned(),
        });
    }
    if let Some(policy) = field(info, "maxmemory_policy")
        && policy != "noeviction"
        && field(info, "maxmemory") != Some("0")
    {
        warn!(
            policy,
            node = field(info, "tcp_port"),
            "Redis throws messages away when it is full: set maxmemory-policy noeviction"
        );
    }
    Ok(())
}

/// The first two numbers of a version.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Redis takes no larger argument than it is configured to.
async fn ask_max_bulk(server: &Server) {
    let mut ask = cmd("CONFIG");
    ask.arg("GET").arg("proto-max-bulk-len");
    // Who may not ask has the default, most likely.
    if let Ok(Value::Array(said)) = server.send("", &ask).await
        && let Some(bytes) = said.get(1).and_then(|bytes| text(bytes).parse().ok())
    {
        server.set_max_bulk(bytes);
    }
}

/// Queues of the original, queues with subscriptions, and the messages of the first of them.
async fn count(server: &Server) -> Result<(u64, u64, u64), Trouble> {
    let queues = card(server, QUEUES).await?;
    let subscribed = card(server, SUBSCRIBED).await?;
    let mut messages = 0;
    if queues > 0 {
        let first = server.send(QUEUES, cmd("ZRANGE").arg(QUEUES).arg(0).arg(LOOK - 1)).await?;
        if let Value::Array(names) = first {
            for name in &names {
                messages += card(server, &text(name)).await?;
            }
        }
    }
    Ok((queues, subscribed, messages))
}

async fn card(server: &Server, key: &str) -> Result<u64, Trouble> {
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
    fn versions_compare_as_numbers() {
        for (version, is_new) in
            [("6.2.14", true), ("7.0.15", true), ("8.0.0", true), ("10.1", true), ("6.0.9", false)]
        {
            assert_eq!(number(version) >= Some((6, 2)), is_new, "{version}");
        }
    }
}
