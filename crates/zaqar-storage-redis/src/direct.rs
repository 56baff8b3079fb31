//! Reads of messages by plain commands, as a fast path of the scripts.
//!
//! What a script reads becomes strings of Lua, which hashes all their bytes: that takes Redis 7.0
//! 2 µs for a body of 1 KiB, where the command alone takes 0.1 µs. So the usual pages, of fresh
//! messages (see `lua/fresh.lua`) at adjacent positions, are read by one transaction of plain
//! commands, and so are messages by id that were never claimed or that a claim has released. All
//! others are read by the scripts.

#![expect(clippy::wildcard_enum_match_arm, reason = "all other replies are unusual")]

use std::collections::BTreeSet;
use std::vec::IntoIter;

use redis::{Pipeline, Value};
use zaqar_core::storage::{ListQuery, Message};
use zaqar_core::{Incarnation, MessageId, QueueKey, Timestamp};

use crate::Redis;
use crate::envelope;
use crate::messages::{FIRST_SLICE_BYTES, Slice, SliceQuery, id, states};
use crate::peer::Lane;
use crate::reads::Kind;
use crate::record;
use crate::reply::number;

/// Positions in a chunk: see `keys`.
const CHUNK: u64 = 256;
/// The length of a claim's id. Longer notes name one: see `lua/messages.lua`.
const CLAIM_ID: usize = 32;

/// What the head of a queue says of its messages.
struct Head {
    incarnation: Incarnation,
    last: u64,
    /// No position before this is that of a fresh message.
    cursor: u64,
    /// The time at which the queue is read.
    now: u64,
    /// No message, claim or delay ends before this; 0 while a post is not settled.
    due: u64,
}

/// Where a page begins: the position before it, and the first one that may be fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    after: u64,
    first: u64,
}

/// The transaction of a read. The first commands read the clock and the head.
struct Transaction {
    /// The prefix of the queue's keys.
    base: String,
    commands: Pipeline,
}

impl Redis {
    /// Reads a slice of a page; `None` if a script must read it.
    pub(crate) async fn slice_directly(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        slice: &SliceQuery,
        now: Timestamp,
    ) -> Option<Slice> {
        let reads = &self.inner.reads;
        let known = reads.begin(key, Kind::Page)?;
        let count = known.fitting(slice.bytes).min(slice.limit as u64);
        let mut start = Start::new(slice.after, known.incarnation, known.cursor);
        for _ in 0..2 {
            let mut read = self.transaction(key);
            for state in states(query).chars() {
                let range = ["+inf", "BYSCORE", "LIMIT", "0", "1"];
                read.add("ZRANGE", state).arg(format!("({}", start.after)).arg(&range);
            }
            let end = start.first.saturating_add(count);
            read.add_records(&(start.first..end).collect::<Vec<_>>());
            let answer = self.read_directly(key, slice.lane, read, now).await;
            let Some((head, answers)) = answer else { break };
            let found = Start::new(slice.after, Some(head.incarnation), head.cursor);
            reads.update(key, |known| {
                (known.incarnation, known.cursor) = (Some(head.incarnation), head.cursor);
            });
            if found != start {
                start = found;
                continue;
            }
            let Some(found) = page(&head, start, count, query, slice.limit, answers) else { break };
            reads.update(key, |known| known.learn_size(&found.messages));
            reads.end(key, Kind::Page, true);
            return Some(found);
        }
        // The script that reads the first messages tells their size.
        if count > 0 {
            reads.end(key, Kind::Page, false);
        }
        None
    }

    /// Reads messages by id, ascending; `None` if a script must read them.
    pub(crate) async fn get_directly(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Option<Vec<Message>> {
        let reads = &self.inner.reads;
        let known = reads.begin(key, Kind::Get)?;
        let incarnation = ids.first()?.incarnation;
        let positions: BTreeSet<u64> = ids.iter().map(|id| id.position.get()).collect();
        let positions: Vec<u64> = positions.into_iter().collect();
        let fitting = known.fitting(FIRST_SLICE_BYTES).max(1);
        if fitting < positions.len() as u64 || ids.iter().any(|id| id.incarnation != incarnation) {
            return None;
        }
        let mut read = self.transaction(key);
        read.add_records(&positions);
        let expiry = read.add("ZMSCORE", 'x');
        for position in &positions {
            expiry.arg(position).arg(format!("b{}", position / CHUNK));
        }
        read.add("HMGET", 'k').arg(&positions);
        let sizes = &self.inner.answer_sizes;
        let answer = self.read_directly(key, sizes.lane(key), read, now).await;
        let found = answer.and_then(|(head, answers)| {
            let is_other = head.incarnation != incarnation;
            if is_other { Some(Vec::new()) } else { messages(&head, &positions, answers) }
        });
        reads.end(key, Kind::Get, found.is_some());
        let found = found?;
        sizes.note(key, found.iter().map(|message| message.payload.bytes.len()).sum());
        Some(found)
    }

    fn transaction(&self, key: &QueueKey) -> Transaction {
        let head = self.server().keys().head(key).key;
        let base = head[..head.len() - 1].to_owned();
        let mut commands = redis::pipe();
        commands.atomic().cmd("TIME");
        commands.cmd("HMGET").arg(head).arg(&["i", "p", "q", "n", "d", "z"]);
        Transaction { base, commands }
    }

    /// The head, and what the further commands answer; `None` without a usual head.
    async fn read_directly(
        &self,
        key: &QueueKey,
        lane: Lane,
        read: Transaction,
        now: Timestamp,
    ) -> Option<(Head, IntoIter<Value>)> {
        let answers = self.server().read_once(key, lane, read.commands).await?;
        let mut answers = array(answers).into_iter();
        let max_skew = self.server().max_clock_skew().map(envelope::skew_millis);
        let head = head(&answers.next()?, &answers.next()?, now.as_millis(), max_skew)?;
        Some((head, answers))
    }
}

impl Transaction {
    /// Adds a command on one of the queue's keys.
    fn add(&mut self, name: &str, end: impl std::fmt::Display) -> &mut Pipeline {
        self.commands.cmd(name).arg(format!("{}{end}", self.base))
    }

    /// Adds what reads the records at these positions, which ascend.
    fn add_records(&mut self, positions: &[u64]) {
        for positions in positions.chunk_by(|a, b| a / CHUNK == b / CHUNK) {
            let fields: Vec<_> = positions.iter().map(|position| position % CHUNK).collect();
            self.add("HMGET", format_args!("b:{}", positions[0] / CHUNK)).arg(fields);
        }
    }
}

impl Start {
    /// Of a page after a message, or of the first one.
    fn new(after: Option<MessageId>, incarnation: Option<Incarnation>, cursor: u64) -> Self {
        let after = after.filter(|after| Some(after.incarnation) == incarnation);
        let after = after.map_or(0, |after| after.position.get());
        Self { after, first: cursor.max(after.saturating_add(1)) }
    }
}

/// Reads the clock of the server and the head; `None` if it is not a usual one.
fn head(clock: &Value, head: &Value, now: u64, max_skew: Option<u32>) -> Option<Head> {
    let (Value::Array(clock), Value::Array(head)) = (clock, head) else { return None };
    let [seconds, micros] = clock.as_slice() else { return None };
    let [incarnation, last, cursor, latest, due, Value::Nil] = head.as_slice() else { return None };
    let server_now = number(seconds).ok()? * 1000 + number(micros).ok()? / 1000;
    let (latest, max_skew) = (number(latest).ok()?, max_skew.map(u64::from));
    // As in `lua/clock.lua` and `lua/head.lua`.
    if max_skew.is_some_and(|skew| now.abs_diff(server_now) > skew) {
        return None;
    }
    let is_ahead = latest > now && max_skew.is_none_or(|skew| latest <= server_now + skew);
    Some(Head {
        incarnation: Incarnation::new(number(incarnation).ok()?),
        last: number(last).ok()?,
        cursor: or_never(cursor)?,
        now: if is_ahead { latest } else { now },
        due: or_never(due)?,
    })
}

/// A number, or the greatest one where there is none.
fn or_never(value: &Value) -> Option<u64> {
    match value {
        Value::Nil => Some(u64::MAX),
        Value::BulkString(text) if text.is_empty() => Some(u64::MAX),
        value => number(value).ok(),
    }
}

/// The page of fresh messages at `count` adjacent positions, or at those up to the last one. `None`
/// if other messages belong to it, or if one of them is not live and fresh.
fn page(
    head: &Head,
    start: Start,
    count: u64,
    query: &ListQuery,
    limit: usize,
    mut answers: IntoIter<Value>,
) -> Option<Slice> {
    let last = head.last.min(start.first.saturating_add(count).checked_sub(1)?);
    for _ in states(query).chars() {
        let Value::Array(others) = answers.next()? else { return None };
        if let Some(other) = others.first()
            && number(other).ok()? <= last
        {
            return None;
        }
    }
    let mut found = Slice { messages: Vec::new(), next: None, is_slice: false };
    if head.due <= head.now {
        return None;
    }
    if start.first > head.last {
        return Some(found);
    }
    if count == 0 {
        return None;
    }
    let hide = query.hide.as_ref().map(record::client);
    let mut records = answers.flat_map(array);
    for position in start.first..=last {
        let Value::BulkString(record) = records.next()? else { return None };
        let life = record::life(&record).filter(|life| life.is_fresh)?;
        if hide.as_ref().is_some_and(|client| record::is_of(&record, client)) {
            return None;
        }
        let record = record::decode(record).ok()?;
        let expires = life.end(record.created);
        found.messages.push(record.message(id(head.incarnation, position), expires, 0));
    }
    found.next = found.messages.last().map(|message| message.id);
    found.is_slice = found.messages.len() < limit && last < head.last;
    Some(found)
}

/// The messages at these positions that are stored and live; `None` if a claim holds one.
fn messages(head: &Head, positions: &[u64], answers: IntoIter<Value>) -> Option<Vec<Message>> {
    if head.due == 0 {
        return None;
    }
    let mut values = answers.flat_map(array);
    let records: Vec<_> = values.by_ref().take(positions.len()).collect();
    let ends: Vec<_> = values.by_ref().take(2 * positions.len()).collect();
    let notes: Vec<_> = values.collect();
    let mut found = Vec::new();
    for (n, record) in records.into_iter().enumerate() {
        let Value::BulkString(record) = record else { continue };
        let [own, of_chunk] = ends.get(2 * n..2 * n + 2)? else { return None };
        let life = record::life(&record);
        let record = record::decode(record).ok()?;
        // Without any entry it is left of a purge, as in `lua/get.lua`.
        let ends = match (own, of_chunk, life) {
            (Value::Nil, Value::Nil, _) | (Value::Nil, _, None) => continue,
            (Value::Nil, _, Some(life)) => life.end(record.created),
            (own, ..) => number(own).ok()?,
        };
        let claims = match notes.get(n)? {
            Value::Nil => 0,
            Value::BulkString(note) if note.len() > CLAIM_ID => return None,
            note => number(note).ok()?,
        };
        if ends > head.now {
            found.push(record.message(id(head.incarnation, positions[n]), ends, claims));
        }
    }
    Some(found)
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}
