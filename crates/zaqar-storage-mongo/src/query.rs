//! Queries for several documents.

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, deserialize_from_slice, doc};
use mongodb::options::Hint;
use serde::de::DeserializeOwned;
use zaqar_core::storage::Error;

use crate::Mongo;

/// How many times a query continues after unreadable documents.
const MAX_UNREADABLE: usize = 100;

/// A query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    filter: Document,
    sort: Document,
    fields: Document,
    index: Option<&'static str>,
    limit: usize,
}

impl Query {
    pub(crate) fn new(filter: Document) -> Self {
        Self { filter, sort: doc! {}, fields: doc! {}, index: None, limit: usize::MAX }
    }

    pub(crate) fn sorted(self, sort: Document) -> Self {
        Self { sort, ..self }
    }

    /// Returns only these fields.
    pub(crate) fn fields(self, fields: Document) -> Self {
        Self { fields, ..self }
    }

    /// Uses this index. The server's planner could choose another one, because it caches plans of
    /// other queues.
    pub(crate) fn hint(self, index: &'static str) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(crate) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

impl Mongo {
    /// Reads documents; unreadable ones are skipped.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        collection: &Collection<Document>,
        query: &Query,
    ) -> Result<Vec<T>, Error> {
        let found = self.find_raw(collection, query).await?;
        Ok(found.iter().filter_map(|raw| self.read(raw)).collect())
    }

    /// Reads the first documents that `read` accepts, ordered by a field for which the filter has a
    /// range. Returns fewer than the query's limit only if there are no more.
    pub(crate) async fn find_in_order<T>(
        &self,
        collection: &Collection<Document>,
        mut query: Query,
        field: &str,
        read: impl Fn(&RawDocumentBuf) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let (limit, mut found) = (query.limit, Vec::new());
        if limit == 0 {
            // To the server, 0 means no limit.
            return Ok(found);
        }
        for _ in 0..MAX_UNREADABLE {
            query.limit = limit.saturating_sub(found.len());
            let raw = self.find_raw(collection, &query).await?;
            found.extend(raw.iter().filter_map(&read));
            // A value of any type.
            let last = raw.last().and_then(|last| last.get(field).ok().flatten());
            let last = last.map(Bson::try_from);
            let (true, Some(Ok(last))) = (raw.len() == query.limit && found.len() < limit, last)
            else {
                break;
            };
            match query.filter.get_document_mut(field) {
                Ok(range) => drop(range.insert("$gt", last)),
                Err(_) => break,
            }
        }
        Ok(found)
    }

    /// Reads the first documents, with about `bytes` together: at least one, if there is one. Reads
    /// no more replies of the server than it needs.
    pub(crate) async fn find_until(
        &self,
        collection: &Collection<Document>,
        query: &Query,
        bytes: usize,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let collection = collection.clone_with_type::<RawDocumentBuf>();
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        self.send(|| {
            let find = collection.find(query.filter.clone()).sort(query.sort.clone()).limit(limit);
            async move {
                let (mut cursor, mut found, mut size) = (find.await?, Vec::new(), 0_usize);
                while let Some(document) = cursor.try_next().await? {
                    size = size.saturating_add(document.as_bytes().len());
                    if size > bytes && !found.is_empty() {
                        break;
                    }
                    found.push(document);
                }
                Ok(found)
            }
        })
        .await
    }

    /// Reads documents without decoding them.
    pub(crate) async fn find_raw(
        &self,
        collection: &Collection<Document>,
        query: &Query,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let collection = collection.clone_with_type::<RawDocumentBuf>();
        self.send(|| {
            let mut find = collection.find(query.filter.clone());
            if !query.sort.is_empty() {
                find = find.sort(query.sort.clone());
            }
            if !query.fields.is_empty() {
                find = find.projection(query.fields.clone());
            }
            if let Some(index) = query.index {
                find = find.hint(Hint::Name(index.to_owned()));
            }
            if let Ok(limit) = i64::try_from(query.limit) {
                find = find.limit(limit);
            }
            if let Ok(limit) = u32::try_from(query.limit) {
                // All in one reply, if it is not too large.
                find = find.batch_size(limit.max(1));
            }
            async { find.await?.try_collect().await }
        })
        .await
    }

    /// Logs a permanent failure and returns `None`, so that one invalid document does not block the
    /// others. A queue that moves is passed over, too.
    pub(crate) fn skip_failed<T>(
        &self,
        what: &str,
        outcome: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            // The queue leaves or arrives.
            Err(Error::Moved { .. }) => Ok(None),
            Err(error @ Error::Failed { .. }) => {
                self.report_skipped(what, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Logs the failure of an operation on a stored document, at most every few seconds.
    pub(crate) fn report_skipped(&self, what: &str, error: &Error) {
        if let Some(times) = self.inner.unreadable.failure() {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                error,
                what,
                times,
                "an operation failed on a stored document and is skipped"
            );
        }
    }

    /// Logs that an operation did a part of its work before the store failed, at most every few
    /// seconds.
    pub(crate) fn report_unfinished(&self, what: &str, queue: &str, error: &Error) {
        if let Some(times) = self.inner.unfinished.failure() {
            let error = error as &dyn std::error::Error;
            tracing::warn!(queue, error, times, "{what}");
        }
    }

    /// Decodes a document; logs a warning and returns `None` if it is invalid.
    pub(crate) fn read<T: DeserializeOwned>(&self, raw: &RawDocumentBuf) -> Option<T> {
        match deserialize_from_slice(raw.as_bytes()) {
            Ok(read) => Some(read),
            Err(error) => {
                if let Some(times) = self.inner.unreadable.failure() {
                    let id = raw.get("_id").ok().flatten();
                    tracing::warn!(%error, ?id, times, "a stored document cannot be read and is skipped");
                }
                None
            }
        }
    }
}
