//! Names from requests, checked once: project, queue, client.

use std::fmt;
use std::sync::Arc;

use crate::id::from_hex;

/// Why a name is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than [`ProjectId::MAX_CHARS`].
    #[error("a project id has at most {max} characters, this one has {chars}")]
    ProjectTooLong {
        /// Characters in the id.
        chars: usize,
        /// The limit.
        max: usize,
    },
    /// Starts or ends with whitespace, which some components strip and others keep.
    #[error("a project id neither starts nor ends with whitespace")]
    ProjectWhitespace,
    /// An empty project id.
    #[error("a project id is not empty")]
    ProjectEmpty,
    /// Longer than [`QueueName::MAX_CHARS`].
    #[error("a queue name has at most {max} characters, this one has {chars}")]
    QueueTooLong {
        /// Characters in the name.
        chars: usize,
        /// The limit.
        max: usize,
    },
    /// Empty, or with a character outside `[a-zA-Z0-9_.-]`.
    #[error("a queue name consists of ASCII letters, digits, underscores, dots and dashes")]
    QueueCharacters,
}

/// The tenant that owns a queue: 1 to 256 characters, any of them, but no whitespace at either end.
/// Ids are compared byte by byte; nothing is normalized.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Arc<str>);

impl ProjectId {
    /// The maximum length of a project id in characters, as in the original.
    pub const MAX_CHARS: usize = 256;

    /// Checks a project id.
    ///
    /// # Errors
    /// [`NameError::ProjectEmpty`], also for whitespace alone; [`NameError::ProjectWhitespace`]
    /// and [`NameError::ProjectTooLong`].
    pub fn new(id: &str) -> Result<Self, NameError> {
        match id.trim() {
            "" => return Err(NameError::ProjectEmpty),
            trimmed if trimmed.len() != id.len() => return Err(NameError::ProjectWhitespace),
            _ => {}
        }
        match chars_past(id, Self::MAX_CHARS) {
            Some(chars) => Err(NameError::ProjectTooLong { chars, max: Self::MAX_CHARS }),
            None => Ok(Self(id.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a queue or topic: 1 to 64 characters of `[a-zA-Z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// The maximum length of a queue name in characters, as in the original.
    pub const MAX_CHARS: usize = 64;

    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError::QueueTooLong`] and [`NameError::QueueCharacters`], in this order.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if let Some(chars) = chars_past(name, Self::MAX_CHARS) {
            return Err(NameError::QueueTooLong { chars, max: Self::MAX_CHARS });
        }
        if name.is_empty() || !name.bytes().all(|byte| IN_QUEUE_NAMES[usize::from(byte)]) {
            return Err(NameError::QueueCharacters);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The characters of a text, if they are more than `max`. Fewer bytes are not counted.
fn chars_past(text: &str, max: usize) -> Option<usize> {
    if text.len() <= max {
        return None;
    }
    Some(text.chars().count()).filter(|chars| *chars > max)
}

/// The bytes that a queue name may consist of.
const IN_QUEUE_NAMES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        allowed[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        byte += 1;
    }
    allowed
};

/// Queue, topic or internal. It is a part of the key, so queue `x` and topic `x` are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A queue: consumers claim its messages.
    Queue,
    /// A topic: its messages are sent to subscribers.
    Topic,
    /// A queue that belongs to the server and that no request can name: it has a head in the
    /// message store and no row in the management store. Rows of this kind are internal records:
    /// pools, flavors, and the catalogue of which pool has which queue.
    Internal,
}

impl Kind {
    /// `queue`, `topic` or `internal`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Topic => "topic",
            Self::Internal => "internal",
        }
    }
}

/// The full name of a queue or topic. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueKey {
    /// The project that owns it.
    pub project: ProjectId,
    /// Queue, topic or internal.
    pub kind: Kind,
    /// Its name in the project.
    pub name: QueueName,
}

impl fmt::Display for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of project {}", self.kind.as_str(), self.name, self.project)
    }
}

/// The id of the client that posted a message, so that a client can exclude its own messages from a
/// list.
///
/// All spellings of a UUID (with or without dashes, in capitals) are the same client, as in the
/// original.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Accepts any text; a UUID in any of its spellings becomes 32 lower-case hexadecimal digits.
    pub fn new(id: &str) -> Self {
        Self::uuid(id).unwrap_or_else(|| Self(id.into()))
    }

    /// Accepts only a UUID, in any spelling that Python's `uuid.UUID` accepts (dashes anywhere,
    /// `urn:uuid:`, braces).
    pub fn uuid(id: &str) -> Option<Self> {
        let digits = uuid_digits(id)?;
        str::from_utf8(&digits).ok().map(|digits| Self(digits.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn uuid_digits(id: &str) -> Option<[u8; 32]> {
    if let Some(digits) = usual_digits(id).or_else(|| bare_digits(id)) {
        return Some(digits);
    }
    if !id.contains([':', '{', '}']) {
        return None;
    }
    let bare = id.replace("urn:", "").replace("uuid:", "");
    bare_digits(bare.trim_matches(['{', '}']))
}

/// Those of a UUID as it is usually written: in lower case, with four dashes.
fn usual_digits(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    if [text[8], text[13], text[18], text[23]] != *b"----" {
        return None;
    }
    let mut digits = [0; 32];
    digits[..8].copy_from_slice(&text[..8]);
    digits[8..12].copy_from_slice(&text[9..13]);
    digits[12..16].copy_from_slice(&text[14..18]);
    digits[16..20].copy_from_slice(&text[19..23]);
    digits[20..].copy_from_slice(&text[24..]);
    from_hex(&digits).map(|_| digits)
}

/// 32 hexadecimal digits, with dashes anywhere between them, in lower case.
fn bare_digits(text: &str) -> Option<[u8; 32]> {
    /// The digit in lower case; 0 for what is none.
    const LOWER: [u8; 256] = {
        let mut lower = [0; 256];
        let mut byte = 0u8;
        while byte < 128 {
            if byte.is_ascii_hexdigit() {
                lower[byte as usize] = byte.to_ascii_lowercase();
            }
            byte += 1;
        }
        lower
    };
    let (mut digits, mut count) = ([0; 32], 0);
    for byte in text.bytes() {
        match LOWER[usize::from(byte)] {
            0 if byte == b'-' => {}
            0 => return None,
            digit => {
                *digits.get_mut(count)? = digit;
                count += 1;
            }
        }
    }
    (count == 32).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_have_a_limited_alphabet_and_length() {
        for good in ["a", "A.b-c_9", &"x".repeat(64)] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(
            QueueName::new(&"x".repeat(65)),
            Err(NameError::QueueTooLong { chars: 65, max: 64 })
        );
        for bad in ["", "a b", "a/b", "ä", "a\n"] {
            assert_eq!(QueueName::new(bad), Err(NameError::QueueCharacters), "{bad:?}");
        }
    }

    #[test]
    fn project_ids_are_counted_in_characters() {
        assert!(ProjectId::new(&"ä".repeat(256)).is_ok());
        assert_eq!(
            ProjectId::new(&"ä".repeat(257)),
            Err(NameError::ProjectTooLong { chars: 257, max: 256 })
        );
        assert_eq!(ProjectId::new(""), Err(NameError::ProjectEmpty));
    }

    #[test]
    fn different_project_ids_stay_different_or_are_rejected() {
        for padded in ["a\u{a0}", "a\u{2003}", " a", "a\t"] {
            assert_eq!(ProjectId::new(padded), Err(NameError::ProjectWhitespace), "{padded:?}");
        }
        assert_eq!(ProjectId::new("\u{a0}"), Err(NameError::ProjectEmpty));
        assert_ne!(ProjectId::new("a\u{a0}b"), ProjectId::new("a b"));
        assert_ne!(ProjectId::new("\u{e9}"), ProjectId::new("e\u{301}"));
    }

    #[test]
    fn spellings_of_one_uuid_are_one_client() {
        let plain = ClientId::uuid("3381af92cb4f4d308e9e5c5cd4f5a0d1").unwrap();
        for spelling in [
            "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1",
            "3381af92-cb4f-4d30-8e9E-5c5cd4f5a0d1",
            "3381-af92cb4f-4d30-8e9e-5c5cd4f5a0d1",
            "3381AF92-CB4F-4D30-8E9E-5C5CD4F5A0D1",
            "{3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1}",
            "urn:uuid:3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1",
        ] {
            assert_eq!(ClientId::uuid(spelling).unwrap(), plain);
            assert_eq!(ClientId::new(spelling), plain);
        }
        for other in [
            "3381af92cb4f4d308e9e5c5cd4f5a0d",
            "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0dg",
            "3381af92-cb4f-4d30-8e9e+5c5cd4f5a0d1",
            "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0\u{e9}",
        ] {
            assert_eq!(ClientId::uuid(other), None, "{other}");
        }
        assert_eq!(ClientId::new("anything goes").as_str(), "anything goes");
    }
}
