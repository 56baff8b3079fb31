//! The version of the stored layout: a release refuses to open a store of another layout.

use redis::{Value, cmd};
use tracing::debug;

use crate::error::{Error, Failure};
use crate::keys::{SHARDS, Schedule};
use crate::server::Server;

/// The layout of this release. It changes with the names of keys and with the encoding of their
/// values.
const LAYOUT: u32 = 2;
/// The layout of stores without a version: those of releases before layouts were numbered.
const FIRST: u32 = 1;

/// Rejects a store of another layout, and marks an empty one.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other reply names a layout")]
pub(crate) async fn check(server: &Server) -> Result<(), Error> {
    let key = server.keys().layout();
    let found = server
        .send(&key, cmd("GET").arg(&key))
        .await
        .map_err(|failure| server.connect_error(failure))?;
    let found = match found {
        Value::BulkString(text) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.parse().map_err(|_| Error::Layout { found: text, known: LAYOUT })?
        }
        _ if is_used(server).await.map_err(|failure| server.connect_error(failure))? => FIRST,
        _ => LAYOUT,
    };
    if found != LAYOUT {
        return Err(Error::Layout { found: found.to_string(), known: LAYOUT });
    }
    keep(server).await;
    Ok(())
}

/// Marks a store, including one that was emptied in the meantime.
pub(crate) async fn keep(server: &Server) {
    let key = server.keys().layout();
    let mut mark = cmd("SET");
    mark.arg(&key).arg(LAYOUT).arg("NX");
    if let Err(failure) = server.send(&key, &mark).await {
        debug!(?failure, "the layout of the store could not be written");
    }
}

/// Whether any queue holds something.
async fn is_used(server: &Server) -> Result<bool, Failure> {
    for shard in 0..SHARDS {
        let key = server.keys().schedule(Schedule::Sweeps, shard);
        if server.send(&key, cmd("EXISTS").arg(&key)).await? != Value::Int(0) {
            return Ok(true);
        }
    }
    Ok(false)
}
