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
use crate::driver::{Call, Repeat, digits, number};
use crate::error::Garbled;
use crate::messages::bounded;
use crate::reply::{self, Reply};
use crate::scripts::{self, Script};

const DIGITS: usize = 20;

#[async_trait]
impl Queues for Redis {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        const MARK: usize = 2;
        let mut arguments = [name(key), write(row), Vec::new()];
        let (script, repeat) = (&scripts::QUEUE_CREATE, Repeat::Marked(MARK));
        Ok(some_row(self.change_rows(key, script, &mut arguments, repeat).await?)?)
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        let mut arguments = [name(key)];
        let row =
            self.ask_rows(&key.project, key.kind, &scripts::QUEUE_GET, &mut arguments).await?;
        Ok(some_row(row)?)
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        const MARK: usize = 3;
        let mut arguments = [name(key), generation_text(expected), write(row), Vec::new()];
        let (script, repeat) = (&scripts::QUEUE_REPLACE, Repeat::Marked(MARK));
        let done = self.change_rows(key, script, &mut arguments, repeat).await?;
        Ok(reply::number(&done)? == 1)
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let mut arguments = [name(key), digits(incarnation.get())];
        // The second time it would say that there was no row.
        let (script, repeat) = (&scripts::QUEUE_REMOVE, Repeat::Never);
        let done = self.change_rows(key, script, &mut arguments, repeat).await?;
        Ok(reply::number(&done)? == 1)
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        let from = after.map_or_else(|| "-".to_owned(), |name| format!("({name}"));
        let mut arguments = [from.into_bytes(), number(bounded(limit))];
        let listed = self.ask_rows(project, kind, &scripts::QUEUE_LIST, &mut arguments).await?;
        let mut reply = Reply::new(listed)?;
        let mut rows = Vec::new();
        while !reply.is_empty() {
            let name = QueueName::new(&reply.text()?).map_err(|_| Garbled)?;
            rows.push((name, read(&reply.bytes()?)?));
        }
        Ok(rows)
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        let count = self.ask_rows(project, kind, &scripts::QUEUE_COUNT, &mut []).await?;
        Ok(reply::number(&count)?)
    }
}

impl Redis {
    async fn change_rows(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: &mut [Vec<u8>],
        repeat: Repeat,
    ) -> Result<Value, Error> {
        let place = self.server().keys().names(&key.project, key.kind);
        let call = Call { script, place: &place, other: None, arguments, repeat, is_write: true };
        self.server().run(call).await
    }

    async fn ask_rows(
        &self,
        project: &ProjectId,
        kind: Kind,
        script: &'static Script,
        arguments: &mut [Vec<u8>],
    ) -> Result<Value, Error> {
        let (place, repeat) = (self.server().keys().names(project, kind), Repeat::Harmless);
        let call = Call { script, place: &place, other: None, arguments, repeat, is_write: false };
        self.server().run(call).await
    }
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

fn some_row(value: Value) -> Result<Option<QueueRow>, Garbled> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(row) => read(&row).map(Some),
        _ => Err(Garbled),
    }
}

fn read(row: &[u8]) -> Result<QueueRow, Garbled> {
    let (incarnation, rest) = row.split_at_checked(DIGITS).ok_or(Garbled)?;
    let (version, metadata) = rest.split_at_checked(DIGITS).ok_or(Garbled)?;
    let generation = Generation {
        incarnation: Incarnation::new(read_digits(incarnation)?),
        version: Version::new(read_digits(version)?),
    };
    let metadata = Metadata::from_json(metadata).map_err(|_| Garbled)?;
    Ok(QueueRow { generation, metadata })
}

fn read_digits(digits: &[u8]) -> Result<u64, Garbled> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Garbled)
}
