//! Parts of the contents of a head that a queue leaves.

use std::collections::HashSet;

use mongodb::bson::{Binary, DateTime, RawDocumentBuf, doc};
use serde::Deserialize;
use zaqar_core::storage::{
    ClaimRow, Contents, ContentsMark, EntryRow, Error, Exported, MessageRow, MoveId,
};
use zaqar_core::{ClaimId, Position, SubscriptionId};

use super::STAMP;
use crate::Mongo;
use crate::entries::StoredEntry;
use crate::query::Query;
use crate::schema::{self, BY_POSITION, claim_bits, claim_id, claim_key, date, key_range, time};
use crate::stored::{Head, StoredMessage};
use crate::subscriptions::{StoredSubscription, ids_after};

/// Bytes of one part, about.
const BYTES: usize = 1 << 20;
/// Documents that are stamped and read at a time, at most: their bodies may be large.
const AT_ONCE: usize = 100;

#[derive(Deserialize)]
struct StoredPosition {
    n: i64,
}

#[derive(Deserialize)]
struct StoredFirst {
    first: i64,
}

/// A claim as it is stored.
#[derive(Deserialize)]
struct LiveClaim {
    #[serde(rename = "_id")]
    key: Binary,
    ttl: i64,
    since: i64,
    e: DateTime,
}

/// When an entry is due, and until when it can be followed.
#[derive(Deserialize)]
struct Schedule {
    due: Option<i64>,
    ends: Option<i64>,
    until: Option<DateTime>,
    x: Option<DateTime>,
}

/// Rows, and the mark after the last one that was examined if there may be more of the kind.
type Part = (Contents, Option<ContentsMark>);

impl Mongo {
    /// Reads a part: about `limit` rows and about 1 MiB at most.
    pub(super) async fn export_part(
        &self,
        head: &Head,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: i64,
    ) -> Result<Exported, Error> {
        let (contents, next) = match mark {
            ContentsMark::Claims(after) => self.export_claims(head, after, limit, now).await,
            ContentsMark::Messages(after) => {
                let after = after.get().cast_signed();
                self.export_messages(head, id, after, limit.min(AT_ONCE), now).await
            }
            ContentsMark::Subscriptions(after) => {
                self.export_subscriptions(head, after, limit.min(AT_ONCE), now).await
            }
            ContentsMark::Entries(after) => {
                let after = after.get().cast_signed();
                self.export_entries(head, id, after, limit.min(AT_ONCE), now).await
            }
        }?;
        Ok(Exported { contents, next: next.or(mark.next_kind()) })
    }

    async fn export_claims(
        &self,
        head: &Head,
        after: Option<ClaimId>,
        limit: usize,
        now: i64,
    ) -> Result<Part, Error> {
        let (first, last) = key_range(head.message_epoch);
        let range = match after {
            Some(after) => {
                let after = claim_key(head.message_epoch, &claim_bits(after));
                doc! { "$gt": after, "$lt": last }
            }
            None => doc! { "$gte": first, "$lt": last },
        };
        let query = Query::new(doc! { "_id": range, "live": true });
        let query = query.sorted(doc! { "_id": 1 }).limited(limit);
        let raw = self.find_raw(&self.inner.claims, &query).await?;
        let id_of =
            |key: &Binary| claim_id(&schema::binary(key.bytes.iter().skip(8).copied().collect()));
        let key_of = |raw: &RawDocumentBuf| {
            let bytes = raw.get_binary("_id").ok()?.bytes.to_vec();
            id_of(&schema::binary(bytes))
        };
        let next = raw.last().filter(|_| raw.len() == limit).and_then(key_of);
        let live = raw.iter().filter_map(|raw| self.read::<LiveClaim>(raw));
        let live = live.filter(|claim| claim.e > date(now));
        let claims = live.filter_map(|claim| {
            let ttl = u64::try_from(claim.ttl).unwrap_or(0);
            Some(ClaimRow { id: id_of(&claim.key)?, ttl, since: time(claim.since) })
        });
        let contents = Contents { claims: claims.collect(), ..Contents::default() };
        Ok((contents, next.map(|last| ContentsMark::Claims(Some(last)))))
    }

    /// Stamps some messages and reads them then: a delete that this copy misses cannot follow.
    async fn export_messages(
        &self,
        head: &Head,
        id: MoveId,
        after: i64,
        limit: usize,
        now: i64,
    ) -> Result<Part, Error> {
        let range = doc! { "h": head.message_epoch, "n": { "$gt": after, "$lt": head.next } };
        let query = Query::new(range).sorted(doc! { "n": 1 }).hint(BY_POSITION).limited(limit);
        let query = query.fields(doc! { "_id": 0, "n": 1 });
        let places: Vec<StoredPosition> = self.find(&self.inner.messages, &query).await?;
        let Some(last) = places.last().map(|last| last.n) else {
            return Ok((Contents::default(), None));
        };
        // With `$lte`, the compatible server of the tests leaves out the last one.
        let range = doc! { "h": head.message_epoch, "n": { "$gt": after, "$lt": last + 1 } };
        let stamp = doc! { "$set": { STAMP: id.get().cast_signed() } };
        self.update_messages(range.clone(), stamp).await?;
        let query = Query::new(range).sorted(doc! { "n": 1 }).hint(BY_POSITION);
        let raw = self.find_raw(&self.inner.messages, &query).await?;
        let all: Vec<_> = raw.iter().filter_map(|raw| self.read::<StoredMessage>(raw)).collect();
        let live = all.into_iter().filter(|it| it.can_be_shown() && it.expires() > date(now));
        let (mut found, mut bytes, mut end) = (Vec::new(), 0, last);
        for message in live {
            if bytes >= BYTES {
                break;
            }
            end = message.n;
            bytes += message.body_length();
            found.push(message);
        }
        // Without a cut, the part goes to the last position that was looked at.
        let is_cut = bytes >= BYTES && end < last;
        let (end, is_last) = (if is_cut { end } else { last }, !is_cut && places.len() < limit);
        let claims = self.live_holders(head, &found, now).await?;
        let messages = found.into_iter().map(|message| self.moved(message, head, &claims));
        let messages = messages.collect::<Result<_, _>>()?;
        let next = (!is_last).then(|| ContentsMark::Messages(Position::new(end.cast_unsigned())));
        Ok((Contents { messages, ..Contents::default() }, next))
    }

    /// The live ones of the claims that these messages name.
    async fn live_holders(
        &self,
        head: &Head,
        messages: &[StoredMessage],
        now: i64,
    ) -> Result<HashSet<ClaimId>, Error> {
        let named = messages.iter().filter_map(|message| message.c.as_ref());
        let mut keys: Vec<_> = named.map(|claim| claim_key(head.message_epoch, claim)).collect();
        keys.sort_by(|one, other| one.bytes.cmp(&other.bytes));
        keys.dedup();
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let live = doc! { "_id": { "$in": keys }, "live": true, "e": { "$gt": date(now) } };
        let found: Vec<LiveClaim> = self.find(&self.inner.claims, &Query::new(live)).await?;
        let bits = |claim: LiveClaim| {
            claim_id(&schema::binary(claim.key.bytes.into_iter().skip(8).collect()))
        };
        Ok(found.into_iter().filter_map(bits).collect())
    }

    fn moved(
        &self,
        message: StoredMessage,
        head: &Head,
        claims: &HashSet<ClaimId>,
    ) -> Result<MessageRow, Error> {
        let (expires, visible) = (message.expires(), message.visible());
        let shown = message.show(head.generation().incarnation)?;
        Ok(MessageRow {
            position: shown.id.position,
            client: shown.client,
            payload: shown.payload,
            created: shown.created,
            ttl: shown.ttl,
            expires: time(expires.timestamp_millis()),
            visible: visible.map_or(shown.created, time),
            claim: shown.claim.filter(|claim| claims.contains(claim)),
            claim_count: shown.claim_count,
        })
    }

    async fn export_subscriptions(
        &self,
        head: &Head,
        after: Option<SubscriptionId>,
        limit: usize,
        now: i64,
    ) -> Result<Part, Error> {
        let range = doc! { "_id": ids_after(head.subscription_epoch, after) };
        let query = Query::new(range).sorted(doc! { "_id": 1 }).limited(limit);
        let raw = self.find_raw(&self.inner.subscriptions, &query).await?;
        let key_of = |raw: &RawDocumentBuf| {
            let bytes = raw.get_binary("_id").ok()?.bytes.to_vec();
            schema::subscription_id(&schema::binary(bytes))
        };
        let (mut subscriptions, mut bytes, mut last, mut is_cut) = (Vec::new(), 0, None, false);
        for raw in &raw {
            if bytes >= BYTES {
                is_cut = true;
                break;
            }
            last = key_of(raw).or(last);
            let counts = raw.get_bool("counts").unwrap_or(false);
            let is_live = raw.get_datetime("e").is_ok_and(|end| end > date(now));
            let Some(one) = self.read::<StoredSubscription>(raw).filter(|_| counts && is_live)
            else {
                continue;
            };
            if let Some(one) = self.skip_failed("a subscription", one.show())? {
                bytes += one.options.len() + one.subscriber.len();
                subscriptions.push(one);
            }
        }
        let next = last.filter(|_| is_cut || raw.len() == limit);
        let contents = Contents { subscriptions, ..Contents::default() };
        Ok((contents, next.map(|last| ContentsMark::Subscriptions(Some(last)))))
    }

    /// As [`Mongo::export_messages`], for outbox entries.
    async fn export_entries(
        &self,
        head: &Head,
        id: MoveId,
        after: i64,
        limit: usize,
        now: i64,
    ) -> Result<Part, Error> {
        let range = doc! { "life": head.outbox_epoch, "first": { "$gt": after } };
        let query = Query::new(range).sorted(doc! { "first": 1 }).limited(limit);
        let query = query.fields(doc! { "_id": 0, "first": 1 });
        let places: Vec<StoredFirst> = self.find(&self.inner.outbox, &query).await?;
        let Some(last) = places.last().map(|last| last.first) else {
            return Ok((Contents::default(), None));
        };
        let range = doc! { "life": head.outbox_epoch, "first": { "$gt": after, "$lt": last + 1 } };
        let stamp = doc! { "$set": { STAMP: id.get().cast_signed() } };
        self.send(|| self.inner.outbox.update_many(range.clone(), stamp.clone())).await?;
        let query = Query::new(range).sorted(doc! { "first": 1 });
        let raw = self.find_raw(&self.inner.outbox, &query).await?;
        let (mut entries, mut bytes, mut end, mut is_cut) = (Vec::new(), 0, after, false);
        for raw in &raw {
            if bytes >= BYTES {
                is_cut = true;
                break;
            }
            end = raw.get_i64("first").unwrap_or(end);
            let Some(schedule) = self.read::<Schedule>(raw) else { continue };
            let (due, followed) = schedule.readers(now);
            if due.is_none() && followed <= now {
                continue;
            }
            let Some(entry) = self.read::<StoredEntry>(raw) else { continue };
            let Some(entry) = self.skip_failed("an outbox entry", entry.show())? else { continue };
            bytes += entry.bytes();
            entries.push(EntryRow { entry, due: due.map(time), followed: time(followed) });
        }
        let end = if is_cut { end } else { last };
        let next = (is_cut || places.len() == limit)
            .then(|| ContentsMark::Entries(Position::new(end.cast_unsigned())));
        Ok((Contents { entries, ..Contents::default() }, next))
    }
}

impl Schedule {
    /// When it is due for workers, if it still is for them, and until when it can be followed.
    fn readers(&self, now: i64) -> (Option<i64>, i64) {
        let is_open = self.ends.is_some_and(|ends| ends > now);
        let followed = self.until.or(if self.due.is_none() { self.x } else { None });
        (self.due.filter(|_| is_open), followed.map_or(0, |at| at.timestamp_millis()))
    }
}
