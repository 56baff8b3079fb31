//! Moves of queues to other pools: what the catalogue says of one that is under way, and a record
//! of each, by which any server finds it.

use serde_json::{Map, Value, json};
use zaqar_core::pools::PoolName;
use zaqar_core::storage::{self, MoveId};
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName, Timestamp};

use crate::place::Place;

/// The member of a row of the catalogue that has its move.
const MOVE: &str = "move";

/// How far a move is. One that has come to `Thaw` is not undone any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The contents are copied from the source, which is frozen, to the target, which is frozen,
    /// too.
    Copy,
    /// The source thaws, and the copy is discarded.
    Undo,
    /// The queue is in the target now, which thaws.
    Thaw,
    /// The source, which still tells everybody that the queue has moved, is discarded in a while.
    Clean,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Copy, Self::Undo, Self::Thaw, Self::Clean];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Undo => "undo",
            Self::Thaw => "thaw",
            Self::Clean => "clean",
        }
    }
}

/// A move that is under way, in the queue's row of the catalogue. No head is frozen before this is
/// there or after it is gone: a head that is frozen with another id is a leftover of a server that
/// was stopped for too long, and what the catalogue says is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moving {
    /// Of this attempt: who takes a copy over draws another one.
    pub(crate) id: MoveId,
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) phase: Phase,
    /// The process that does it.
    pub(crate) owner: u64,
    /// Until when it alone does. In [`Phase::Clean`], when the source is discarded.
    pub(crate) until: Timestamp,
    /// Rows that were copied.
    pub(crate) rows: u64,
    /// Why it is undone.
    pub(crate) problem: Option<String>,
}

impl Moving {
    /// The move of a row of the catalogue.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Option<Self>, storage::Error> {
        let damaged = || storage::Error::failed("the move of a queue is damaged");
        object.get(MOVE).map(|value| read_moving(value).ok_or_else(damaged)).transpose()
    }

    /// Sets or removes the move of a row of the catalogue.
    pub(crate) fn write(moving: Option<&Self>, object: &mut Map<String, Value>) {
        let Some(moving) = moving else {
            object.remove(MOVE);
            return;
        };
        let value = json!({
            "id": moving.id.get(),
            "from": moving.from.to_value(),
            "to": moving.to.to_value(),
            "phase": moving.phase.as_str(),
            "owner": moving.owner,
            "until": moving.until.as_millis(),
            "rows": moving.rows,
            "problem": moving.problem,
        });
        object.insert(MOVE.to_owned(), value);
    }
}

fn read_moving(value: &Value) -> Option<Moving> {
    let phase = value.get("phase")?.as_str()?;
    Some(Moving {
        id: MoveId::new(value.get("id")?.as_u64()?),
        from: Place::of_value(value.get("from")?)?,
        to: Place::of_value(value.get("to")?)?,
        phase: Phase::ALL.into_iter().find(|own| own.as_str() == phase)?,
        owner: value.get("owner")?.as_u64()?,
        until: Timestamp::from_millis(value.get("until")?.as_u64()?),
        rows: value.get("rows")?.as_u64()?,
        problem: value.get("problem")?.as_str().map(str::to_owned),
    })
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) at: Timestamp,
    pub(crate) rows: u64,
    /// Why the queue stayed where it was.
    pub(crate) problem: Option<String>,
}

/// The record of the last move of a queue. It is made before the move begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) queue: QueueKey,
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) began: Timestamp,
    pub(crate) ended: Option<Ended>,
}

impl Record {
    /// Reads what [`Record::write`] wrote; `None` for an empty row, which is about to be removed.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Option<Self>, storage::Error> {
        if object.is_empty() {
            return Ok(None);
        }
        let damaged = || storage::Error::failed("the record of a move is damaged");
        read_record(object).map(Some).ok_or_else(damaged)
    }

    pub(crate) fn write(&self) -> Map<String, Value> {
        let ended = self.ended.as_ref().map(|ended| {
            let Ended { at, rows, problem } = ended;
            json!({ "at": at.as_millis(), "rows": rows, "problem": problem })
        });
        let fields = [
            ("project", self.queue.project.as_str().into()),
            ("kind", self.queue.kind.as_str().into()),
            ("name", self.queue.name.as_str().into()),
            ("from", self.from.to_value()),
            ("to", self.to.to_value()),
            ("began", self.began.as_millis().into()),
            ("ended", ended.into()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }

    /// Whether it is a move from a pool or to it.
    pub(crate) fn is_of(&self, pool: &PoolName) -> bool {
        let is_pool = |place: &Place| place.pool() == Some(pool);
        is_pool(&self.from) || is_pool(&self.to)
    }
}

fn read_record(object: &Map<String, Value>) -> Option<Record> {
    let text = |name: &str| object.get(name)?.as_str();
    let kind = text("kind")?;
    let queue = QueueKey {
        project: ProjectId::new(text("project")?).ok()?,
        kind: [Kind::Queue, Kind::Topic].into_iter().find(|own| own.as_str() == kind)?,
        name: QueueName::new(text("name")?).ok()?,
    };
    let time = |value: &Value| value.as_u64().map(Timestamp::from_millis);
    let ended = object.get("ended").filter(|ended| !ended.is_null());
    let read_ended = |ended: &Value| {
        Some(Ended {
            at: time(ended.get("at")?)?,
            rows: ended.get("rows")?.as_u64()?,
            problem: ended.get("problem")?.as_str().map(str::to_owned),
        })
    };
    Some(Record {
        queue,
        from: Place::of_value(object.get("from")?)?,
        to: Place::of_value(object.get("to")?)?,
        began: time(object.get("began")?)?,
        ended: ended.map(|ended| read_ended(ended).ok_or(())).transpose().ok()?,
    })
}
