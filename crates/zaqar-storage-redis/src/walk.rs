//! A walk over all queues, by the keys of their heads.
//!
//! Each master of a Cluster is walked over in turn. Where the masters or their slots change
//! meanwhile, a head may have gone to a master that is done; then the walk begins anew. One whose
//! slot is still on its way when the walk ends may be missed, and is found by the next walk.

use std::time::Duration;

use redis::{Value, cmd};
use zaqar_core::storage::Error;
use zaqar_core::{Kind, QueueKey};

use crate::Redis;
use crate::error::Malformed;
use crate::keys;
use crate::messages::bounded;
use crate::reply::Reply;

/// Bits of a cursor of a Cluster: of its topology, the place of a master, and that master's cursor.
const TOPOLOGY: u32 = 14;
const MASTER: u32 = 10;
const SCAN: u32 = 64 - TOPOLOGY - MASTER;
/// How old may be what is known of slots while a walk goes on.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Keys that one command looks at, at least: few of them are heads.
const KEYS: usize = 1024;

/// Where a walk over a Cluster goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClusterCursor {
    topology: u64,
    master: u64,
    scan: u64,
}

impl ClusterCursor {
    const fn start(topology: u64) -> Self {
        Self { topology: topology & ((1 << TOPOLOGY) - 1), master: 0, scan: 0 }
    }

    const fn read(cursor: u64) -> Self {
        Self {
            topology: cursor >> (MASTER + SCAN),
            master: cursor >> SCAN & ((1 << MASTER) - 1),
            scan: cursor & ((1 << SCAN) - 1),
        }
    }

    /// As a number.
    fn write(self) -> Result<u64, Error> {
        if self.scan >> SCAN > 0 || self.master >> MASTER > 0 {
            return Err(Error::failed(format!(
                "the queues of a Redis Cluster with cursors above 2^{SCAN} or more than {} masters \
                 cannot be listed",
                1 << MASTER
            )));
        }
        Ok(self.topology << (MASTER + SCAN) | self.master << SCAN | self.scan)
    }

    /// After an answer of the master with this cursor.
    const fn after(self, next: u64) -> Self {
        match next {
            0 => Self { master: self.master + 1, scan: 0, ..self },
            scan => Self { scan, ..self },
        }
    }
}

impl Redis {
    /// A page of the queues and topics that have heads; the cursor for the next one, if there may
    /// be one.
    pub(crate) async fn walk_heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error> {
        let scan = |cursor: u64| {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg("*:h").arg("COUNT").arg(bounded(limit.max(KEYS)));
            scan
        };
        let Some(cluster) = self.server().pool().cluster() else {
            let layout = self.server().keys().layout();
            let answer = self.server().read(&layout, &scan(cursor.unwrap_or(0))).await?;
            let (queues, next) = self.read_page(answer)?;
            return Ok((queues, Some(next).filter(|next| *next > 0)));
        };
        let _permit = self.server().admit()?;
        let start = ClusterCursor::start(cluster.topology(KNOWN_FOR).await);
        let at = cursor.map(ClusterCursor::read).filter(|at| at.topology == start.topology);
        let at = at.unwrap_or(start);
        let nth = usize::try_from(at.master).unwrap_or(usize::MAX);
        match cluster.send_to_nth(nth, &scan(at.scan)).await {
            Some(answer) => {
                let answer = answer.map_err(|failure| self.server().report(failure))?;
                let (queues, next) = self.read_page(answer)?;
                Ok((queues, Some(at.after(next).write()?)))
            }
            None if at.master == 0 => Err(Error::unavailable("no master of the Cluster is known")),
            None => {
                let latest = ClusterCursor::start(cluster.topology(Duration::ZERO).await);
                let is_same = latest.topology == at.topology;
                Ok((Vec::new(), if is_same { None } else { Some(latest.write()?) }))
            }
        }
    }

    /// The queues of a page, and the server's next cursor.
    fn read_page(&self, answer: Value) -> Result<(Vec<QueueKey>, u64), Error> {
        let mut reply = Reply::new(answer)?;
        let next = reply.number()?;
        let Value::Array(found) = reply.value()? else { return Err(Malformed.into()) };
        let (mut found, mut queues) = (Reply::new(Value::Array(found))?, Vec::new());
        while !found.is_empty() {
            let Ok(name) = found.text() else { continue };
            let tag = self.server().keys().tag_of_head(&name);
            let queue = tag.and_then(keys::queue).filter(|queue| queue.kind != Kind::Internal);
            queues.extend(queue);
        }
        Ok((queues, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_from_master_to_master() {
        let start = ClusterCursor::start(u64::MAX);
        assert_eq!(start, ClusterCursor { topology: 16_383, master: 0, scan: 0 });
        for (at, next, then) in [
            (start, 7, ClusterCursor { scan: 7, ..start }),
            (ClusterCursor { scan: 7, ..start }, 0, ClusterCursor { master: 1, ..start }),
            (ClusterCursor { master: 1, ..start }, 0, ClusterCursor { master: 2, ..start }),
        ] {
            assert_eq!(at.after(next), then);
            assert_eq!(ClusterCursor::read(then.write().unwrap()), then);
        }
        ClusterCursor { scan: 1 << SCAN, ..start }.write().unwrap_err();
        ClusterCursor { master: 1 << MASTER, ..start }.write().unwrap_err();
    }
}
