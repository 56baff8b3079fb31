//! Reading more than one document.

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, deserialize_from_slice, doc};
use mongodb::options::Hint;
use serde::de::DeserializeOwned;
use zaqar_core::storage::Error;

use crate::Mongo;

/// Times that a look goes on behind documents that cannot be read.
const UNREADABLE: usize = 100;

/// What to read.
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

    /// Only these fields.
    pub(crate) fn of(self, fields: Document) -> Self {
        Self { fields, ..self }
    }

    /// By this index, whatever the server would choose: it guesses, and remembers what was right
    /// for another queue.
    pub(crate) fn by(self, index: &'static str) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(crate) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

impl Mongo {
    /// Reads documents; those that cannot be read are passed over.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        collection: &Collection<Document>,
        query: &Query,
    ) -> Result<Vec<T>, Error> {
        let found = self.find_raw(collection, query).await?;
        Ok(found.iter().filter_map(|raw| self.read(raw)).collect())
    }

    /// Reads the first documents that `read` takes, in the order of a field whose range the filter
    /// names. Fewer than the query's limit come only where there are no more.
    pub(crate) async fn find_in_order<T>(
        &self,
        collection: &Collection<Document>,
        mut query: Query,
        field: &str,
        read: impl Fn(&RawDocumentBuf) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let (limit, mut found) = (query.limit, Vec::new());
        if limit == 0 {
            // To the server this would be no limit.
            return Ok(found);
        }
        for _ in 0..UNREADABLE {
            query.limit = limit.saturating_sub(found.len());
            let raw = self.find_raw(collection, &query).await?;
            found.extend(raw.iter().filter_map(&read));
            // Of whatever type it is.
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

    /// Reads documents as they are.
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
                // In one answer, where it is not too large.
                find = find.batch_size(limit.max(1));
            }
            async { find.await?.try_collect().await }
        })
        .await
    }

    /// Goes on without what failed for good, with a word in the log: one document that is not as
    /// this store writes it stops nothing else.
    pub(crate) fn pass_over<T>(
        &self,
        what: &str,
        outcome: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(error @ Error::Failed { .. }) => {
                if let Some(times) = self.inner.unreadable.failure() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        what,
                        times,
                        "a stored document stops a step; it is passed over"
                    );
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a document; `None`, and a word in the log, where it is not as this store writes it.
    pub(crate) fn read<T: DeserializeOwned>(&self, raw: &RawDocumentBuf) -> Option<T> {
        match deserialize_from_slice(raw.as_bytes()) {
            Ok(read) => Some(read),
            Err(error) => {
                if let Some(times) = self.inner.unreadable.failure() {
                    let id = raw.get("_id").ok().flatten();
                    tracing::warn!(%error, ?id, times, "a stored document cannot be read; it is passed over");
                }
                None
            }
        }
    }
}
