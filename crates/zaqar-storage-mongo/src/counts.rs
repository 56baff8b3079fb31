//! Counting messages, in a queue and in the whole store.

use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::Hint;
use serde::Deserialize;
use zaqar_core::Kind;
use zaqar_core::storage::{Endpoint, Error, Stats, Volume};

use crate::Mongo;
use crate::query::Query;
use crate::schema::{self, BY_STATE};
use crate::stored::state;
use crate::view::{View, in_order};

/// How many queues one command counts.
const QUEUES: usize = 500;
/// How many messages are read to find the first or last readable one.
const ENDS: usize = 10;

/// The number of messages in one state.
#[derive(Deserialize)]
struct Counted {
    #[serde(rename = "_id")]
    state: i32,
    count: i64,
}

#[derive(Deserialize)]
struct End {
    n: i64,
    a: mongodb::bson::DateTime,
}

#[derive(Deserialize)]
struct MessageEpoch {
    #[serde(rename = "room")]
    message_epoch: i64,
}

impl Mongo {
    pub(crate) async fn count(&self, view: &View) -> Result<Stats, Error> {
        // Expired messages count until they are swept, so that the index alone answers this.
        let by_state = [
            doc! { "$match": { "h": view.head.message_epoch, "n": { "$lt": view.head.next } } },
            doc! { "$group": { "_id": "$s", "count": { "$sum": 1_i64 } } },
        ];
        let counted = self.send(|| {
            let messages = self.inner.messages.clone_with_type::<RawDocumentBuf>();
            let by_state = by_state.clone();
            async move {
                let hint = Hint::Name(BY_STATE.to_owned());
                let cursor = messages.aggregate(by_state).hint(hint);
                let cursor = cursor.with_type::<RawDocumentBuf>().await?;
                cursor.try_collect::<Vec<_>>().await
            }
        });
        let (counted, first, last) =
            futures_util::try_join!(counted, self.endpoint(view, 1), self.endpoint(view, -1))?;
        let mut stats = Stats { ends: first.zip(last), ..Stats::default() };
        for Counted { state, count } in counted.iter().filter_map(|raw| self.read(raw)) {
            let count = count.cast_unsigned();
            match state {
                state::CLAIMED => stats.claimed = count,
                state::DELAYED => stats.delayed = count,
                state::FREE => stats.free = count,
                // Not a state that this store writes.
                _ => {}
            }
        }
        Ok(stats)
    }

    /// The first or the last message.
    async fn endpoint(&self, view: &View, direction: i32) -> Result<Option<Endpoint>, Error> {
        let query = in_order(view.all())
            .sorted(doc! { "n": direction })
            .limited(ENDS)
            .fields(doc! { "_id": 0, "n": 1, "a": 1 });
        let found: Vec<End> = self.find(&self.inner.messages, &query).await?;
        let incarnation = view.head.incarnation();
        Ok(found.first().map(|end| Endpoint {
            id: schema::message_id(incarnation, end.n),
            created: schema::time(end.a.timestamp_millis()),
        }))
    }

    /// The collection's own count of documents, minus claimed messages and those of internal
    /// queues, which are counted in the index, queue by queue. Unswept messages are included.
    pub(crate) async fn count_all(&self) -> Result<Volume, Error> {
        if let Some(volume) = self.inner.volume.get() {
            return Ok(volume);
        }
        let (claimed, internal) = self.count_claimed_and_internal().await?;
        let all = self.send(|| self.inner.messages.estimated_document_count()).await?;
        let volume = Volume { claimed, free: all.saturating_sub(claimed + internal) };
        self.inner.volume.put(volume);
        Ok(volume)
    }

    /// The number of claimed messages of queues and topics, and of all messages of internal queues.
    async fn count_claimed_and_internal(&self) -> Result<(u64, u64), Error> {
        let (mut after, mut claimed, mut internal) = (String::new(), 0, 0);
        loop {
            let query = Query::new(doc! { "_id": { "$gt": &after } })
                .sorted(doc! { "_id": 1 })
                .limited(QUEUES)
                .fields(doc! { "_id": 1, "room": 1 });
            let raw = self.find_raw(&self.inner.heads.clone_with_type(), &query).await?;
            let Some(last) = raw.last().and_then(|last| last.get_str("_id").ok()) else {
                return Ok((claimed, internal));
            };
            last.clone_into(&mut after);
            let is_internal = |raw: &&RawDocumentBuf| {
                let key = raw.get_str("_id").ok().and_then(schema::queue_key);
                key.is_some_and(|key| key.kind == Kind::Internal)
            };
            let (internal_epochs, other_epochs): (Vec<_>, Vec<_>) =
                raw.iter().partition(is_internal);
            let epochs = |raw: Vec<&RawDocumentBuf>| -> Vec<i64> {
                let epochs = raw.into_iter().filter_map(|raw| self.read::<MessageEpoch>(raw));
                epochs.map(|one| one.message_epoch).collect()
            };
            let (internal_epochs, other_epochs) = (epochs(internal_epochs), epochs(other_epochs));
            let held = doc! { "h": { "$in": other_epochs }, "s": state::CLAIMED };
            claimed += self.count_in_index(held).await?;
            if !internal_epochs.is_empty() {
                internal += self.count_in_index(doc! { "h": { "$in": internal_epochs } }).await?;
            }
        }
    }

    async fn count_in_index(&self, query: Document) -> Result<u64, Error> {
        self.send(|| {
            let hint = Hint::Name(BY_STATE.to_owned());
            self.inner.messages.count_documents(query.clone()).hint(hint)
        })
        .await
    }
}
