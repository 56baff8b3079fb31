//! How many messages there are: in a queue, and in the whole store.

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

/// Queues whose claimed messages one command counts.
const QUEUES: usize = 500;
/// Messages among which the first or last that can be read is looked for.
const ENDS: usize = 10;

/// Messages of one state.
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
struct Room {
    room: i64,
}

impl Mongo {
    pub(crate) async fn count(&self, view: &View) -> Result<Stats, Error> {
        // What has expired counts until it is swept: the index alone answers this.
        let by_state = [
            doc! { "$match": { "h": view.head.room, "n": { "$lt": view.head.next } } },
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
                state::HELD => stats.claimed = count,
                state::DELAYED => stats.delayed = count,
                state::FREE => stats.free = count,
                // No state that this store writes.
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
            .of(doc! { "_id": 0, "n": 1, "a": 1 });
        let found: Vec<End> = self.find(&self.inner.messages, &query).await?;
        let incarnation = view.head.incarnation();
        Ok(found.first().map(|end| Endpoint {
            id: schema::place(incarnation, end.n),
            created: schema::time(end.a.timestamp_millis()),
        }))
    }

    /// The collection's own count of its documents, less what claims hold and what internal queues
    /// have: those are counted in the index, queue by queue. Messages that wait to be swept are in
    /// it.
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

    /// What claims hold in queues and topics, and all that internal queues have.
    async fn count_claimed_and_internal(&self) -> Result<(u64, u64), Error> {
        let (mut after, mut claimed, mut internal) = (String::new(), 0, 0);
        loop {
            let query = Query::new(doc! { "_id": { "$gt": &after } })
                .sorted(doc! { "_id": 1 })
                .limited(QUEUES)
                .of(doc! { "_id": 1, "room": 1 });
            let raw = self.find_raw(&self.inner.heads.clone_with_type(), &query).await?;
            let Some(last) = raw.last().and_then(|last| last.get_str("_id").ok()) else {
                return Ok((claimed, internal));
            };
            last.clone_into(&mut after);
            let is_internal = |raw: &&RawDocumentBuf| {
                let key = raw.get_str("_id").ok().and_then(schema::queue_key);
                key.is_some_and(|key| key.kind == Kind::Internal)
            };
            let (ours, theirs): (Vec<_>, Vec<_>) = raw.iter().partition(is_internal);
            let rooms = |raw: Vec<&RawDocumentBuf>| -> Vec<i64> {
                let rooms = raw.into_iter().filter_map(|raw| self.read::<Room>(raw));
                rooms.map(|room| room.room).collect()
            };
            let (ours, theirs) = (rooms(ours), rooms(theirs));
            let held = doc! { "h": { "$in": theirs }, "s": state::HELD };
            claimed += self.count_in_index(held).await?;
            if !ours.is_empty() {
                internal += self.count_in_index(doc! { "h": { "$in": ours } }).await?;
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
