//! Queue rows.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName};

use crate::Mongo;
use crate::error::{is_duplicate, too_large, unreadable};
use crate::query::Query;
use crate::schema::{self, queue_id};

/// A row as it is stored.
#[derive(Deserialize)]
struct Row {
    name: String,
    incarnation: i64,
    version: i64,
    /// JSON text, which preserves numbers and the order of members.
    metadata: String,
}

impl Row {
    fn read(self) -> Result<(QueueName, QueueRow), Error> {
        let name = QueueName::new(&self.name).map_err(|_| unreadable("a queue's name"))?;
        let metadata = Metadata::from_json(self.metadata.as_bytes())
            .map_err(|_| unreadable("a queue's metadata"))?;
        let generation = schema::generation(self.incarnation, self.version);
        Ok((name, QueueRow { generation, metadata }))
    }
}

#[async_trait]
impl Queues for Mongo {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        self.run(async {
            let (queue, mut document) = (queue_id(key), document(row)?);
            document.extend(doc! {
                "_id": &queue, "project": key.project.as_str(), "kind": key.kind.as_str(),
                "name": key.name.as_str(),
            });
            loop {
                let (is_made, was_retried) = self.insert_row(&document).await?;
                if is_made {
                    return Ok(None);
                }
                // If the row was removed in between, try again.
                if let Some(there) = self.row(&queue).await? {
                    let is_ours = was_retried && there == *row;
                    return Ok((!is_ours).then_some(there));
                }
            }
        })
        .await
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        self.run(async { self.row(&queue_id(key)).await }).await
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        self.run(async {
            let queue = queue_id(key);
            let filter = doc! {
                "_id": &queue,
                "incarnation": expected.incarnation.get().cast_signed(),
                "version": expected.version.get().cast_signed(),
            };
            let change = doc! { "$set": document(row)? };
            let rows = &self.inner.rows;
            let (replaced, was_retried) = self
                .send_reporting_retry(|| rows.update_one(filter.clone(), change.clone()))
                .await?;
            if replaced.matched_count > 0 || !was_retried {
                return Ok(replaced.matched_count > 0);
            }
            Ok(self.row(&queue).await?.as_ref() == Some(row))
        })
        .await
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        self.run(async {
            let filter =
                doc! { "_id": queue_id(key), "incarnation": incarnation.get().cast_signed() };
            let rows = &self.inner.rows;
            let (removed, was_retried) =
                self.send_reporting_retry(|| rows.delete_one(filter.clone())).await?;
            // If the first answer was lost, the row was removed by that attempt or by a concurrent
            // identical request.
            Ok(removed.deleted_count > 0 || was_retried)
        })
        .await
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        self.run(async {
            // Names are not empty, so this comes before all of them.
            let after = after.map_or("", QueueName::as_str);
            self.list_rows(project, kind, after, limit).await
        })
        .await
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        self.run(async {
            let filter = doc! { "project": project.as_str(), "kind": kind.as_str() };
            self.send(|| self.inner.rows.count_documents(filter.clone())).await
        })
        .await
    }
}

impl Mongo {
    /// Rows after a name. Names are compared by byte, as collections have no collation.
    async fn list_rows(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        let query = Query::new(doc! {
            "project": project.as_str(), "kind": kind.as_str(), "name": { "$gt": after },
        });
        let query = query.sorted(doc! { "name": 1 }).limited(limit);
        let read = |raw: &_| self.read::<Row>(raw).and_then(|row| row.read().ok());
        self.find_in_order(&self.inner.rows, query, "name", read).await
    }

    async fn row(&self, queue: &str) -> Result<Option<QueueRow>, Error> {
        let rows = self.inner.rows.clone_with_type::<Row>();
        let row = self.send(|| rows.find_one(doc! { "_id": queue })).await?;
        row.map(|row| row.read().map(|(_, row)| row)).transpose()
    }

    /// Inserts a row. Returns whether it did, and whether the command was retried.
    async fn insert_row(&self, row: &Document) -> Result<(bool, bool), Error> {
        self.send_reporting_retry(|| {
            let insert = self.inner.rows.insert_one(row);
            async {
                match insert.await {
                    Ok(_) => Ok(true),
                    Err(error) if is_duplicate(&error) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }
}

fn document(row: &QueueRow) -> Result<Document, Error> {
    let metadata = row.metadata.to_json();
    too_large("the metadata", metadata.len())?;
    Ok(doc! {
        "incarnation": row.generation.incarnation.get().cast_signed(),
        "version": row.generation.version.get().cast_signed(),
        "metadata": metadata,
    })
}
