//! Reads of messages by plain commands, as a fast path of the scripts.
//!
//! What a script reads becomes strings of Lua, which hashes all their bytes: that takes Redis 7.0
//! 2 µs for a body of 1 KiB, where the command alone takes 0.1 µs. So the usual pages, of fresh
//! messages (see `lua/fresh.lua`) at adjacent positions, are read by one pipeline of plain
//! commands, and so are messages by id that no claim holds. All others are read by the scripts.
//!
//! Redis may execute commands of others between those of a pipeline. The head is read first and
//! says up to which position messages exist and that none has expired. After that, a message of the
//! page can be claimed, which lists it as it was, or deleted, or claimed and released, which leaves
//! the page to the script.

#![expect(clippy::wildcard_enum_match_arm, reason = "all other replies are unusual")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::IntoIter;

use redis::{Pipeline, Value};
use zaqar_core::storage::{ListQuery, Message};
use zaqar_core::{Incarnation, MessageId, QueueKey, Timestamp};

use crate::Redis;
use crate::messages::{FIRST_SLICE_BYTES, Slice, SliceQuery, id, states};
use crate::peer::Lane;
use crate::record;
use crate::reply::number;

/// Queues of which pages are remembered. Past this number they are learned anew.
const MAX_QUEUES: usize = 1024;
/// Pages of a queue that scripts read after one that was not usual.
const PAUSE: u8 = 2;
/// Bytes of a record besides the body, about.
const OVERHEAD: u64 = 64;
/// Positions in a chunk: see `keys`.
const CHUNK: u64 = 256;
/// Longer notes name a claim: see `lua/messages.lua`.
const CLAIM: usize = 32;

/// What the latest pages of queues were like.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<HashMap<QueueKey, Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    incarnation: Incarnation,
    /// As in [`Head`].
    cursor: u64,
    /// Bytes of the largest body of the latest page that was not empty.
    size: Option<u64>,
    /// Pages that are left to scripts.
    pause: u8,
}

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

/// The commands of a read. The first ones read the clock and the head.
struct Commands {
    /// The prefix of the queue's keys.
    base: String,
    pipeline: Pipeline,
}

impl Pages {
    /// Remembers a slice that a script has read.
    pub(crate) fn learn(&self, key: &QueueKey, slice: &Slice) {
        let (incarnation, size) = (slice.incarnation, largest(&slice.messages));
        let mut pages = self.lock();
        if let Some(known) = pages.get_mut(key) {
            (known.incarnation, known.size) = (incarnation, size.or(known.size));
            return;
        }
        if pages.len() == MAX_QUEUES {
            pages.clear();
        }
        pages.insert(key.clone(), Known { incarnation, cursor: 0, size, pause: 0 });
    }

    /// What is known of a queue, unless its next page is left to a script.
    fn known(&self, key: &QueueKey) -> Option<Known> {
        let mut pages = self.lock();
        let known = pages.get_mut(key)?;
        if known.pause > 0 {
            known.pause -= 1;
            return None;
        }
        Some(*known)
    }

    fn set(&self, key: &QueueKey, new: Known) {
        if let Some(known) = self.lock().get_mut(key) {
            *known = new;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueKey, Known>> {
        // No code panics while it holds the lock, and every state is valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Messages that have so many bytes, or one of them more; none if their size is not known.
    fn fitting(&self, bytes: u64) -> u64 {
        self.size.map_or(0, |size| bytes.div_ceil(size + OVERHEAD))
    }
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
        let pages = &self.inner.pages;
        let mut known = pages.known(key)?;
        let count = known.fitting(slice.bytes).min(slice.limit as u64);
        let mut start = Start::new(slice.after, known.incarnation, known.cursor);
        for _ in 0..2 {
            let mut commands = self.commands(key);
            for state in states(query).chars() {
                let range = ["+inf", "BYSCORE", "LIMIT", "0", "1"];
                commands.add("ZRANGE", state).arg(start.after + 1).arg(&range);
            }
            commands
                .add_records(&(start.first..start.first.saturating_add(count)).collect::<Vec<_>>());
            let Some((head, answers)) = self.read_directly(key, slice.lane, commands, now).await
            else {
                break;
            };
            (known.incarnation, known.cursor) = (head.incarnation, head.cursor);
            let found = Start::new(slice.after, head.incarnation, head.cursor);
            if found != start {
                start = found;
                continue;
            }
            let Some(found) = page(&head, start, count, query, slice.limit, answers) else { break };
            known.size = largest(&found.messages).or(known.size);
            pages.set(key, known);
            return Some(found);
        }
        // The script that reads the first messages tells their size.
        let pause = if known.size.is_some() { PAUSE } else { 0 };
        pages.set(key, Known { pause, ..known });
        None
    }

    /// Reads messages by id, ascending; `None` if a script must read them.
    pub(crate) async fn get_directly(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Option<Vec<Message>> {
        let incarnation = ids.first()?.incarnation;
        let positions: BTreeSet<u64> = ids.iter().map(|id| id.position.get()).collect();
        let positions: Vec<u64> = positions.into_iter().collect();
        let is_bounded = positions.len() == 1
            || self.inner.pages.known(key)?.fitting(FIRST_SLICE_BYTES) >= positions.len() as u64;
        if !is_bounded || ids.iter().any(|id| id.incarnation != incarnation) {
            return None;
        }
        let mut commands = self.commands(key);
        commands.add_records(&positions);
        let expiry = commands.add("ZMSCORE", 'x');
        for position in &positions {
            expiry.arg(position).arg(format!("b{}", position / CHUNK));
        }
        commands.add("HMGET", 'k').arg(&positions);
        let sizes = &self.inner.answer_sizes;
        let (head, answers) = self.read_directly(key, sizes.lane(key), commands, now).await?;
        if head.incarnation != incarnation {
            return Some(Vec::new());
        }
        let found = messages(&head, &positions, answers)?;
        sizes.note(key, found.iter().map(|message| message.payload.bytes.len()).sum());
        Some(found)
    }

    fn commands(&self, key: &QueueKey) -> Commands {
        let head = self.server().keys().head(key).key;
        let base = head[..head.len() - 1].to_owned();
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").cmd("HMGET").arg(head).arg(&["i", "p", "q", "n", "d", "z"]);
        Commands { base, pipeline }
    }

    /// Answers what the commands read after the head; `None` without a usual head.
    async fn read_directly(
        &self,
        key: &QueueKey,
        lane: Lane,
        commands: Commands,
        now: Timestamp,
    ) -> Option<(Head, IntoIter<Value>)> {
        let answers = self.server().read_once(key, lane, commands.pipeline).await?;
        let Value::Array(answers) = answers else { return None };
        let mut answers = answers.into_iter();
        let skew = self.server().max_clock_skew().map(|skew| skew.as_millis() as u64);
        let head = head(&answers.next()?, &answers.next()?, now.as_millis(), skew)?;
        Some((head, answers))
    }
}

impl Commands {
    /// Adds a command on one of the queue's keys.
    fn add(&mut self, name: &str, end: impl std::fmt::Display) -> &mut Pipeline {
        self.pipeline.cmd(name).arg(format!("{}{end}", self.base))
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
    fn new(after: Option<MessageId>, incarnation: Incarnation, cursor: u64) -> Self {
        let after = after.filter(|after| after.incarnation == incarnation);
        let after = after.map_or(0, |after| after.position.get());
        Self { after, first: cursor.max(after + 1) }
    }
}

/// Reads the clock of the server and the head; `None` if it is not a usual one.
fn head(clock: &Value, head: &Value, now: u64, max_skew: Option<u64>) -> Option<Head> {
    let (Value::Array(clock), Value::Array(head)) = (clock, head) else { return None };
    let [seconds, micros] = clock.as_slice() else { return None };
    let [incarnation, last, cursor, latest, due, Value::Nil] = head.as_slice() else { return None };
    let server_now = number(seconds).ok()? * 1000 + number(micros).ok()? / 1000;
    let latest = number(latest).ok()?;
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
    let incarnation = head.incarnation;
    let mut found = Slice { incarnation, messages: Vec::new(), next: None, is_slice: false };
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
        let expires = record.created.as_millis() + u64::from(life.secs) * 1000;
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
        let (own, of_chunk, note) = (&ends[2 * n], &ends[2 * n + 1], notes.get(n)?);
        let life = record::life(&record);
        let record = record::decode(record).ok()?;
        // As in `lua/cover.lua`: without any entry it is left of a purge.
        let ends = match (own, of_chunk, life) {
            (Value::Nil, Value::Nil, _) | (Value::Nil, _, None) => continue,
            (Value::Nil, _, Some(life)) => record.created.as_millis() + u64::from(life.secs) * 1000,
            (own, ..) => number(own).ok()?,
        };
        let claims = match note {
            Value::Nil => 0,
            Value::BulkString(note) if note.len() > CLAIM => return None,
            note => number(note).ok()?,
        };
        if ends > head.now {
            found.push(record.message(id(head.incarnation, positions[n]), ends, claims));
        }
    }
    Some(found)
}

/// The bytes of the largest body.
fn largest(messages: &[Message]) -> Option<u64> {
    messages.iter().map(|message| message.payload.bytes.len() as u64).max()
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}
