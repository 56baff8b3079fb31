//! Ids and their one text form, the same for every store.

use std::fmt;
use std::str::FromStr;

/// A text that is no id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 32 lower-case hexadecimal digits")]
pub struct IdError;

/// Which life of a queue: a number drawn anew each time a queue of that name is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(u64);

/// Which state of a queue's metadata, within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

/// A place in a queue's order. Never given twice within an incarnation; 0 is before every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(u64);

macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// Wraps a number that a store kept.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number, for a store to keep. At most `i64::MAX` where this crate or a store made
            /// it.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
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

/// Names one message of a queue: the queue's incarnation and the message's position.
///
/// As text: 32 lower-case hexadecimal digits, the incarnation first. An id works as a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The life of the queue that the message belongs to.
    pub incarnation: Incarnation,
    /// Its place in the queue.
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

            /// The bits, for a store to keep.
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
    /// Names one claim of a queue: 128 random bits, 32 lower-case hexadecimal digits as text.
    ClaimId
}
bits! {
    /// Names one subscription of a queue: the time it was made, then random bits, so that ids
    /// ascend; 32 lower-case hexadecimal digits as text.
    SubscriptionId
}
bits! {
    /// Names one recovery of failed deliveries: 128 random bits, 32 lower-case hexadecimal digits
    /// as text.
    RecoveryId
}
bits! {
    /// Names the lease of one run of a server: 128 random bits, 32 lower-case hexadecimal digits as
    /// text.
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
        // The halves of a 128-bit number: neither cast can lose a bit that belongs to it.
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        if high > i64::MAX as u64 || low > i64::MAX as u64 {
            return Err(IdError);
        }
        Ok(Self { incarnation: Incarnation(high), position: Position(low) })
    }
}

fn hex(bits: u128) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 32];
    for (i, byte) in bits.to_be_bytes().into_iter().enumerate() {
        out[2 * i] = DIGITS[usize::from(byte >> 4)];
        out[2 * i + 1] = DIGITS[usize::from(byte & 15)];
    }
    out
}

fn parse(text: &str) -> Result<u128, IdError> {
    if text.len() != 32 {
        return Err(IdError);
    }
    let mut bits = 0u128;
    for byte in text.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(IdError),
        };
        bits = bits << 4 | u128::from(digit);
    }
    Ok(bits)
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
        ] {
            assert_eq!(bad.parse::<MessageId>(), Err(IdError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_id_reads_back(incarnation in 0..=i64::MAX as u64, position in 0..=i64::MAX as u64, claim: u128) {
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
        fn any_text_is_refused_or_reads_back(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
