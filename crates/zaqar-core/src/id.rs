//! Ids and their text form, which is the same for every store.

use std::fmt;
use std::str::FromStr;

use crate::Timestamp;

/// A text is not a valid id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 32 lower-case hexadecimal digits")]
pub struct IdError;

/// Identifies a queue from its creation to its deletion: a random number, drawn each time a queue
/// of that name is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(u64);

/// Counts the changes of a queue's metadata within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

/// A message's position in its queue. Never reused within an incarnation; 0 is before every
/// message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(u64);

macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// Wraps a number that a store has stored.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number, to be stored. At most `i64::MAX` if this crate or a store generated it.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next number.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}
number!(Incarnation);
number!(Version);
number!(Position);

impl Position {
    /// The position before every message.
    pub const START: Self = Self(0);
    /// Positions follow the clock up to the year 74 000, so that a wrong clock does not exhaust
    /// them.
    const MAX_OF_CLOCK: u64 = 1 << 61;

    /// The first position that a store assigns at a time, for one that assigns less than a thousand
    /// in a millisecond: the time in microseconds.
    pub const fn of_clock(now: Timestamp) -> Self {
        let micros = now.as_millis().saturating_mul(1000);
        Self(if micros < Self::MAX_OF_CLOCK { micros } else { Self::MAX_OF_CLOCK })
    }

    /// The position that a store assigns at `now` after this one. It follows the clock where that
    /// is ahead, so that a store that has lost its last writes does not assign theirs again.
    #[must_use]
    pub fn next_at(self, now: Timestamp) -> Self {
        self.next().max(Self::of_clock(now))
    }
}

/// Identifies a message: the queue's incarnation and the message's position.
///
/// Its text form is 32 lower-case hexadecimal digits, the incarnation first. An id can be used as a
/// marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The incarnation of the message's queue.
    pub incarnation: Incarnation,
    /// The message's position in the queue.
    pub position: Position,
}

impl MessageId {
    /// The text form, without allocating.
    pub fn encode(self) -> [u8; 32] {
        hex(u128::from(self.incarnation.0) << 64 | u128::from(self.position.0))
    }
}

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// Wraps the bits.
            pub const fn new(bits: u128) -> Self {
                Self(bits)
            }

            /// The bits, to be stored.
            pub const fn get(self) -> u128 {
                self.0
            }

            /// The text form, without allocating.
            pub fn encode(self) -> [u8; 32] {
                hex(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }
        }
    };
}
bits! {
    /// Identifies a claim of a queue: 128 random bits, 32 lower-case hexadecimal digits as text.
    ClaimId
}
bits! {
    /// Identifies a subscription of a queue: its creation time followed by random bits, so that ids
    /// ascend; 32 lower-case hexadecimal digits as text.
    SubscriptionId
}
bits! {
    /// Identifies one recovery of failed deliveries: 128 random bits, 32 lower-case hexadecimal
    /// digits as text.
    RecoveryId
}
bits! {
    /// Identifies the lease of one server process: 128 random bits, 32 lower-case hexadecimal
    /// digits as text.
    LeaseId
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.incarnation.0, self.position.0)
    }
}

impl FromStr for MessageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bits = parse(text)?;
        // The upper and lower half of a 128-bit number: both casts are lossless.
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        if high > i64::MAX as u64 || low > i64::MAX as u64 {
            return Err(IdError);
        }
        Ok(Self { incarnation: Incarnation(high), position: Position(low) })
    }
}

/// The same in each of the eight bytes of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The 32 lower-case hexadecimal digits of a number. Eight are made at a time: each byte of a word
/// becomes one.
pub fn hex(bits: u128) -> [u8; 32] {
    /// What lies between `9` and `a`, beyond one.
    const GAP: u64 = (b'a' - b'9' - 1) as u64;
    let mut out = [0; 32];
    for (i, digits) in out.as_chunks_mut().0.iter_mut().enumerate() {
        // The cast takes the 32 bits that are these digits.
        let mut values = u64::from((bits >> (96 - 32 * i)) as u32);
        values = (values << 16 | values) & 0x0000_ffff_0000_ffff;
        values = (values << 8 | values) & 0x00ff_00ff_00ff_00ff;
        values = (values << 4 | values) & each(0x0f);
        let letters = (values + each(6)) >> 4 & each(1);
        *digits = (values + each(b'0') + letters * GAP).to_be_bytes();
    }
    out
}

fn parse(text: &str) -> Result<u128, IdError> {
    text.as_bytes().try_into().ok().and_then(from_hex).ok_or(IdError)
}

/// The number of what [`hex`] writes, and of nothing else.
pub(crate) fn from_hex(text: &[u8; 32]) -> Option<u128> {
    /// What a letter's lower four bits lack of its value.
    const OF_LETTER: u64 = 9;
    let bits = text.as_chunks().0.iter().fold(0, |bits, digits| {
        let digits = u64::from_be_bytes(*digits);
        let letters = digits >> 6 & each(1);
        let mut values = (digits & each(0x0f)) + letters * OF_LETTER;
        values = (values >> 4 | values) & 0x00ff_00ff_00ff_00ff;
        values = (values >> 8 | values) & 0x0000_ffff_0000_ffff;
        values = (values >> 16 | values) & 0xffff_ffff;
        bits << 32 | u128::from(values)
    });
    // Of anything but digits the above makes something, which is not written so.
    (hex(bits) == *text).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_exact_form_is_an_id() {
        let id = MessageId { incarnation: Incarnation::new(0xab), position: Position::new(7) };
        assert_eq!(id.to_string(), "00000000000000ab0000000000000007");
        for bad in [
            "",
            "7",
            "00000000000000AB0000000000000007",
            "+0000000000000ab0000000000000007",
            "ffffffffffffffff0000000000000007",
            "00000000000000ab00000000000000070",
            "00000000000000ag0000000000000007",
            "000000000000:0ab0000000000000007",
            "00000000000`00ab0000000000000007",
            "0000000000000Jab0000000000000007",
            "000000000000\u{0}0ab0000000000000007",
            "00000000000é0ab0000000000000007",
        ] {
            assert_eq!(bad.parse::<MessageId>(), Err(IdError), "{bad}");
        }
    }

    #[test]
    fn positions_follow_the_clock_where_it_is_ahead() {
        let now = Timestamp::from_millis(5);
        assert_eq!(Position::START.next_at(now), Position(5000));
        assert_eq!(Position(5000).next_at(now), Position(5001));
        assert_eq!(Position::START.next_at(Timestamp::MAX), Position(1 << 61));
    }

    proptest! {
        #[test]
        fn ids_round_trip_through_text(incarnation in 0..=i64::MAX as u64, position in 0..=i64::MAX as u64, claim: u128) {
            let id = MessageId { incarnation: Incarnation(incarnation), position: Position(position) };
            let text = id.to_string();
            prop_assert_eq!(text.as_bytes(), &id.encode());
            prop_assert_eq!(text.parse(), Ok(id));
            let claim = ClaimId(claim);
            let text = claim.to_string();
            prop_assert_eq!(text.as_bytes(), &claim.encode());
            prop_assert_eq!(text.parse(), Ok(claim));
        }

        #[test]
        fn any_text_is_rejected_or_round_trips(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
