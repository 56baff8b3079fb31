//! What shows messages.

use mongodb::bson::doc;
use serde::Deserialize;
use zaqar_core::MessageId;
use zaqar_core::storage::{Endpoint, Error, ListQuery, Message, MessagePage, Stats};

use crate::Mongo;
use crate::schema::{self, BY_STATE};
use crate::stored::{Stored, state};
use crate::view::{View, in_order};

/// Messages that a page looks at beyond its limit when it hides some.
const LOOK: usize = 1000;

/// What decides whether a page shows a message.
#[derive(Deserialize)]
struct Glance {
    n: i64,
    u: String,
}

/// Messages of one state.
#[derive(Deserialize)]
struct Counted {
    #[serde(rename = "_id")]
    state: i32,
    count: i64,
}

impl Mongo {
    pub(crate) async fn page(&self, view: &View, query: &ListQuery) -> Result<MessagePage, Error> {
        let incarnation = view.head.incarnation();
        let after = query.after.filter(|marker| marker.incarnation == incarnation);
        let after = after.map_or(0, |marker| marker.position.get().cast_signed());
        let mut filter = view.all();
        filter.insert("n", doc! { "$gt": after, "$lt": view.head.next });
        match (query.include_claimed, query.include_delayed) {
            (true, true) => {}
            (true, false) => drop(filter.insert("s", doc! { "$in": [state::FREE, state::HELD] })),
            (false, true) => {
                drop(filter.insert("s", doc! { "$in": [state::FREE, state::DELAYED] }))
            }
            (false, false) => drop(filter.insert("s", state::FREE)),
        }
        let Some(hidden) = &query.hide else {
            let shown = self.show(view, self.first(filter, query.limit).await?)?;
            return Ok(MessagePage {
                next: shown.last().map(|message| message.id),
                messages: shown,
            });
        };
        // Two steps: bodies only of what is shown.
        let look = query.limit.saturating_add(LOOK);
        let glance = in_order(filter).limited(look).of(doc! { "_id": 0, "n": 1, "u": 1 });
        let glances: Vec<Glance> = self.find(&self.inner.messages, &glance).await?;
        let shown = glances.iter().filter(|glance| glance.u != hidden.as_str());
        let places: Vec<_> = shown.map(|glance| glance.n).take(query.limit).collect();
        let last = if places.len() == query.limit {
            places.last().copied()
        } else if glances.len() == look || !places.is_empty() {
            glances.last().map(|glance| glance.n)
        } else {
            None
        };
        Ok(MessagePage {
            messages: self.show_at(view, &places).await?,
            next: last.map(|place| schema::place(incarnation, place)),
        })
    }

    /// Live messages at some places, in order.
    pub(crate) async fn show_at(&self, view: &View, places: &[i64]) -> Result<Vec<Message>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.first(view.at_places(places), usize::MAX).await?;
        self.show(view, found)
    }

    pub(crate) fn show(&self, view: &View, found: Vec<Stored>) -> Result<Vec<Message>, Error> {
        let incarnation = view.head.incarnation();
        found.into_iter().map(|message| message.show(incarnation)).collect()
    }

    pub(crate) async fn count(&self, view: &View) -> Result<Stats, Error> {
        // What has expired counts until it is swept: the index alone answers this.
        let by_state = [
            doc! { "$match": { "h": view.head.room, "n": { "$lt": view.head.next } } },
            doc! { "$group": { "_id": "$s", "count": { "$sum": 1_i64 } } },
        ];
        let counted = self.send(|| {
            let messages = self.inner.messages.clone();
            let by_state = by_state.clone();
            async move {
                use futures_util::TryStreamExt;
                let hint = mongodb::options::Hint::Name(BY_STATE.to_owned());
                let cursor = messages.aggregate(by_state).hint(hint).with_type::<Counted>().await?;
                cursor.try_collect::<Vec<_>>().await
            }
        });
        let (counted, first, last) =
            futures_util::try_join!(counted, self.endpoint(view, 1), self.endpoint(view, -1))?;
        let mut stats = Stats { ends: first.zip(last), ..Stats::default() };
        for Counted { state, count } in counted {
            let count = count.cast_unsigned();
            match state {
                state::HELD => stats.claimed = count,
                state::DELAYED => stats.delayed = count,
                _ => stats.free = count,
            }
        }
        Ok(stats)
    }

    /// The first or the last message.
    async fn endpoint(&self, view: &View, direction: i32) -> Result<Option<Endpoint>, Error> {
        let query = in_order(view.all())
            .sorted(doc! { "n": direction })
            .limited(1)
            .of(doc! { "_id": 0, "n": 1, "a": 1 });
        let found: Vec<End> = self.find(&self.inner.messages, &query).await?;
        let incarnation = view.head.incarnation();
        Ok(found.first().map(|end| Endpoint {
            id: schema::place(incarnation, end.n),
            created: schema::time(end.a.timestamp_millis()),
        }))
    }
}

#[derive(Deserialize)]
struct End {
    n: i64,
    a: mongodb::bson::DateTime,
}

/// The places that ids of a queue's life name.
pub(crate) fn places(view: &View, ids: &[MessageId]) -> Vec<i64> {
    let incarnation = view.head.incarnation();
    let own = ids.iter().filter(|id| id.incarnation == incarnation);
    own.map(|id| id.position.get().cast_signed()).collect()
}
