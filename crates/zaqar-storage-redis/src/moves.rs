//! Moves to other stores and from them.
//!
//! A head that is frozen has the field `z`, and every script of another trait answers `moved` as
//! soon as it has read the head, unless it repeats what was done before. Nothing but the sweep
//! changes such a head, so a part is read from where the one before ended: by rank where a sorted
//! set is ordered by time, which shifts only as rows expire.
//!
//! A head is opened for a move only once the chunks of an earlier life are deleted: these are named
//! by position, and positions come back with the queue.

use async_trait::async_trait;
use zaqar_core::storage::{
    ClaimRow, Contents, ContentsMark, EntryRow, Error, Exported, FrozenHead, MessageRow, MoveId,
    Moves,
};
use zaqar_core::{ClientId, Incarnation, Position, QueueKey, Timestamp};

use crate::Redis;
use crate::driver::{HeadCall, arguments, digits, millis, number, time};
use crate::error::{Malformed, report_unreadable};
use crate::keys::Schedule;
use crate::messages::{bounded, claim_text};
use crate::peer::Lane;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Mode, ScriptCall, Server};
use crate::{outbox, record, subscriptions};

/// Sweeps of what an earlier life left, at most, and rows of each.
const SWEEPS: usize = 10_000;
const SWEPT: u64 = 1000;
/// Marks entries that can only be followed: they come after those for workers.
const FOLLOWED: u64 = 1 << 62;
/// A time that has passed: what is scheduled for it is looked at at once.
const AT_ONCE: u64 = 1;

#[async_trait]
impl Moves for Redis {
    async fn freeze(
        &self,
        key: &QueueKey,
        id: MoveId,
        now: Timestamp,
    ) -> Result<Option<FrozenHead>, Error> {
        let frozen = self.update_head(key, now, &scripts::FREEZE, [number(id.get())]).await?;
        let Some((_, mut reply)) = frozen else { return Ok(None) };
        let generation = reply.generation()?;
        let (last, latest) = (Position::new(reply.number()?), reply.time()?);
        Ok(Some(FrozenHead { generation, last, time: latest.max(now) }))
    }

    async fn receive(
        &self,
        key: &QueueKey,
        id: MoveId,
        head: FrozenHead,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = || {
            [
                number(id.get()),
                digits(head.generation.incarnation.get()),
                digits(head.generation.version.get()),
                number(head.last.get()),
                time(head.time.max(now)),
            ]
        };
        for _ in 0..SWEEPS {
            match self.update_head(key, now, &scripts::RECEIVE, own()).await? {
                Some(("done", _)) => return Ok(()),
                Some(("none", _)) => self.sweep_remains(key, now).await?,
                Some(_) => return Err(Error::failed("the queue is in this store already")),
                None => return Err(Malformed.into()),
            }
        }
        Err(Error::unavailable("an earlier copy of the queue is still being deleted"))
    }

    async fn export(
        &self,
        key: &QueueKey,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<Exported>, Error> {
        let (kind, after) = match mark {
            ContentsMark::Claims(after) => ("c", after.map_or_else(Vec::new, claim_text)),
            ContentsMark::Messages(after) => ("m", number(after.get())),
            ContentsMark::Subscriptions(after) => {
                ("s", after.map_or_else(Vec::new, subscriptions::text))
            }
            ContentsMark::Entries(after) if after.get() >= FOLLOWED => {
                ("o", number(after.get() - FOLLOWED))
            }
            ContentsMark::Entries(after) => ("e", number(after.get())),
        };
        let own = [kind.into(), after, number(bounded(limit))];
        let found = self.of_move(key, id, "s", Some(now), &scripts::EXPORT, own).await?;
        let Some(("done", mut reply)) = found else { return Ok(None) };
        let (incarnation, last) = (reply.incarnation()?, reply.text()?);
        let contents = read_part(mark, incarnation, reply)?;
        let next = match mark {
            _ if !last.is_empty() => Some(mark_after(mark, &last)?),
            ContentsMark::Entries(after) if after.get() < FOLLOWED => {
                Some(ContentsMark::Entries(Position::new(FOLLOWED)))
            }
            ContentsMark::Claims(_)
            | ContentsMark::Messages(_)
            | ContentsMark::Subscriptions(_)
            | ContentsMark::Entries(_) => mark.next_kind(),
        };
        Ok(Some(Exported { contents, next }))
    }

    async fn import(
        &self,
        key: &QueueKey,
        id: MoveId,
        part: &Contents,
        now: Timestamp,
    ) -> Result<bool, Error> {
        for subscription in &part.subscriptions {
            if let Some(lease) = subscription.lease {
                let expires = subscription.expires();
                self.attach_to_lease(lease, key, subscription.id, expires, now).await?;
            }
        }
        let script = &scripts::IMPORT;
        let own = write_part(part, self.server());
        let imported = self.of_move(key, id, "t", Some(now), script, own).await?;
        Ok(matches!(imported, Some(("done", _))))
    }

    async fn thaw(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        // First, so that what comes due is found even if this server dies. A reader that meets a
        // frozen head looks again.
        for schedule in [Schedule::Sweeps, Schedule::Deliveries] {
            self.server().schedule_by(schedule, key, AT_ONCE).await?;
        }
        self.of_move(key, id, "st", None, &scripts::THAW, []).await?;
        Ok(())
    }

    async fn discard(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        self.of_move(key, id, "st", None, &scripts::DISCARD, []).await?;
        Ok(())
    }

    async fn heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error> {
        self.walk_heads(cursor, limit).await
    }
}

impl Redis {
    /// Calls a script of a move on a head that it froze; `None` for another head, or none.
    async fn of_move(
        &self,
        key: &QueueKey,
        id: MoveId,
        ends: &str,
        now: Option<Timestamp>,
        script: &'static Script,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Option<(&'static str, Reply)>, Error> {
        let mut arguments = arguments(None);
        arguments.extend([number(id.get()), ends.into()]);
        arguments.extend(own);
        let call = HeadCall::new(script, Mode::Write, now, arguments);
        match self.call_head(key, HeadCall { lane: Lane::Large, ..call }).await? {
            Outcome::Answer("none", _) | Outcome::Absent => Ok(None),
            Outcome::Answer(status, reply) => Ok(Some((status, reply))),
            Outcome::Stale(_) => Err(Malformed.into()),
        }
    }

    /// Deletes a part of what an earlier life of a queue left.
    async fn sweep_remains(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        let keys = self.server().keys().head(key);
        let arguments = [number(SWEPT)];
        let call = ScriptCall::new(&scripts::SWEEP, &keys, &arguments, Mode::Background);
        self.server().run(ScriptCall { now: Some(now), ..call }).await?;
        Ok(())
    }
}

/// Where the next part begins, after the last row that was examined.
fn mark_after(mark: ContentsMark, last: &str) -> Result<ContentsMark, Malformed> {
    let position = || last.parse::<u64>().map_err(|_| Malformed);
    Ok(match mark {
        ContentsMark::Claims(_) => ContentsMark::Claims(Some(last.parse().map_err(|_| Malformed)?)),
        ContentsMark::Messages(_) => ContentsMark::Messages(Position::new(position()?)),
        ContentsMark::Subscriptions(_) => {
            ContentsMark::Subscriptions(Some(last.parse().map_err(|_| Malformed)?))
        }
        ContentsMark::Entries(before) => {
            ContentsMark::Entries(Position::new(position()? | (before.get() & FOLLOWED)))
        }
    })
}

fn read_part(
    mark: ContentsMark,
    incarnation: Incarnation,
    mut reply: Reply,
) -> Result<Contents, Malformed> {
    let mut part = Contents::default();
    while !reply.is_empty() {
        match mark {
            ContentsMark::Claims(_) => part.claims.push(ClaimRow {
                id: reply.text()?.parse().map_err(|_| Malformed)?,
                ttl: reply.number()?,
                since: reply.time()?,
            }),
            ContentsMark::Messages(_) => part.messages.extend(read_message(&mut reply)?),
            ContentsMark::Subscriptions(_) => {
                part.subscriptions.push(subscriptions::read(&mut reply)?);
            }
            ContentsMark::Entries(_) => {
                let first = reply.number()?;
                let due = reply.some_number()?.map(Timestamp::from_millis);
                let followed = Timestamp::from_millis(reply.some_number()?.unwrap_or(0));
                let count = reply.number()?;
                let fields = reply.take(count)?;
                match outbox::read(incarnation, first, fields) {
                    Ok(entry) => part.entries.push(EntryRow { entry, due, followed }),
                    // A damaged entry is never delivered.
                    Err(Malformed) => report_unreadable("an outbox entry", first),
                }
            }
        }
    }
    Ok(part)
}

/// Reads a message; a damaged one is skipped, as it is everywhere.
fn read_message(reply: &mut Reply) -> Result<Option<MessageRow>, Malformed> {
    let (position, expires) = (Position::new(reply.number()?), reply.time()?);
    let (count, claim, visible) = (reply.number()?, reply.text()?, reply.some_number()?);
    let Ok(record) = record::decode(reply.bytes()?) else {
        report_unreadable("a message", position.get());
        return Ok(None);
    };
    let claim = if claim.is_empty() { None } else { Some(claim.parse().map_err(|_| Malformed)?) };
    Ok(Some(MessageRow {
        position,
        client: record.client,
        payload: record.payload,
        created: record.created,
        ttl: record::seconds(expires.as_millis().saturating_sub(record.created.as_millis())),
        expires,
        visible: visible.map_or(record.created, Timestamp::from_millis),
        claim,
        claim_count: u32::try_from(count).unwrap_or(u32::MAX),
    }))
}

fn write_part(part: &Contents, server: &Server) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    for claim in &part.claims {
        let expires = time(claim.expires());
        let (id, ttl) = (claim_text(claim.id), number(claim.ttl));
        rows.extend([b"c".to_vec(), id, ttl, time(claim.since), expires]);
    }
    for message in &part.messages {
        let total = message.expires.as_millis().saturating_sub(message.created.as_millis());
        let is_fresh = message.claim.is_none()
            && message.claim_count == 0
            && message.visible <= message.created;
        let is_whole = total.is_multiple_of(1000);
        let life = if is_whole { server.life(total / 1000, is_fresh) } else { None };
        rows.extend([
            b"m".to_vec(),
            number(message.position.get()),
            record::encode(message.created, &message.client, &message.payload, life),
            time(message.expires),
            time(message.visible),
            message.claim.map_or_else(Vec::new, claim_text),
            number(message.claim_count.into()),
        ]);
    }
    for one in &part.subscriptions {
        rows.extend([
            b"s".to_vec(),
            subscriptions::text(one.id),
            number(one.ttl),
            time(one.since),
            subscriptions::flag(one.confirmed),
            one.subscriber.clone().into_bytes(),
            one.options.clone().into_bytes(),
            one.lease.map_or_else(Vec::new, |lease| lease.encode().to_vec()),
            time(one.expires()),
        ]);
    }
    for moved in &part.entries {
        write_entry(&mut rows, moved);
    }
    rows
}

fn write_entry(rows: &mut Vec<Vec<u8>>, moved: &EntryRow) {
    let EntryRow { entry, due, followed } = moved;
    let followed = if followed.as_millis() == 0 { Vec::new() } else { time(*followed) };
    rows.extend([
        b"e".to_vec(),
        number(entry.first.get()),
        due.map_or_else(Vec::new, time),
        followed,
        time(entry.expires()),
        number(1 + 3 * entry.messages.len() as u64),
        time(entry.created),
    ]);
    let nobody = ClientId::new("");
    for message in &entry.messages {
        let delay = message.due.as_millis().saturating_sub(entry.created.as_millis());
        rows.extend([
            record::encode(entry.created, &nobody, &message.payload, None),
            millis(message.ttl),
            number(delay),
        ]);
    }
}
