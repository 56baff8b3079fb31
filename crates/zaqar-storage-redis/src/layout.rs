//! The version of the stored layout, and which of them this release uses.
//!
//! - **1**: stores without a version, of releases before layouts were numbered.
//! - **2**: each message has an entry in the index of expiry, and in the one of its state.
//! - **3**: records have lives, and messages of one life share an entry: see `lua/cover.lua`. Free
//!   messages that were never claimed have none: see `lua/fresh.lua`.
//!
//! Scripts handle records of both layouts in one queue. A server of a release that knows only 2
//! would delete messages of layout 3 as expired, and looks at the version only when it starts. So a
//! store of layout 2 stays one, whatever servers join, until the option `layout=3` of a URI raises
//! it; after that such a server does not start.

use redis::{Value, cmd};
use tracing::{debug, info};

use crate::error::{Error, Failure};
use crate::keys::{KNOWN_LAYOUTS, LAYOUT, SHARDS, Schedule};
use crate::server::Server;

/// The layout of stores without a version.
const FIRST: u32 = 1;

/// Rejects a store of a layout that this release does not know, marks an empty one, and raises an
/// older one if the URI says so.
pub(crate) async fn check(server: &Server) -> Result<(), Error> {
    let failed = |failure| server.connect_error(failure);
    let mut found = read(server).await?;
    if found.is_none() {
        if is_used(server).await.map_err(failed)? {
            return Err(unknown(FIRST.to_string()));
        }
        server.set_layout(server.wanted_layout().unwrap_or(LAYOUT));
        keep(server).await;
        // Another server may have been first.
        found = read(server).await?;
    }
    let found = found.unwrap_or_else(|| server.layout());
    if !KNOWN_LAYOUTS.contains(&found) {
        return Err(unknown(found.to_string()));
    }
    server.set_layout(found);
    match server.wanted_layout() {
        Some(wanted) if wanted > found => {
            let key = server.keys().layout();
            server.send(&key, cmd("SET").arg(&key).arg(wanted)).await.map_err(failed)?;
            server.set_layout(wanted);
            info!(
                address = server.address(),
                from = found,
                to = wanted,
                "the store's layout was raised"
            );
        }
        _ if found < LAYOUT => info!(
            address = server.address(),
            layout = found,
            "the store keeps its older layout: add layout={LAYOUT} to its URI once no server of an \
             older release runs"
        ),
        _ => {}
    }
    Ok(())
}

/// Marks a store, including one that was emptied in the meantime.
pub(crate) async fn keep(server: &Server) {
    let key = server.keys().layout();
    let mut mark = cmd("SET");
    mark.arg(&key).arg(server.layout()).arg("NX");
    if let Err(failure) = server.send(&key, &mark).await {
        debug!(?failure, "the layout of the store could not be written");
    }
}

/// The store's layout; `None` if it is not marked.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other reply names a layout")]
async fn read(server: &Server) -> Result<Option<u32>, Error> {
    let key = server.keys().layout();
    let found = server.send(&key, cmd("GET").arg(&key)).await;
    match found.map_err(|failure| server.connect_error(failure))? {
        Value::BulkString(text) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.parse().map(Some).map_err(|_| unknown(text))
        }
        _ => Ok(None),
    }
}

const fn unknown(found: String) -> Error {
    Error::Layout { found, known: LAYOUT }
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
