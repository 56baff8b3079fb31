//! Reading more than one document.

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;
use serde::de::DeserializeOwned;
use zaqar_core::storage::Error;

use crate::Mongo;

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

    /// By this index, whatever the server would choose: it guesses, and remembers what was right for another queue.
    pub(crate) fn by(self, index: &'static str) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(crate) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

impl Mongo {
    pub(crate) async fn find<T>(
        &self,
        collection: &Collection<Document>,
        query: &Query,
    ) -> Result<Vec<T>, Error>
    where
        T: DeserializeOwned + Send + Sync,
    {
        let collection = collection.clone_with_type::<T>();
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
}
