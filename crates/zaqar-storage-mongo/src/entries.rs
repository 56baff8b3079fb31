//! Outbox entries as they are stored.

use mongodb::bson::{Binary, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, FOLLOWED_FOR, OutboxEntry, OutboxMessage};
use zaqar_core::{Incarnation, Position};

use crate::schema::{self, date, time};
use crate::stored::{Readers, payload};

/// An entry as it is stored.
#[derive(Deserialize)]
pub(crate) struct StoredEntry {
    incarnation: i64,
    first: i64,
    created: i64,
    messages: Vec<StoredBody>,
}

#[derive(Deserialize)]
struct StoredBody {
    b: Binary,
    e: Option<String>,
    m: Option<Binary>,
    l: i64,
    /// Milliseconds until it may be delivered.
    delay: i64,
}

/// The fields that an entry gets when its post is applied.
pub(crate) struct EntryChange<'a> {
    pub(crate) queue: &'a str,
    /// The id of the post.
    pub(crate) op: &'a Binary,
    pub(crate) readers: Readers,
    pub(crate) outbox_epoch: i64,
    pub(crate) incarnation: i64,
    pub(crate) first: i64,
    pub(crate) at: i64,
}

impl EntryChange<'_> {
    /// An update statement that activates the entry. It is idempotent: afterwards the entry has a
    /// position or is deleted.
    pub(crate) fn statement(&self) -> Document {
        doc! {
            "q": { "_id": self.op, "first": { "$exists": false } },
            "u": self.change(),
        }
    }

    fn change(&self) -> Vec<Document> {
        let mut set = doc! {
            "queue": { "$literal": self.queue },
            "life": self.outbox_epoch,
            "incarnation": self.incarnation,
            "first": self.first,
            "created": self.at,
        };
        let mut unset = vec!["soonest", "longest", "life_time"];
        if self.readers.workers {
            set.insert("due", doc! { "$add": [self.at, "$soonest"] });
            set.insert("ends", doc! { "$add": [self.at, "$life_time"] });
        }
        let followed = schema::duration_millis(FOLLOWED_FOR).saturating_add(self.at);
        match (self.readers.workers, self.readers.followers) {
            // It is deleted when it can no longer be followed, or later when it is settled.
            (false, _) => drop(set.insert("x", doc! { "$add": [date(followed), "$longest"] })),
            (true, true) => {
                set.insert("until", doc! { "$add": [date(followed), "$longest"] });
                unset.push("x");
            }
            (true, false) => unset.push("x"),
        }
        vec![doc! { "$set": set }, doc! { "$unset": unset }]
    }
}

impl StoredEntry {
    pub(crate) fn show(self) -> Result<OutboxEntry, Error> {
        let incarnation = Incarnation::new(self.incarnation.cast_unsigned());
        let messages = self.messages.into_iter().zip(self.first..).map(|(body, position)| {
            Ok(OutboxMessage {
                id: schema::message_id(incarnation, position),
                payload: payload(body.b, body.e, body.m)?,
                ttl: u64::try_from(body.l).unwrap_or(0),
                due: time(self.created.saturating_add(body.delay)),
            })
        });
        Ok(OutboxEntry {
            incarnation,
            first: Position::new(self.first.cast_unsigned()),
            messages: messages.collect::<Result<_, Error>>()?,
            created: time(self.created),
        })
    }
}
