//! A finished span and its attributes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One finished span.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: SpanId,
    /// The caller's span.
    pub(super) parent: Option<u64>,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) began: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) attributes: Vec<(&'static str, String)>,
    /// The name of the error, if it failed.
    pub(super) error: Option<&'static str>,
    /// If OSprofiler requested it.
    pub(super) profile: Option<Profile>,
}

/// The position of a span in a trace of OSprofiler, whose ids are UUIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) base: String,
    pub(super) parent: String,
    /// Which of the keys its caller signed with.
    pub(super) key: usize,
    /// `wsgi`, or the store.
    pub(super) name: &'static str,
    /// The span's details, in OSprofiler's format.
    pub(super) info: serde_json::Value,
}

/// The kind of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Work of this server for a client.
    Server,
    /// Work of this server without a client: a push.
    Internal,
    /// A call of this server to a store.
    Client,
}

/// A random id: OSprofiler's UUID, whose lower half is the id for everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanId(u128);

impl SpanId {
    pub(super) fn random() -> Self {
        // Version 4, variant 1; because of the variant the lower half is not 0.
        let random: u128 = rand::random();
        Self(random & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62)
    }

    pub(super) const fn short(self) -> u64 {
        // The lower half.
        (self.0 & u64::MAX as u128) as u64
    }

    pub(super) fn uuid(self) -> String {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        format!("{a}-{b}-{c}-{d}-{e}")
    }
}

/// Parses a UUID as a number; `None` if it is not a UUID.
pub(super) fn parse_uuid(text: &str) -> Option<u128> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let is_hex = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u128::from_str_radix(&hex, 16).ok()).flatten().filter(|number| *number != 0)
}

pub(super) fn nanos(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_whose_lower_half_is_the_short_one() {
        let id = SpanId::random();
        let uuid = id.uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!(["8", "9", "a", "b"].contains(&&uuid[19..20]), "{uuid}");
        assert_eq!(parse_uuid(&uuid).map(|uuid| uuid as u64), Some(id.short()));
        assert_ne!(id.short(), 0);
    }

    #[test]
    fn only_a_uuid_has_a_number() {
        for text in [
            "",
            "7c2b3c1e",
            "00000000-0000-0000-0000-000000000000",
            "zz2b3c1e00004000800000000000000",
        ] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }
}
