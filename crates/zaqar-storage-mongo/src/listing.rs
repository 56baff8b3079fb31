//! Listing and reading messages.

use mongodb::bson::doc;
use serde::Deserialize;
use zaqar_core::MessageId;
use zaqar_core::storage::{Error, ListQuery, Message, MessagePage};

use crate::Mongo;
use crate::schema;
use crate::stored::{StoredMessage, state};
use crate::view::{View, in_order};

/// How many messages beyond its limit a page examines if a client is excluded.
const EXTRA_EXAMINED: usize = 1000;

/// The fields that decide whether a page contains a message.
#[derive(Deserialize)]
struct Summary {
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
            (true, false) => {
                drop(filter.insert("s", doc! { "$in": [state::FREE, state::CLAIMED] }))
            }
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
        // Two queries, so that bodies are read only for the page.
        let examined = query.limit.saturating_add(EXTRA_EXAMINED);
        let summary = in_order(filter).limited(examined).fields(doc! { "_id": 0, "n": 1, "u": 1 });
        let raw = self.find_raw(&self.inner.messages, &summary).await?;
        let summaries: Vec<Summary> = raw.iter().filter_map(|raw| self.read(raw)).collect();
        let shown = summaries.iter().filter(|summary| summary.u != hidden.as_str());
        let positions: Vec<_> = shown.map(|summary| summary.n).take(query.limit).collect();
        let last = if positions.len() == query.limit {
            positions.last().copied()
        } else if raw.len() == examined || !positions.is_empty() {
            summaries.last().map(|summary| summary.n)
        } else {
            None
        };
        Ok(MessagePage {
            messages: self.show_at(view, &positions).await?,
            next: last.map(|position| schema::message_id(incarnation, position)),
        })
    }

    /// Live messages at some positions, in order.
    pub(crate) async fn show_at(
        &self,
        view: &View,
        positions: &[i64],
    ) -> Result<Vec<Message>, Error> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.first(view.at_positions(positions), usize::MAX).await?;
        self.show(view, found)
    }

    pub(crate) fn show(
        &self,
        view: &View,
        found: Vec<StoredMessage>,
    ) -> Result<Vec<Message>, Error> {
        let incarnation = view.head.incarnation();
        found.into_iter().map(|message| message.show(incarnation)).collect()
    }
}

/// The positions of those ids that belong to the queue's incarnation.
pub(crate) fn positions(view: &View, ids: &[MessageId]) -> Vec<i64> {
    let incarnation = view.head.incarnation();
    let own = ids.iter().filter(|id| id.incarnation == incarnation);
    own.map(|id| id.position.get().cast_signed()).collect()
}
