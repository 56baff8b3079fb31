//! Transfers of dead letters to another pool: one row of the management store for each source pool
//! and dead-letter queue.

use serde_json::{Map, Value, json};
use zaqar_core::pools::Error;
use zaqar_core::storage::{self, ManagementStore};
use zaqar_core::{Kind, MessageId, ProjectId, QueueKey, QueueName, Timestamp};

use crate::place::Place;
use crate::rows;

/// How old the time in a row may get before a claim updates it.
const NOTED_FOR: u64 = 60;
/// Seconds after the last claim when an empty staging queue may be deleted. Far longer than any
/// claim takes that has read the row.
const IDLE_FOR: u64 = 600;
/// Arrival queues of lost attempts that are remembered, at most.
const MAX_LOST: usize = 32;

/// A transfer of letters from one pool to one dead-letter queue in another.
///
/// A claim moves letters into the staging queue, which is in the source pool, in the atomic step in
/// which that store moves letters: from then on they are in no queue that a client sees. A delivery
/// copies a batch of them into an arrival queue, which is in the target pool, marks the batch as
/// complete, deletes it from the staging queue, and lets the store move it from the arrival queue
/// to the dead-letter queue, again in atomic steps. An arrival queue that is not complete is closed
/// and another one is filled, so that no letter is copied twice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transfer {
    /// The source pool.
    pub(crate) from: Place,
    /// The dead-letter queue.
    pub(crate) target: QueueKey,
    /// The staging queue, in the source pool.
    pub(crate) staging: QueueKey,
    /// When a claim last used it, to about a minute.
    used: Timestamp,
    /// The batch that is being delivered.
    pub(crate) batch: Option<TransferBatch>,
    /// Arrival queues of attempts that others took over, the latest last. The process that lost one
    /// may still open it.
    pub(crate) lost: Vec<LostArrival>,
}

/// An arrival queue that does not count any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LostArrival {
    pub(crate) queue: QueueKey,
    pub(crate) to: Place,
    /// When it was last closed.
    pub(crate) closed: Timestamp,
}

/// A batch that is being delivered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TransferBatch {
    /// The arrival queue, in the target pool.
    pub(crate) arrival: QueueKey,
    /// The target pool.
    pub(crate) to: Place,
    /// Their ids in the staging queue.
    pub(crate) ids: Vec<MessageId>,
    /// The process that owns the batch.
    pub(crate) owner: u64,
    /// Until when it owns the batch.
    pub(crate) until: Timestamp,
    /// Whether all of them are in the arrival queue. If not, the arrival queue does not count.
    pub(crate) is_complete: bool,
}

impl Transfer {
    fn new(from: Place, target: QueueKey, now: Timestamp) -> Result<Self, storage::Error> {
        let (staging, lost) = (new_queue()?, Vec::new());
        Ok(Self { from, target, staging, used: now, batch: None, lost })
    }

    /// Whether it was not used for so long that its empty staging queue can be deleted.
    pub(crate) fn is_idle(&self, now: Timestamp) -> bool {
        self.used.plus_secs(IDLE_FOR) < now
    }

    /// Whether letters are on their way to this queue in this place.
    pub(crate) fn is_on_its_way(&self, target: &QueueKey, to: &Place) -> bool {
        self.target == *target && self.batch.as_ref().is_some_and(|batch| batch.to == *to)
    }

    /// Reads a row; `None` for an empty one, which is about to be removed.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Option<Self>, storage::Error> {
        if object.is_empty() {
            return Ok(None);
        }
        let damaged = || storage::Error::failed("a row of dead letters is damaged");
        read_transfer(object).map(Some).ok_or_else(damaged)
    }

    fn write(&self) -> Map<String, Value> {
        let batch = self.batch.as_ref().map(|batch| {
            json!({
                "arrival": batch.arrival.name.as_str(),
                "to": batch.to.to_value(),
                "ids": batch.ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "owner": batch.owner,
                "until": batch.until.as_millis(),
                "is_complete": batch.is_complete,
            })
        });
        let lost = |lost: &LostArrival| {
            json!({
                "arrival": lost.queue.name.as_str(),
                "to": lost.to.to_value(),
                "closed": lost.closed.as_millis(),
            })
        };
        let fields = [
            ("lost", self.lost.iter().map(lost).collect::<Vec<_>>().into()),
            ("from", self.from.to_value()),
            ("project", self.target.project.as_str().into()),
            ("kind", self.target.kind.as_str().into()),
            ("name", self.target.name.as_str().into()),
            ("staging", self.staging.name.as_str().into()),
            ("used", self.used.as_millis().into()),
            ("batch", batch.into()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }
}

/// The row for letters of a pool to a dead-letter queue, with the time of use updated; created if
/// it is missing.
pub(crate) async fn note(
    store: &dyn ManagementStore,
    from: &Place,
    target: &QueueKey,
    now: Timestamp,
) -> Result<(QueueKey, Transfer), storage::Error> {
    let (project, kind, name) = (&target.project, target.kind, &target.name);
    let names = [from.name(), project.as_str(), kind.as_str(), name.as_str()];
    let row = rows::transfer(&names)?;
    let changed = rows::change(store, &row, |object| {
        let mut transfer = match Transfer::read(object)? {
            Some(transfer) if transfer.used.plus_secs(NOTED_FOR) > now => {
                return Ok((None, transfer));
            }
            Some(transfer) => transfer,
            None => Transfer::new(from.clone(), target.clone(), now)?,
        };
        transfer.used = now;
        Ok((Some(transfer.write()), transfer))
    });
    Ok((row.clone(), changed.await.map_err(as_storage)?))
}

/// Replaces the batch of a row if it still is `before`; `false` if it has changed. The arrival
/// queue of an incomplete one is lost at the time `now`.
pub(crate) async fn set_batch(
    store: &dyn ManagementStore,
    row: &QueueKey,
    before: Option<&TransferBatch>,
    after: Option<&TransferBatch>,
    now: Timestamp,
) -> Result<bool, storage::Error> {
    let changed = rows::change(store, row, |object| {
        let Some(mut transfer) = Transfer::read(object)? else { return Ok((None, false)) };
        if transfer.batch.as_ref() == after {
            // An earlier attempt of ours succeeded, and its answer was lost.
            return Ok((None, true));
        }
        if transfer.batch.as_ref() != before {
            return Ok((None, false));
        }
        transfer.batch = after.cloned();
        if let Some(before) = before
            && after.is_none_or(|after| after.arrival != before.arrival)
            && !before.is_complete
        {
            let (queue, to) = (before.arrival.clone(), before.to.clone());
            transfer.lost.push(LostArrival { queue, to, closed: now });
            let surplus = transfer.lost.len().saturating_sub(MAX_LOST);
            transfer.lost.drain(..surplus);
        }
        Ok((Some(transfer.write()), true))
    });
    changed.await.map_err(as_storage)
}

/// Forgets an arrival queue that was lost.
pub(crate) async fn forget_lost(
    store: &dyn ManagementStore,
    row: &QueueKey,
    lost: &LostArrival,
) -> Result<(), storage::Error> {
    let changed = rows::change(store, row, |object| {
        let Some(mut transfer) = Transfer::read(object)? else { return Ok((None, ())) };
        transfer.lost.retain(|other| other != lost);
        Ok((Some(transfer.write()), ()))
    });
    changed.await.map_err(as_storage)
}

/// What a change of a row of this crate's own failed with.
pub(crate) fn as_storage(error: Error) -> storage::Error {
    match error {
        Error::Storage(error) => error,
        other @ (Error::PoolNotFound { .. }
        | Error::FlavorNotFound { .. }
        | Error::Unreachable { .. }
        | Error::UriInUse
        | Error::UriOfMessageStore
        | Error::CapabilitiesMismatch
        | Error::LastOfFlavor { .. }
        | Error::TooMany { .. }
        | Error::QueueNotFound { .. }
        | Error::CannotMove { .. }
        | Error::Contended) => storage::Error::unavailable(other),
    }
}

/// A new key for a staging or arrival queue. Each is used once, so that a closed queue is never
/// found again.
pub(crate) fn new_queue() -> Result<QueueKey, storage::Error> {
    queue(&format!("{:032x}", rand::random::<u128>())).map_err(storage::Error::failed)
}

fn queue(name: &str) -> Result<QueueKey, zaqar_core::NameError> {
    let project = ProjectId::new("zaqar.letters")?;
    Ok(QueueKey { project, kind: Kind::Internal, name: QueueName::new(name)? })
}

fn read_transfer(object: &Map<String, Value>) -> Option<Transfer> {
    let text = |name: &str| object.get(name)?.as_str();
    let kind = text("kind")?;
    let target = QueueKey {
        project: ProjectId::new(text("project")?).ok()?,
        kind: [Kind::Queue, Kind::Topic].into_iter().find(|own| own.as_str() == kind)?,
        name: QueueName::new(text("name")?).ok()?,
    };
    let batch = object.get("batch").filter(|batch| !batch.is_null());
    Some(Transfer {
        from: Place::of_value(object.get("from")?)?,
        target,
        staging: queue(text("staging")?).ok()?,
        used: Timestamp::from_millis(object.get("used")?.as_u64()?),
        batch: batch.map(|batch| read_batch(batch).ok_or(())).transpose().ok()?,
        // Earlier releases remember none.
        lost: match object.get("lost") {
            Some(lost) => lost.as_array()?.iter().map(read_lost).collect::<Option<_>>()?,
            None => Vec::new(),
        },
    })
}

fn read_lost(lost: &Value) -> Option<LostArrival> {
    Some(LostArrival {
        queue: queue(lost.get("arrival")?.as_str()?).ok()?,
        to: Place::of_value(lost.get("to")?)?,
        closed: Timestamp::from_millis(lost.get("closed")?.as_u64()?),
    })
}

fn read_batch(batch: &Value) -> Option<TransferBatch> {
    let ids = batch.get("ids")?.as_array()?.iter();
    Some(TransferBatch {
        arrival: queue(batch.get("arrival")?.as_str()?).ok()?,
        to: Place::of_value(batch.get("to")?)?,
        ids: ids.map(|id| id.as_str()?.parse().ok()).collect::<Option<_>>()?,
        owner: batch.get("owner")?.as_u64()?,
        until: Timestamp::from_millis(batch.get("until")?.as_u64()?),
        is_complete: batch.get("is_complete")?.as_bool()?,
    })
}
