//! What shows messages.

use mongodb::bson::doc;
use serde::Deserialize;
use zaqar_core::MessageId;
use zaqar_core::storage::{Error, ListQuery, Message, MessagePage};

use crate::Mongo;
use crate::schema;
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
        let raw = self.find_raw(&self.inner.messages, &glance).await?;
        let glances: Vec<Glance> = raw.iter().filter_map(|raw| self.read(raw)).collect();
        let shown = glances.iter().filter(|glance| glance.u != hidden.as_str());
        let places: Vec<_> = shown.map(|glance| glance.n).take(query.limit).collect();
        let last = if places.len() == query.limit {
            places.last().copied()
        } else if raw.len() == look || !places.is_empty() {
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
}

/// The places that ids of a queue's life name.
pub(crate) fn places(view: &View, ids: &[MessageId]) -> Vec<i64> {
    let incarnation = view.head.incarnation();
    let own = ids.iter().filter(|id| id.incarnation == incarnation);
    own.map(|id| id.position.get().cast_signed()).collect()
}
