//! Recovery: redelivers failed messages, one page a second.
//!
//! A recovery is a row of the subscription that is not sent to the subscriber: the worker that
//! serves the subscription holds it, does one page, and lets it wait for a second. So any server
//! continues it after a crash, and it pauses while the destination fails or the subscription is
//! suspended. Which rows of `failed.<subscription>` it takes is decided when it starts: a delivery
//! that fails again is not taken again. Each row is added to the deliveries before it is deleted
//! from the failed ones, so a crash in between delivers one page twice, and loses none.
//!
//! A record of the subscription's last recovery has its progress and says whether it was cancelled.
//! The row is written before the record.

use serde_json::{Value, json};
use zaqar_core::delivery::{Recovery, RecoveryId, RecoveryRange, RecoveryState};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, Payload, Timestamp};

use crate::attempt::{Disposition, Report};
use crate::context::Context;
use crate::deliveries::{HeldRow, Kept, Lease, ROW_LEASE};
use crate::destination::Ended;
use crate::row::{Body, SubscriptionKey};

/// Deliveries per page.
const PAGE: usize = 20;
/// Seconds between two pages.
const PAUSE: u64 = 1;
/// The longest time a recovery may take, in seconds: longer than any message lives.
pub(crate) const LONGEST: u64 = 1_209_600;
/// How long a row waits for its record to be written, in seconds.
const UNRECORDED: u64 = 60;

/// The task of a recovery, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: RecoveryId,
    pub(crate) state: RecoveryState,
    pub(crate) range: RecoveryRange,
    /// The last failed row that it takes; `None` if there is none.
    pub(crate) last: Option<MessageId>,
    /// The number of rows that it takes, counted when it started.
    pub(crate) total: u64,
    pub(crate) started: Timestamp,
}

impl Record {
    pub(crate) fn encode(&self) -> Payload {
        let text = json!({
            "id": self.id.to_string(),
            "state": self.state.as_str(),
            "since": self.range.since.map(Timestamp::as_millis),
            "until": self.range.until.map(Timestamp::as_millis),
            "last": self.last.map(|id| id.to_string()),
            "total": self.total,
            "started": self.started.as_millis(),
        });
        Payload::plain(text.to_string().into())
    }

    /// Reads what [`Record::encode`] wrote; `None` for anything else.
    fn decode(payload: &Payload) -> Option<Self> {
        let text: Value = serde_json::from_slice(&payload.bytes).ok()?;
        let time = |name: &str| text[name].as_u64().map(Timestamp::from_millis);
        Some(Self {
            id: text["id"].as_str()?.parse().ok()?,
            state: RecoveryState::parse(text["state"].as_str()?)?,
            range: RecoveryRange { since: time("since"), until: time("until") },
            last: text["last"].as_str().map(str::parse).transpose().ok()?,
            total: text["total"].as_u64()?,
            started: time("started")?,
        })
    }

    /// Whether it takes a failed row.
    fn takes(&self, kept: &Kept) -> bool {
        let posted = kept.row.created;
        self.last.is_some_and(|last| kept.id <= last)
            && self.range.since.is_none_or(|since| posted >= since)
            && self.range.until.is_none_or(|until| posted < until)
    }
}

/// Does one page of a recovery.
pub(crate) async fn step(
    context: &Context,
    key: &SubscriptionKey,
    lease: &Lease,
    held: HeldRow,
) -> Result<Report, Error> {
    let now = context.parts.clock.now();
    let Body::Here(body) = &held.row.body else { return finish(context, lease, held).await };
    let Some(asked) = Record::decode(body) else { return finish(context, lease, held).await };
    let record = read(context, key, now).await?.filter(|record| record.id == asked.id);
    let Some(record) = record else {
        let is_early = now.secs_since(held.row.created) < UNRECORDED;
        return if is_early {
            wait(context, lease).await
        } else {
            finish(context, lease, held).await
        };
    };
    if record.state != RecoveryState::Running || now >= held.row.expires() {
        return finish(context, lease, held).await;
    }
    let page = page(context, key, &record, now).await?;
    if page.is_empty() {
        end(context, key, record, RecoveryState::Done, now).await?;
        return finish(context, lease, held).await;
    }
    if !context.deliveries.hold(lease, ROW_LEASE, now).await? {
        return Ok(report(Disposition::Lost));
    }
    let rows: Vec<_> = page.iter().map(|kept| (kept.row.clone(), now)).collect();
    context.deliveries.add(key, &rows, now).await?;
    // The subscription is in service: this is one of its rows.
    context.in_service.notify(key, now);
    let ids: Vec<_> = page.iter().map(|kept| kept.id).collect();
    context.deliveries.drop_kept(key, &ids, now).await?;
    wait(context, lease).await
}

async fn finish(context: &Context, lease: &Lease, held: HeldRow) -> Result<Report, Error> {
    context.deliveries.finish(lease, &[held], context.parts.clock.now()).await?;
    Ok(report(Disposition::Ended))
}

async fn wait(context: &Context, lease: &Lease) -> Result<Report, Error> {
    let now = context.parts.clock.now();
    let waits = context.deliveries.wait(lease, PAUSE, now).await?;
    Ok(report(waits.map_or(Disposition::Lost, |secs| Disposition::RetryAt(now.plus_secs(secs)))))
}

const fn report(disposition: Disposition) -> Report {
    Report { disposition, ended: Ended::NotSent, asked: None, rows: Vec::new() }
}

/// The first failed rows that a recovery takes. Cost: reads the ones before them, too.
async fn page(
    context: &Context,
    key: &SubscriptionKey,
    record: &Record,
    now: Timestamp,
) -> Result<Vec<Kept>, Error> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (rows, next) = context.deliveries.kept_after(key, after, now).await?;
        let taken = rows.into_iter().filter(|kept| record.takes(kept));
        found.extend(taken.take(PAGE - found.len()));
        if found.len() == PAGE || next.is_none() || next > record.last {
            return Ok(found);
        }
        after = next;
    }
}

pub(crate) async fn count(
    context: &Context,
    key: &SubscriptionKey,
    record: &Record,
    now: Timestamp,
) -> Result<u64, Error> {
    let (mut count, mut after) = (0, None);
    loop {
        let (rows, next) = context.deliveries.kept_after(key, after, now).await?;
        count += u64::try_from(rows.iter().filter(|kept| record.takes(kept)).count()).unwrap_or(0);
        if next.is_none() || next > record.last {
            return Ok(count);
        }
        after = next;
    }
}

pub(crate) async fn progress(
    context: &Context,
    key: &SubscriptionKey,
    record: &Record,
    now: Timestamp,
) -> Result<Recovery, Error> {
    let Record { id, range, total, started, .. } = record.clone();
    let remaining = match record.state {
        RecoveryState::Done => 0,
        RecoveryState::Running | RecoveryState::Cancelled => {
            count(context, key, record, now).await?
        }
    };
    let state = match record.state {
        RecoveryState::Running if remaining == 0 => RecoveryState::Done,
        state @ (RecoveryState::Running | RecoveryState::Done | RecoveryState::Cancelled) => state,
    };
    Ok(Recovery { id, state, range, total: total.max(remaining), remaining, started })
}

pub(crate) async fn read(
    context: &Context,
    key: &SubscriptionKey,
    now: Timestamp,
) -> Result<Option<Record>, Error> {
    let Some(queue) = key.recovery() else { return Ok(None) };
    let found = context.deliveries.read_single(&queue, now).await?;
    Ok(found.and_then(|payload| Record::decode(&payload)))
}

/// Replaces the record that was read before; `false` if another caller has replaced it, or is doing
/// so.
pub(crate) async fn write(
    context: &Context,
    key: &SubscriptionKey,
    record: &Record,
    before: Option<RecoveryId>,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(queue) = key.recovery() else { return Ok(false) };
    let Some(before) = before else {
        let is_record = |payload: &Payload| Record::decode(payload).is_some();
        return context.deliveries.add_only(key, &queue, record.encode(), is_record, now).await;
    };
    let change = |payload| {
        let is_same = Record::decode(&payload).is_some_and(|found| found.id == before);
        is_same.then(|| (record.encode(), ()))
    };
    Ok(context.deliveries.replace_single(key, &queue, change, now).await?.is_some())
}

/// Ends a recovery, unless it has ended. Returns whether it is still the last one.
pub(crate) async fn end(
    context: &Context,
    key: &SubscriptionKey,
    record: Record,
    state: RecoveryState,
    now: Timestamp,
) -> Result<bool, Error> {
    if record.state != RecoveryState::Running {
        return Ok(true);
    }
    let Some(queue) = key.recovery() else { return Ok(false) };
    let change = |payload| {
        let found = Record::decode(&payload).filter(|found| found.id == record.id)?;
        Some((Record { state, ..found }.encode(), ()))
    };
    Ok(context.deliveries.replace_single(key, &queue, change, now).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{Incarnation, Position};

    #[test]
    fn a_record_reads_back() {
        let id = |at| MessageId { incarnation: Incarnation::new(1), position: Position::new(at) };
        let record = Record {
            id: RecoveryId::new(7),
            state: RecoveryState::Cancelled,
            range: RecoveryRange { since: Some(Timestamp::from_millis(5)), until: None },
            last: Some(id(9)),
            total: 3,
            started: Timestamp::from_millis(8),
        };
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        let empty = Record { last: None, range: RecoveryRange::default(), ..record };
        assert_eq!(Record::decode(&empty.encode()), Some(empty));
        for text in ["", "{}", "[]", r#"{"id": "x"}"#] {
            assert_eq!(Record::decode(&Payload::plain(text.into())), None, "{text}");
        }
    }
}
