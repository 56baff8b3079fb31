//! Queue rows: a sorted set of names and a hash of rows for each project and kind.
//!
//! A row is the incarnation and the version, 20 digits each, and the metadata.

use async_trait::async_trait;
use redis::Value;
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{
    Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName, Version,
};

use crate::Redis;
use crate::driver::{digits, number};
use crate::error::{Malformed, report_unreadable};
use crate::messages::bounded;
use crate::peer::Lane;
use crate::reply::{self, Reply};
use crate::scripts::{self, Script};
use crate::server::{Mode, ScriptCall};

const DIGITS: usize = 20;
/// Bytes of rows after which a script answers a slice of a page.
const SLICE_BYTES: u64 = 256 << 10;

#[async_trait]
impl Queues for Redis {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        let arguments = [name(key), write(row)];
        Ok(some_row(self.change_rows(key, &scripts::QUEUE_CREATE, &arguments).await?)?)
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        let arguments = [name(key)];
        let script = &scripts::QUEUE_GET;
        let row = self.ask_rows(&key.project, key.kind, script, &arguments, Lane::Small).await?;
        Ok(some_row(row)?)
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        let arguments = [name(key), generation_text(expected), write(row)];
        let done = self.change_rows(key, &scripts::QUEUE_REPLACE, &arguments).await?;
        Ok(reply::number(&done)? == 1)
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let arguments = [name(key), digits(incarnation.get())];
        let done = self.change_rows(key, &scripts::QUEUE_REMOVE, &arguments).await?;
        Ok(reply::number(&done)? == 1)
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        let mut from = after.map_or_else(|| "-".to_owned(), |name| format!("({name}"));
        let (mut rows, mut left) = (Vec::new(), bounded(limit));
        loop {
            let arguments = [from.into_bytes(), number(left), number(SLICE_BYTES)];
            // A single row is small.
            let lane = if limit > 1 { Lane::Large } else { Lane::Small };
            let script = &scripts::QUEUE_LIST;
            let listed = self.ask_rows(project, kind, script, &arguments, lane).await?;
            let mut reply = Reply::new(listed)?;
            let is_slice = reply.number()? == 1;
            // Decoding a slice takes a while.
            tokio::task::yield_now().await;
            from = String::new();
            while !reply.is_empty() {
                let (name, row) = (reply.text()?, reply.value()?);
                from = format!("({name}");
                left = left.saturating_sub(1);
                rows.extend(readable(project, &name, row));
            }
            if !is_slice || left == 0 || from.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        let count = self.ask_rows(project, kind, &scripts::QUEUE_COUNT, &[], Lane::Small).await?;
        Ok(reply::number(&count)?)
    }
}

impl Redis {
    async fn change_rows(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: &[Vec<u8>],
    ) -> Result<Value, Error> {
        let keys = self.server().keys().names(&key.project, key.kind);
        let call = ScriptCall::new(script, &keys, arguments, Mode::Write);
        self.server().run(ScriptCall { project: key.project.as_str(), ..call }).await
    }

    async fn ask_rows(
        &self,
        project: &ProjectId,
        kind: Kind,
        script: &'static Script,
        arguments: &[Vec<u8>],
        lane: Lane,
    ) -> Result<Value, Error> {
        let keys = self.server().keys().names(project, kind);
        let call = ScriptCall::new(script, &keys, arguments, Mode::Read);
        self.server().run(ScriptCall { project: project.as_str(), lane, ..call }).await
    }
}

/// Decodes a row. A foreign or damaged one is skipped, so that it does not hide the others.
fn readable(project: &ProjectId, name: &str, row: Value) -> Option<(QueueName, QueueRow)> {
    let found = match (QueueName::new(name), some_row(row)) {
        (Ok(name), Ok(Some(row))) => Some((name, row)),
        _ => None,
    };
    if found.is_none() {
        report_unreadable("a queue's row", format_args!("{project}/{name}"));
    }
    found
}

fn name(key: &QueueKey) -> Vec<u8> {
    key.name.as_str().as_bytes().to_vec()
}

fn generation_text(generation: Generation) -> Vec<u8> {
    [digits(generation.incarnation.get()), digits(generation.version.get())].concat()
}

fn write(row: &QueueRow) -> Vec<u8> {
    [generation_text(row.generation), row.metadata.to_json().into_bytes()].concat()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other reply is a row")]
fn some_row(value: Value) -> Result<Option<QueueRow>, Malformed> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(row) => read(&row).map(Some),
        _ => Err(Malformed),
    }
}

fn read(row: &[u8]) -> Result<QueueRow, Malformed> {
    let (incarnation, rest) = row.split_at_checked(DIGITS).ok_or(Malformed)?;
    let (version, metadata) = rest.split_at_checked(DIGITS).ok_or(Malformed)?;
    let generation = Generation {
        incarnation: Incarnation::new(read_digits(incarnation)?),
        version: Version::new(read_digits(version)?),
    };
    let metadata = Metadata::from_json(metadata).map_err(|_| Malformed)?;
    Ok(QueueRow { generation, metadata })
}

fn read_digits(digits: &[u8]) -> Result<u64, Malformed> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}
