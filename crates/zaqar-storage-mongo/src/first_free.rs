//! Shared by claims and pops: finding the first free messages that the caller can open.

use mongodb::bson::doc;
use serde::Deserialize;
use zaqar_core::storage::{ClaimRequest, Error, Skipped, Skipping};
use zaqar_core::{KeyId, Position};

use crate::Mongo;
use crate::stored::{StoredMessage, state};
use crate::view::{View, in_order};

/// Which free messages an operation takes.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    /// At most so many.
    pub(crate) limit: usize,
    /// Begins after this position.
    pub(crate) after: Option<Position>,
    /// The keys that the caller has; `None` for any.
    pub(crate) keys: Option<&'a [KeyId]>,
}

/// The fields that decide whether the caller can open a message.
#[derive(Deserialize)]
struct Sealed {
    n: i64,
    e: Option<String>,
}

impl<'a> Search<'a> {
    pub(crate) fn of_claim(request: &'a ClaimRequest) -> Self {
        let ClaimRequest { limit, after, keys, .. } = request;
        Self { limit: *limit, after: *after, keys: keys.as_deref() }
    }

    fn can_open(&self, key: Option<&String>) -> bool {
        let (Some(keys), Some(key)) = (self.keys, key) else { return true };
        keys.iter().any(|own| own.0 == *key)
    }
}

impl Mongo {
    /// The first free messages that the caller can open, and what was skipped.
    pub(crate) async fn first_free(
        &self,
        view: &View,
        search: &Search<'_>,
    ) -> Result<(Vec<StoredMessage>, Skipped), Error> {
        let mut free = view.of_state(state::FREE);
        if let Some(after) = search.after {
            let after = after.get().cast_signed();
            free.insert("n", doc! { "$gt": after, "$lt": view.head.next });
        }
        let found = self.first(free.clone(), search.limit).await?;
        if found.iter().all(|message| search.can_open(message.e.as_ref())) {
            return Ok((found, Skipped::default()));
        }
        // Without bodies, as most of these messages stay.
        let examined = search.limit.saturating_add(Skipping::MAX);
        let summaries = in_order(free).limited(examined).fields(doc! { "_id": 0, "n": 1, "e": 1 });
        let summaries: Vec<Sealed> = self.find(&self.inner.messages, &summaries).await?;
        let (mut positions, mut skipping) = (Vec::new(), Skipping::default());
        for Sealed { n, e } in summaries {
            if search.can_open(e.as_ref()) {
                positions.push(n);
                if positions.len() == search.limit {
                    break;
                }
            } else if skipping.skip(e.map(KeyId).as_ref(), Position::new(n.cast_unsigned())) {
                break;
            }
        }
        let found = match positions.is_empty() {
            true => Vec::new(),
            false => self.first(view.at_positions(&positions), usize::MAX).await?,
        };
        Ok((found, skipping.skipped))
    }
}
