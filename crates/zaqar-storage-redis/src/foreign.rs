//! What is in the server when a store is opened: its version, its settings that lose data, and data of the original.

use redis::{Cmd, Value, cmd};
use tracing::{debug, warn};

use crate::driver::Server;
use crate::error::{Error, Trouble};

/// Queues of the original's whose messages are counted.
const LOOK: usize = 100;
/// Indexes of the original that name what it keeps: of queues, and of queues with subscriptions.
const QUEUES: &str = "msgset_index";
const SUBSCRIBED: &str = "subset_index";

/// Looks at the server. Nothing of the original is touched.
pub(crate) async fn look(server: &Server) -> Result<(), Error> {
    let info = match server.send("", cmd("INFO").arg("everything")).await {
        Ok(info) => text(&info),
        // Some deployments do not let clients ask.
        Err(Trouble::Refused(error)) if error.code() == Some("NOPERM") => String::new(),
        Err(trouble) => return Err(connect(trouble)),
    };
    if let Some(version) = field(&info, "redis_version")
        && version.split('.').next().and_then(|major| major.parse::<u32>().ok()) < Some(7)
    {
        return Err(Error::Version { version: version.to_owned() });
    }
    if field(&info, "cluster_enabled") == Some("1") && !server.is_cluster() {
        return Err(Error::Uri {
            reason: "names a node of a Cluster: say cluster=true".to_owned(),
        });
    }
    if let Some(policy) = field(&info, "maxmemory_policy")
        && policy != "noeviction"
        && field(&info, "maxmemory") != Some("0")
    {
        warn!(
            policy,
            "Redis throws messages away when it is full: set maxmemory-policy noeviction"
        );
    }
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

fn connect(trouble: Trouble) -> Error {
    let source: Box<dyn std::error::Error + Send + Sync> = match trouble {
        Trouble::NotYet(error)
        | Trouble::Unknown(error)
        | Trouble::Full(error)
        | Trouble::Down(error)
        | Trouble::Refused(error) => error.into(),
        Trouble::NoScript | Trouble::Unsafe { .. } => "an answer that makes no sense".into(),
    };
    Error::Connect { source }
}
