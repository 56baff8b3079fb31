//! Positions of what arrived from another store.
//!
//! Rows are stored by a position of the whole store, but a queue that moves here brings positions
//! that other queues may have, too. So what arrives is stored at negative positions: each queue
//! reserves a range of them that is as long as its own range, and is never reused. They precede all
//! positions that this store assigns, and are as far apart as the queue's own, so order and markers
//! stay what they were.

use zaqar_core::Position;

/// Precedes every stored position.
pub(crate) const START: i64 = i64::MIN;

/// What a head brought from another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The last position that the other store assigned. Later ones are this store's own.
    pub(crate) last: i64,
    /// Where its messages are.
    pub(crate) messages: Option<Reserved>,
    /// Where its outbox entries are.
    pub(crate) entries: Option<Reserved>,
}

/// Where a queue's positions from `first` on are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) first: i64,
    pub(crate) at: i64,
}

impl Reserved {
    /// The stored position. One before `first`, which only a marker has, precedes all others.
    pub(crate) const fn stored(self, position: i64) -> i64 {
        self.at.saturating_add(position - self.first)
    }

    const fn shown(self, stored: i64) -> i64 {
        self.first.saturating_add(stored.saturating_sub(self.at))
    }
}

impl Arrival {
    /// A head whose last position in the other store was this.
    pub(crate) const fn new(last: i64) -> Self {
        Self { last, messages: None, entries: None }
    }

    /// Reads what [`Self::write`] wrote; `None` if it is damaged.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| i64::from_be_bytes(*number));
        let last = numbers.next().filter(|_| rest.is_empty())?;
        let mut reserved = || {
            let (first, at) = (numbers.next()?, numbers.next()?);
            Some((at < 0).then_some(Reserved { first, at }))
        };
        Some(Self { last, messages: reserved()?, entries: reserved()? })
    }

    /// As the column `arrival` has it.
    pub(crate) fn write(self) -> Vec<u8> {
        let reserved = |it: Option<Reserved>| it.map_or([0, 0], |it| [it.first, it.at]);
        let ([a, b], [c, d]) = (reserved(self.messages), reserved(self.entries));
        [self.last, a, b, c, d].iter().flat_map(|number| number.to_be_bytes()).collect()
    }
}

/// The stored position of one that a caller gives. A marker that no store assigned is past the end.
pub(crate) fn stored(
    arrival: Option<Arrival>,
    of: fn(Arrival) -> Option<Reserved>,
    given: Position,
) -> i64 {
    let position = i64::try_from(given.get()).unwrap_or(i64::MAX);
    match arrival {
        Some(arrival) if position <= arrival.last => {
            of(arrival).map_or(position, |reserved| reserved.stored(position))
        }
        Some(_) | None => position,
    }
}

pub(crate) fn shown(
    arrival: Option<Arrival>,
    of: fn(Arrival) -> Option<Reserved>,
    stored: i64,
) -> Position {
    let reserved = arrival.and_then(of).filter(|_| stored < 0);
    Position::new(reserved.map_or(stored, |reserved| reserved.shown(stored)).cast_unsigned())
}

pub(crate) const fn of_messages(arrival: Arrival) -> Option<Reserved> {
    arrival.messages
}

pub(crate) const fn of_entries(arrival: Arrival) -> Option<Reserved> {
    arrival.entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_position_is_negative_and_keeps_its_order() {
        let reserved = Reserved { first: 1 << 51, at: START + 1 };
        let arrival = Arrival { last: (1 << 51) + 9, messages: Some(reserved), entries: None };
        let at = |position: u64| stored(Some(arrival), of_messages, Position::new(position));
        let own = (1_u64 << 51) + 10;
        let marks = [0, 1 << 51, (1 << 51) + 1, (1 << 51) + 9, own, u64::MAX];
        let found = marks.map(at);
        assert!(found.is_sorted(), "{found:?}");
        assert_eq!(found[1..4], [START + 1, START + 2, START + 10]);
        assert_eq!(found[4..], [own.cast_signed(), i64::MAX]);
        for position in &marks[1..5] {
            let back = shown(Some(arrival), of_messages, at(*position));
            assert_eq!(back, Position::new(*position));
        }
        assert_eq!(Arrival::read(&arrival.write()), Some(arrival));
        assert_eq!(Arrival::read(b"damaged"), None);
    }
}
