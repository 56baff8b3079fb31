//! Rows of a queue: the form in which a simple store can keep messages, claims and outbox entries,
//! and in which a move copies them. Their methods are the rules about one row.

use super::{
    Batch, ClaimRequest, DeadLetters, Endpoint, FOLLOWED_FOR, Message, OutboxEntry, OutboxMessage,
    Subscription,
};
use crate::{ClaimId, ClientId, Incarnation, MessageId, Payload, Position, Timestamp};

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// Its position.
    pub position: Position,
    /// Who posted it.
    pub client: ClientId,
    /// Its body.
    pub payload: Payload,
    /// When it was posted.
    pub created: Timestamp,
    /// The ttl that is shown, in seconds.
    pub ttl: u64,
    /// When it expires.
    pub expires: Timestamp,
    /// Until when it is delayed; a time that has passed for one that is not.
    pub visible: Timestamp,
    /// The claim that took it last. Only if that claim is live does it hold the message.
    pub claim: Option<ClaimId>,
    /// How many times it was claimed.
    pub claim_count: u32,
}

/// The state of a live message at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It can be claimed.
    Free,
    /// It is still delayed.
    Delayed,
    /// This live claim holds it.
    Claimed(ClaimId),
}

/// A claim as it is stored. The messages that it holds name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRow {
    /// Its id.
    pub id: ClaimId,
    /// Its ttl in seconds, from `since`.
    pub ttl: u64,
    /// When it was created or last renewed.
    pub since: Timestamp,
}

/// An outbox entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The entry.
    pub entry: OutboxEntry,
    /// From when a worker can lease it: when its first message is due, or when its last lease
    /// expires. `None` for one that is settled, or not for workers.
    pub due: Option<Timestamp>,
    /// Until when it can be followed; a time that has passed for one that cannot.
    pub followed: Timestamp,
}

impl MessageRow {
    /// The messages of a post at `now`, the first one at `first`.
    pub fn of_post(
        batch: Batch,
        first: Position,
        now: Timestamp,
    ) -> impl Iterator<Item = Self> + use<> {
        let Batch { client, messages, .. } = batch;
        messages.into_iter().zip(first.get()..).map(move |(new, position)| Self {
            position: Position::new(position),
            client: client.clone(),
            payload: new.payload,
            created: now,
            ttl: new.ttl,
            expires: now.plus_secs(new.ttl),
            visible: now.plus_secs(new.delay),
            claim: None,
            claim_count: 0,
        })
    }

    /// Its state, given which claims of the queue are live; `None` once it has expired.
    pub fn state(
        &self,
        now: Timestamp,
        is_live: impl FnOnce(ClaimId) -> bool,
    ) -> Option<MessageState> {
        if self.expires <= now {
            return None;
        }
        Some(match self.claim {
            Some(claim) if is_live(claim) => MessageState::Claimed(claim),
            Some(_) | None if self.visible > now => MessageState::Delayed,
            Some(_) | None => MessageState::Free,
        })
    }

    /// Its id in a queue of this incarnation.
    pub const fn id(&self, incarnation: Incarnation) -> MessageId {
        MessageId { incarnation, position: self.position }
    }

    /// The message as it is returned.
    pub fn show(&self, incarnation: Incarnation, state: MessageState) -> Message {
        Message {
            id: self.id(incarnation),
            client: self.client.clone(),
            payload: self.payload.clone(),
            ttl: self.ttl,
            created: self.created,
            claim: state.holder(),
            claim_count: self.claim_count,
        }
    }

    /// The message as an end of its queue.
    pub const fn endpoint(&self, incarnation: Incarnation) -> Endpoint {
        Endpoint { id: self.id(incarnation), created: self.created }
    }

    /// Lets a claim take it: counts that, and extends its life by [`Self::extend`].
    pub fn take(&mut self, claim: &ClaimRow, grace: u64) {
        self.claim = Some(claim.id);
        self.claim_count = self.claim_count.saturating_add(1);
        self.extend(claim, grace);
    }

    /// Lets it live until `grace` seconds after a claim's expiry, at least. A ttl that grows is
    /// shown rounded to the nearest second.
    pub fn extend(&mut self, claim: &ClaimRow, grace: u64) {
        let until = claim.expires().plus_secs(grace);
        if until > self.expires {
            self.expires = until;
            self.ttl = until.rounded_secs_since(self.created);
        }
    }

    /// The message as it is appended to a dead-letter queue at `now`.
    #[must_use]
    pub fn into_dead_letter(self, position: Position, rule: &DeadLetters, now: Timestamp) -> Self {
        let expires = rule.ttl.map_or(self.expires, |ttl| now.plus_secs(ttl));
        let ttl = rule.ttl.unwrap_or_else(|| expires.rounded_secs_since(now));
        Self {
            position,
            created: now,
            ttl,
            expires,
            visible: now,
            claim: None,
            claim_count: 0,
            ..self
        }
    }
}

impl MessageState {
    /// The live claim that holds the message.
    pub const fn holder(self) -> Option<ClaimId> {
        match self {
            Self::Claimed(claim) => Some(claim),
            Self::Free | Self::Delayed => None,
        }
    }
}

impl ClaimRow {
    /// The claim that a request makes at `now`.
    pub const fn new(request: &ClaimRequest, now: Timestamp) -> Self {
        Self { id: request.id, ttl: request.ttl, since: now }
    }

    /// When it expires.
    pub const fn expires(&self) -> Timestamp {
        self.since.plus_secs(self.ttl)
    }

    /// Whether it has not expired at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires()
    }
}

impl EntryRow {
    /// The entry of a post, given the queue's live subscriptions: it is due for workers if one is
    /// without a lease, and can be followed if one is on a lease. `None` if there are none.
    pub fn of_post<'a>(
        entry: OutboxEntry,
        subscriptions: impl Iterator<Item = &'a Subscription>,
    ) -> Option<Self> {
        let (due, followed) = (entry.due(), entry.followed_until());
        let mut row = Self { entry, due: None, followed: Timestamp::from_millis(0) };
        let mut is_read = false;
        for one in subscriptions {
            is_read = true;
            match one.lease {
                None => row.due = Some(due),
                Some(_) => row.followed = followed,
            }
        }
        is_read.then_some(row)
    }

    /// Whether a worker has leased it: it is then due later than its messages are.
    pub fn is_leased(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| due > now && due > self.entry.due())
    }

    /// Since when a worker can lease it, unless an older one is leased. `None` if it cannot at
    /// `now`.
    pub fn due_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.due.filter(|due| *due <= now && now < self.entry.expires())
    }

    /// Whether it has no reader left and can be deleted.
    pub fn is_ended(&self, now: Timestamp) -> bool {
        (self.due.is_none() || self.entry.expires() <= now) && self.followed <= now
    }
}

impl OutboxEntry {
    /// The entry of a post at `created`, with copies of its messages, which begin at `first`.
    pub fn of_post<'a>(
        incarnation: Incarnation,
        first: Position,
        messages: impl Iterator<Item = &'a MessageRow>,
        created: Timestamp,
    ) -> Self {
        let messages = messages.map(|row| OutboxMessage {
            id: row.id(incarnation),
            payload: row.payload.clone(),
            ttl: row.ttl,
            due: row.visible,
        });
        Self { incarnation, first, messages: messages.collect(), created }
    }

    /// When its first message is due.
    pub fn due(&self) -> Timestamp {
        self.messages.iter().map(|one| one.due).min().unwrap_or(self.created)
    }

    /// Until when it can be followed: [`FOLLOWED_FOR`] after its last message is due.
    pub fn followed_until(&self) -> Timestamp {
        let last = self.messages.iter().map(|one| one.due).max().unwrap_or(self.created);
        last.plus_secs(FOLLOWED_FOR.as_secs())
    }

    /// When the last of its messages expires. From then on it is not due for workers.
    pub fn expires(&self) -> Timestamp {
        let ends = self.messages.iter().map(|one| self.created.plus_secs(one.ttl));
        ends.max().unwrap_or(self.created)
    }

    /// The bytes of its bodies.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|one| one.payload.bytes.len()).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::{NewMessage, NewSubscription};
    use crate::{
        Generation, Kind, LeaseId, ProjectId, QueueKey, QueueName, SubscriptionId, Version,
    };

    pub(in crate::storage) const INCARNATION: Incarnation = Incarnation::new(1);

    pub(in crate::storage) fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(0).plus_secs(secs)
    }

    /// Messages posted at second 100, with a ttl of 60 and these delays.
    pub(in crate::storage) fn posted(delays: &[u64]) -> Vec<MessageRow> {
        let payload = Payload { bytes: Bytes::from("body"), sealed_with: None, checksum: None };
        let new = |delay: &u64| NewMessage { payload: payload.clone(), ttl: 60, delay: *delay };
        let messages = delays.iter().map(new).collect();
        let batch = Batch { request: 1, client: ClientId::new("c"), messages, notify: true };
        MessageRow::of_post(batch, Position::new(7), at(100)).collect()
    }

    fn claim(id: u128, ttl: u64, since: Timestamp) -> ClaimRow {
        ClaimRow { id: ClaimId::new(id), ttl, since }
    }

    pub(in crate::storage) fn subscription(lease: Option<LeaseId>) -> Subscription {
        let new = NewSubscription {
            id: SubscriptionId::new(1),
            subscriber: "http://s".to_owned(),
            ttl: 60,
            options: "{}".to_owned(),
            confirmed: true,
            lease,
        };
        Subscription::new(new, at(100))
    }

    #[test]
    fn a_post_has_consecutive_positions() {
        let positions: Vec<_> = posted(&[0, 0, 0]).iter().map(|row| row.position.get()).collect();
        assert_eq!(positions, [7, 8, 9]);
    }

    #[test]
    fn a_message_is_delayed_then_free_or_claimed_then_gone() {
        let mut row = posted(&[10]).remove(0);
        let state = |row: &MessageRow, secs, is_live| row.state(at(secs), |_| is_live);
        assert_eq!(state(&row, 109, true), Some(MessageState::Delayed));
        assert_eq!(state(&row, 110, true), Some(MessageState::Free));
        assert_eq!(state(&row, 160, true), None);
        let claim = claim(5, 300, at(110));
        row.take(&claim, 0);
        assert_eq!(state(&row, 110, true), Some(MessageState::Claimed(claim.id)));
        assert_eq!(state(&row, 110, false), Some(MessageState::Free), "the claim is not live");
        assert_eq!(row.claim_count, 1);
        assert!(claim.is_live(at(409)) && !claim.is_live(at(410)));
        assert_eq!(state(&row, 410, true), None);
    }

    #[test]
    fn a_claim_extends_a_life_and_never_shortens_it() {
        let mut row = posted(&[0]).remove(0);
        row.extend(&claim(1, 10, at(100)), 49);
        assert_eq!((row.ttl, row.expires), (60, at(160)));
        let late = Timestamp::from_millis(100_700);
        row.extend(&claim(1, 60, late), 10);
        assert_eq!((row.ttl, row.expires), (71, late.plus_secs(70)));
    }

    #[test]
    fn a_dead_letter_is_as_new_and_keeps_its_expiry_unless_the_rule_has_a_ttl() {
        let key = |name| QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new(name).unwrap(),
        };
        let generation = Generation { incarnation: INCARNATION, version: Version::new(1) };
        let rule = |ttl| DeadLetters { max_claim_count: 2, target: key("dead"), generation, ttl };
        let mut row = posted(&[10]).remove(0);
        row.take(&claim(1, 1, at(110)), 0);
        assert!(!rule(None).takes(&row));
        row.take(&claim(2, 1, at(115)), 0);
        assert!(rule(None).takes(&row));
        let now = Timestamp::from_millis(120_400);
        let kept = row.clone().into_dead_letter(Position::new(1), &rule(None), now);
        assert_eq!((kept.ttl, kept.expires), (40, at(160)));
        assert_eq!((kept.created, kept.visible), (now, now));
        assert_eq!((kept.claim, kept.claim_count), (None, 0));
        let renewed = row.into_dead_letter(Position::new(1), &rule(Some(9)), now);
        assert_eq!((renewed.ttl, renewed.expires), (9, now.plus_secs(9)));
    }

    #[test]
    fn an_entry_is_for_the_readers_that_a_queue_has() {
        let rows = posted(&[20, 10]);
        let entry = || OutboxEntry::of_post(INCARNATION, Position::new(7), rows.iter(), at(100));
        let (near, far) = (subscription(Some(LeaseId::new(1))), subscription(None));
        let of = |subscriptions: &[&Subscription]| {
            EntryRow::of_post(entry(), subscriptions.iter().copied())
                .map(|row| (row.due, row.followed))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&far]), Some((Some(at(110)), at(0))));
        assert_eq!(of(&[&near]), Some((None, at(180))));
        assert_eq!(of(&[&near, &far]), Some((Some(at(110)), at(180))));
    }

    #[test]
    fn an_entry_is_due_until_it_is_leased_settled_or_expired() {
        let rows = posted(&[10]);
        let entry = OutboxEntry::of_post(INCARNATION, Position::new(7), rows.iter(), at(100));
        let far = subscription(None);
        let mut row = EntryRow::of_post(entry, [&far].into_iter()).unwrap();
        assert_eq!((row.entry.bytes(), row.is_leased(at(105))), (4, false));
        assert_eq!((row.due_since(at(109)), row.due_since(at(110))), (None, Some(at(110))));
        row.due = Some(at(130));
        assert!(row.is_leased(at(129)) && !row.is_leased(at(130)));
        assert_eq!((row.due_since(at(129)), row.due_since(at(159))), (None, Some(at(130))));
        assert!(!row.is_ended(at(159)), "a worker may still lease it");
        assert_eq!((row.due_since(at(160)), row.is_ended(at(160))), (None, true));
        row.due = None;
        row.followed = at(140);
        assert!(!row.is_ended(at(139)) && row.is_ended(at(140)));
    }
}
