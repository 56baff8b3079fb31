//! Parts that arrive.

use std::collections::BTreeMap;

use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use zaqar_core::storage::{ClaimRow, Contents, EntryRow, Error, MessageRow, Subscription};
use zaqar_core::{ClaimId, QueueKey};

use crate::Mongo;
use crate::error::{is_duplicate, too_large, unreadable};
use crate::schema::{
    self, claim_bits, claim_key, date, lease_bits, lifetime, millis, number, plus_secs, queue_key,
    subscription_key,
};
use crate::stored::{Head, expiry_field, put_payload, state};

impl Mongo {
    /// Stores a part; `false` if the head is not of the move any more. Each document has a key that
    /// follows from what it is, so a repeat changes nothing.
    pub(super) async fn import_part(
        &self,
        head: &Head,
        part: &Contents,
        now: i64,
    ) -> Result<bool, Error> {
        let key = queue_key(&head.id).ok_or_else(|| unreadable("a queue's key"))?;
        let claims = part.claims.iter().map(|claim| claim_document(head, claim)).collect();
        self.insert_all(&self.inner.claims, claims).await?;
        let held = held_by(&part.messages);
        let live = self.claims_there(head, held.keys().copied()).await?;
        for message in &part.messages {
            too_large("a message", message.payload.bytes.len())?;
        }
        let messages =
            part.messages.iter().map(|message| message_document(head, message, &live, now));
        self.insert_all(&self.inner.messages, messages.collect()).await?;
        for (claim, positions) in held.into_iter().filter(|(claim, _)| live.contains(claim)) {
            let record = doc! { "_id": claim_key(head.message_epoch, &claim_bits(claim)) };
            let more = doc! { "$addToSet": { "places": { "$each": positions } } };
            self.send(|| self.inner.claims.update_one(record.clone(), more.clone())).await?;
        }
        for one in &part.subscriptions {
            if let Some(lease) = one.lease {
                self.attach_to_lease(lease).await?;
            }
        }
        let subscriptions =
            part.subscriptions.iter().map(|one| subscription_document(head, one)).collect();
        self.insert_all(&self.inner.subscriptions, subscriptions).await?;
        let entries = part.entries.iter().map(|moved| entry_document(head, &key, moved));
        self.insert_all(&self.inner.outbox, entries.collect()).await?;
        self.note(head, part).await
    }

    /// Inserts those documents that are not there.
    async fn insert_all(
        &self,
        into: &Collection<Document>,
        documents: Vec<Document>,
    ) -> Result<(), Error> {
        if documents.is_empty() {
            return Ok(());
        }
        self.send(|| {
            let insert = into.insert_many(&documents).ordered(false);
            async {
                match insert.await {
                    Err(error) if !is_duplicate(&error) => Err(error),
                    _ => Ok(()),
                }
            }
        })
        .await
    }

    /// Those of these claims that have arrived and were not swept since.
    async fn claims_there(
        &self,
        head: &Head,
        claims: impl Iterator<Item = ClaimId>,
    ) -> Result<Vec<ClaimId>, Error> {
        let mut there = Vec::new();
        for claim in claims {
            let record = doc! { "_id": claim_key(head.message_epoch, &claim_bits(claim)) };
            if self.send(|| self.inner.claims.find_one(record.clone())).await?.is_some() {
                there.push(claim);
            }
        }
        Ok(there)
    }

    /// Notes in the head what comes due, and until when there are subscribers.
    async fn note(&self, head: &Head, part: &Contents) -> Result<bool, Error> {
        let claims = part.claims.iter().map(|claim| expiry(claim.since, claim.ttl));
        let visible = part.messages.iter().map(|message| millis(message.visible));
        let ends = |is_leased: bool| {
            let own = part.subscriptions.iter().filter(move |one| one.lease.is_some() == is_leased);
            own.map(|one| expiry(one.since, one.ttl)).max().unwrap_or(0)
        };
        let change = doc! {
            "$min": {
                "over": claims.min().unwrap_or(i64::MAX), "due": visible.min().unwrap_or(i64::MAX),
            },
            "$max": { expiry_field(false): ends(false), expiry_field(true): ends(true) },
        };
        let same = doc! { "_id": &head.id, "moving": &head.moving, "life": head.outbox_epoch };
        let noted = self.send(|| self.inner.heads.update_one(same.clone(), change.clone())).await?;
        Ok(noted.matched_count > 0)
    }
}

fn expiry(since: zaqar_core::Timestamp, ttl: u64) -> i64 {
    plus_secs(millis(since), number(ttl))
}

/// The positions that each claim holds, in order.
fn held_by(messages: &[MessageRow]) -> BTreeMap<ClaimId, Vec<i64>> {
    let mut held: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in messages {
        if let Some(claim) = message.claim {
            held.entry(claim).or_default().push(message.position.get().cast_signed());
        }
    }
    held
}

/// The key of a document that arrives: of its epoch and its position. Others are longer.
fn arrived_key(epoch: i64, position: i64) -> Bson {
    schema::binary([epoch.to_be_bytes(), position.to_be_bytes()].concat()).into()
}

fn claim_document(head: &Head, claim: &ClaimRow) -> Document {
    doc! {
        "_id": claim_key(head.message_epoch, &claim_bits(claim.id)),
        "h": head.message_epoch,
        "queue": &head.id,
        "live": true,
        "turn": head.claim_seq,
        "places": [],
        "ttl": number(claim.ttl),
        "since": millis(claim.since),
        "e": date(expiry(claim.since, claim.ttl)),
    }
}

fn message_document(head: &Head, moved: &MessageRow, live: &[ClaimId], now: i64) -> Document {
    let position = moved.position.get().cast_signed();
    let mut message = doc! {
        "_id": arrived_key(head.message_epoch, position),
        "h": head.message_epoch,
        "n": position,
        "q": head.claim_seq,
        "k": i32::try_from(moved.claim_count).unwrap_or(i32::MAX),
        "a": date(millis(moved.created)),
        "l": number(moved.ttl),
        "x": date(millis(moved.expires)),
        "u": moved.client.as_str(),
    };
    // One whose claim has been swept here is free.
    let claim = moved.claim.filter(|claim| live.contains(claim));
    let visible = millis(moved.visible);
    match claim {
        Some(claim) => {
            message.insert("s", state::CLAIMED);
            message.insert("c", claim_bits(claim));
        }
        None if visible > now => {
            message.insert("s", state::DELAYED);
            message.insert("t", visible);
        }
        None => drop(message.insert("s", state::FREE)),
    }
    put_payload(&mut message, &moved.payload);
    message
}

fn subscription_document(head: &Head, one: &Subscription) -> Document {
    let mut document = doc! {
        "_id": subscription_key(head.subscription_epoch, one.id),
        "hall": head.subscription_epoch,
        "leased": one.lease.is_some(),
        "counts": true,
        "roster": head.subscription_seq,
        "subscriber": &one.subscriber,
        "ttl": number(one.ttl),
        "since": millis(one.since),
        "e": date(expiry(one.since, one.ttl)),
        "options": &one.options,
        "confirmed": one.confirmed,
    };
    if let Some(lease) = one.lease {
        document.extend(doc! { "lease": lease_bits(lease), "queue": &head.id });
    }
    document
}

fn entry_document(head: &Head, key: &QueueKey, moved: &EntryRow) -> Document {
    let EntryRow { entry, due, followed } = moved;
    let (first, created) = (entry.first.get().cast_signed(), millis(entry.created));
    let messages = entry.messages.iter().map(|message| {
        let delay = millis(message.due).saturating_sub(created);
        let mut body = doc! { "l": number(message.ttl), "delay": delay };
        put_payload(&mut body, &message.payload);
        Bson::from(body)
    });
    let lives = entry.messages.iter().map(|message| lifetime(number(message.ttl)));
    let mut document = doc! {
        "_id": arrived_key(head.outbox_epoch, first),
        "queue": schema::queue_id(key),
        "life": head.outbox_epoch,
        "incarnation": head.generation().incarnation.get().cast_signed(),
        "first": first,
        "created": created,
        "messages": messages.collect::<Vec<_>>(),
    };
    let followed = millis(*followed);
    match due {
        Some(due) => {
            document.insert("due", millis(*due));
            // It is leased if it is due later than its first message.
            if entry.messages.iter().any(|message| message.due < *due) {
                document.insert("leased_until", millis(*due));
            }
            document.insert("ends", created.saturating_add(lives.max().unwrap_or(0)));
            if followed > 0 {
                document.insert("until", date(followed));
            }
        }
        None => drop(document.insert("x", date(followed))),
    }
    document
}
