//! Which of a queue's rows a request gets.

use super::{
    ClaimRequest, DeadLetters, Endpoint, EntryRow, LeaseRequest, ListQuery, MessageRow,
    MessageState, OutboxEntry, PopQuery, Skipped, Stats,
};
use crate::{ClientId, Incarnation, KeyId, Position, Timestamp};

impl ListQuery {
    /// The position after which the page begins, in a queue of this incarnation.
    pub fn start(&self, incarnation: Incarnation) -> Position {
        let own = self.after.filter(|marker| marker.incarnation == incarnation);
        own.map_or(Position::START, |marker| marker.position)
    }

    /// Whether the page contains a message of this client in this state.
    pub fn includes(&self, client: &ClientId, state: MessageState) -> bool {
        let is_included = match state {
            MessageState::Free => true,
            MessageState::Delayed => self.include_delayed,
            MessageState::Claimed(_) => self.include_claimed,
        };
        is_included && self.hide.as_ref() != Some(client)
    }
}

/// Counts live messages, which come in order.
impl FromIterator<(Endpoint, MessageState)> for Stats {
    fn from_iter<I: IntoIterator<Item = (Endpoint, MessageState)>>(messages: I) -> Self {
        let mut stats = Self::default();
        for (end, state) in messages {
            match state {
                MessageState::Free => stats.free += 1,
                MessageState::Delayed => stats.delayed += 1,
                MessageState::Claimed(_) => stats.claimed += 1,
            }
            stats.ends = Some((stats.ends.map_or(end, |(first, _)| first), end));
        }
        stats
    }
}

impl PopQuery {
    /// Which of a queue's free messages, in order, it removes, and what it skips.
    pub fn choose<'a>(
        &self,
        free: impl Iterator<Item = &'a MessageRow>,
    ) -> (Vec<Position>, Skipped) {
        let (mut taken, mut skipping) = (Vec::new(), Skipping::default());
        for row in free {
            if self.can_open(&row.payload) {
                taken.push(row.position);
                if taken.len() == self.limit {
                    break;
                }
            } else if skipping.skip(row.payload.sealed_with.as_ref(), row.position) {
                break;
            }
        }
        (taken, skipping.skipped)
    }
}

impl ClaimRequest {
    /// Which of a queue's free messages, in order, it claims, and which it moves before that.
    pub fn choose<'a>(&self, free: impl Iterator<Item = &'a MessageRow>) -> Chosen {
        let mut chosen = Chosen::default();
        let mut skipping = Skipping::default();
        for row in free {
            if chosen.taken.len() == self.limit {
                break;
            }
            if !self.can_open(&row.payload) {
                if skipping.skip(row.payload.sealed_with.as_ref(), row.position) {
                    break;
                }
                continue;
            }
            let is_moved = self.dead_letters.as_ref().is_some_and(|rule| rule.takes(row));
            if is_moved { &mut chosen.moved } else { &mut chosen.taken }.push(row.position);
        }
        chosen.skipped = skipping.skipped;
        chosen
    }
}

/// What a claim does with the free messages of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those that it claims.
    pub taken: Vec<Position>,
    /// Those that it moves to the dead-letter queue.
    pub moved: Vec<Position>,
    /// Those that it skips.
    pub skipped: Skipped,
}

/// Counts the messages that a slice of a pop or claim skips.
#[derive(Debug, Clone, Default)]
pub struct Skipping {
    /// What the answer says of them.
    pub skipped: Skipped,
    count: usize,
}

impl Skipping {
    /// How many messages a slice skips.
    pub const MAX: usize = 1000;

    /// Skips the message with this key at a position. Returns whether the slice ends there.
    pub fn skip(&mut self, key: Option<&KeyId>, position: Position) -> bool {
        if self.count == 0 {
            self.skipped.key = key.cloned();
        }
        self.count += 1;
        if self.count == Self::MAX {
            self.skipped.next = Some(position);
        }
        self.count == Self::MAX
    }

    /// Whether nothing was skipped.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl DeadLetters {
    /// Whether a message is moved instead of claimed again.
    pub const fn takes(&self, message: &MessageRow) -> bool {
        message.claim_count >= self.max_claim_count
    }
}

impl LeaseRequest {
    /// Leases the entries of a queue, which come in order, that it gets at `now`.
    pub fn lease<'a>(
        &self,
        rows: impl Iterator<Item = &'a mut EntryRow>,
        now: Timestamp,
    ) -> Vec<OutboxEntry> {
        let (mut leased, mut bytes) = (Vec::new(), 0_usize);
        let unblocked = rows.take_while(|row| !row.is_leased(now));
        for row in unblocked.filter(|row| row.due_since(now).is_some()) {
            bytes = bytes.saturating_add(row.entry.bytes());
            if !leased.is_empty() && (leased.len() >= self.limit || bytes > self.bytes) {
                break;
            }
            row.due = Some(self.until);
            leased.push(row.entry.clone());
        }
        leased
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::rows::tests::{INCARNATION, at, posted, subscription};
    use crate::{ClaimId, Generation, Kind, MessageId, ProjectId, QueueKey, QueueName, Version};

    #[test]
    fn a_page_begins_behind_a_marker_of_its_incarnation() {
        let mut query = ListQuery {
            after: Some(MessageId { incarnation: INCARNATION, position: Position::new(5) }),
            limit: 1,
            hide: Some(ClientId::new("me")),
            include_claimed: false,
            include_delayed: true,
        };
        assert_eq!(query.start(INCARNATION), Position::new(5));
        assert_eq!(query.start(INCARNATION.next()), Position::START);
        let (me, other) = (ClientId::new("me"), ClientId::new("other"));
        let claimed = MessageState::Claimed(ClaimId::new(1));
        assert!(query.includes(&other, MessageState::Free));
        assert!(query.includes(&other, MessageState::Delayed));
        assert!(!query.includes(&other, claimed) && !query.includes(&me, MessageState::Free));
        query = ListQuery { include_claimed: true, include_delayed: false, ..query };
        assert!(query.includes(&other, claimed));
        assert!(!query.includes(&other, MessageState::Delayed));
    }

    #[test]
    fn a_claim_moves_worn_messages_before_the_last_that_it_takes() {
        let generation = Generation { incarnation: INCARNATION, version: Version::new(1) };
        let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new("dead").unwrap());
        let target = QueueKey { project, kind: Kind::Queue, name };
        let rule = DeadLetters { max_claim_count: 1, target, generation, ttl: None };
        let mut rows = posted(&[0, 0, 0, 0]);
        (rows[0].claim_count, rows[2].claim_count) = (1, 1);
        let choose = |limit, dead_letters: Option<&DeadLetters>| {
            let dead_letters = dead_letters.cloned();
            let request =
                ClaimRequest { dead_letters, ..ClaimRequest::new(ClaimId::new(1), 60, limit) };
            let Chosen { taken, moved, .. } = request.choose(rows.iter());
            let plain = |list: Vec<_>| list.into_iter().map(Position::get).collect::<Vec<_>>();
            (plain(taken), plain(moved))
        };
        assert_eq!(choose(1, Some(&rule)), (vec![8], vec![7]));
        assert_eq!(choose(9, Some(&rule)), (vec![8, 10], vec![7, 9]));
        assert_eq!(choose(2, None), (vec![7, 8], vec![]));
    }

    #[test]
    fn a_claim_skips_a_bounded_number_of_messages_that_it_cannot_open() {
        let mut rows = posted(&vec![0; Skipping::MAX + 2]);
        let seal = |row: &mut MessageRow, key: &str| {
            row.payload.sealed_with = Some(KeyId(key.to_owned()));
        };
        let choose = |keys: Option<&[&str]>, rows: &[MessageRow]| {
            let keys = keys.map(|keys| keys.iter().map(|key| KeyId((*key).to_owned())).collect());
            let request = ClaimRequest { keys, ..ClaimRequest::new(ClaimId::new(1), 60, 2) };
            let Chosen { taken, skipped, .. } = request.choose(rows.iter());
            let taken: Vec<_> = taken.into_iter().map(Position::get).collect();
            (taken, skipped.key.map(|key| key.0), skipped.next.map(Position::get))
        };
        assert_eq!(choose(Some(&[]), &rows), (vec![7, 8], None, None));
        seal(&mut rows[0], "a");
        assert_eq!(choose(Some(&[]), &rows), (vec![8, 9], Some("a".to_owned()), None));
        assert_eq!(choose(Some(&["a"]), &rows), (vec![7, 8], None, None));
        rows.iter_mut().skip(1).for_each(|row| seal(row, "b"));
        let last = rows[Skipping::MAX].position.get();
        assert_eq!(choose(Some(&["a"]), &rows), (vec![7], Some("b".to_owned()), Some(last)));
        assert_eq!(choose(None, &rows), (vec![7, 8], None, None));
    }

    #[test]
    fn statistics_count_states_and_have_both_ends() {
        let (rows, now) = (posted(&[0, 0, 10]), at(100));
        let states =
            [MessageState::Claimed(ClaimId::new(1)), MessageState::Free, MessageState::Delayed];
        let counted = rows.iter().map(|row| row.endpoint(INCARNATION)).zip(states);
        let stats: Stats = counted.collect();
        assert_eq!((stats.free, stats.claimed, stats.delayed), (1, 1, 1));
        let (first, last) = stats.ends.unwrap();
        assert_eq!((first.id.position, last.id.position), (Position::new(7), Position::new(9)));
        assert_eq!((first.created, last.created), (now, now));
        assert_eq!(Stats::from_iter([]), Stats::default());
    }

    #[test]
    fn a_lease_is_bounded_and_stops_at_a_leased_entry() {
        let far = subscription(None);
        let row = |delay| {
            let rows = posted(&[delay]);
            let entry = OutboxEntry::of_post(INCARNATION, Position::new(7), rows.iter(), at(100));
            EntryRow::of_post(entry, [&far].into_iter()).unwrap()
        };
        let lease = |limit, bytes, rows: &mut [EntryRow]| {
            LeaseRequest { until: at(150), limit, bytes }.lease(rows.iter_mut(), at(100)).len()
        };
        let rows = || vec![row(10), row(0), row(0), row(0)];
        assert_eq!(lease(2, 100, &mut rows()), 2);
        assert_eq!(lease(9, 8, &mut rows()), 2, "the first, which is not due, blocks none");
        assert_eq!(lease(9, 1, &mut rows()), 1, "one at least");
        let mut rows = rows();
        assert_eq!(lease(1, 100, &mut rows), 1);
        assert_eq!(rows[1].due, Some(at(150)));
        assert_eq!(lease(9, 100, &mut rows), 0);
    }
}
