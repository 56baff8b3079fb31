//! The immutable part of a message, encoded as one string.
//!
//! Creation time (8 bytes, big-endian); a byte of flags; the client (4 bytes of length, then its
//! text); if flagged, the id of the key that encrypted it, likewise; if flagged, 16 bytes of
//! checksum; the body; and, if flagged, the life in seconds (4 bytes, big-endian). A flag marks
//! messages that are free without an entry: see `lua/fresh.lua`. Scripts read the flags, the times
//! and the client.

use bytes::{Buf, Bytes};
use zaqar_core::storage::Message;
use zaqar_core::{Checksum, ClientId, KeyId, MessageId, Payload, Timestamp};

use crate::error::Malformed;

/// The length of the creation time, with which a record begins.
pub(crate) const TIME: usize = 8;
const SEALED: u8 = 1;
const CHECKSUMMED: u8 = 2;
const HAS_LIFE: u8 = 4;
/// Only with [`HAS_LIFE`]. Scripts take flags of 8 and more for fresh.
const FRESH: u8 = 8;
/// Instead of names of keys: messages sealed with any key.
const ANY_KEY: &[u8] = b"*";
/// The length of the life, with which a record ends that has one.
const LIFE: usize = 4;

/// A message as it was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) created: Timestamp,
    pub(crate) client: ClientId,
    pub(crate) payload: Payload,
}

impl Record {
    /// The message with this record, which expires at a time and was claimed `count` times.
    pub(crate) fn message(self, id: MessageId, expires: u64, count: u64) -> Message {
        let Self { created, client, payload } = self;
        let ttl = seconds(expires.saturating_sub(created.as_millis()));
        let claim_count = u32::try_from(count).unwrap_or(u32::MAX);
        Message { id, client, payload, ttl, created, claim: None, claim_count }
    }
}

/// Rounds to seconds.
pub(crate) const fn seconds(millis: u64) -> u64 {
    millis.saturating_add(500) / 1000
}

/// What records tell scripts since layout 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// In seconds: the message expires so long after its creation. See `lua/cover.lua`.
    pub(crate) secs: u32,
    /// The message is free when it is stored, and was never claimed.
    pub(crate) is_fresh: bool,
}

impl Life {
    /// When a message expires that was created then.
    pub(crate) fn end(self, created: Timestamp) -> u64 {
        created.as_millis().saturating_add(u64::from(self.secs) * 1000)
    }
}

/// Encodes a record; without a life in layout 2.
pub(crate) fn encode(
    created: Timestamp,
    client: &ClientId,
    payload: &Payload,
    life: Option<Life>,
) -> Vec<u8> {
    let mut record = Vec::with_capacity(64 + client.as_str().len() + payload.bytes.len());
    record.extend(created.as_millis().to_be_bytes());
    let sealed = if payload.sealed_with.is_some() { SEALED } else { 0 };
    let summed = if payload.checksum.is_some() { CHECKSUMMED } else { 0 };
    let lives = life.map_or(0, |it| if it.is_fresh { HAS_LIFE | FRESH } else { HAS_LIFE });
    record.push(sealed | summed | lives);
    text(&mut record, client.as_str());
    if let Some(KeyId(key)) = &payload.sealed_with {
        text(&mut record, key);
    }
    if let Some(Checksum(sum)) = &payload.checksum {
        record.extend(sum);
    }
    record.extend_from_slice(&payload.bytes);
    record.extend(life.map(|it| it.secs.to_be_bytes()).into_iter().flatten());
    record
}

/// The length of a message's record, at most.
pub(crate) fn length(client: &ClientId, payload: &Payload) -> usize {
    const FIXED: usize = TIME + 1 + 4 + LIFE;
    let key = payload.sealed_with.as_ref().map_or(0, |KeyId(key)| 4 + key.len());
    let sum = payload.checksum.as_ref().map_or(0, |Checksum(sum)| sum.len());
    FIXED + client.as_str().len() + key + sum + payload.bytes.len()
}

/// A client in the encoding of records.
pub(crate) fn client(client: &ClientId) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, client.as_str());
    out
}

/// The keys that a caller has, as `lua/readable.lua` reads them: their names in the encoding of
/// records; `None` for any key.
pub(crate) fn keys(keys: Option<&[KeyId]>) -> Vec<u8> {
    let Some(keys) = keys else { return ANY_KEY.to_vec() };
    let mut out = Vec::new();
    keys.iter().for_each(|KeyId(key)| text(&mut out, key));
    out
}

/// What a record tells scripts; `None` for one of layout 2.
pub(crate) fn life(record: &[u8]) -> Option<Life> {
    let flags = *record.get(TIME)?;
    let secs = record.get(TIME + 1..)?.last_chunk::<LIFE>()?;
    let life = Life { secs: u32::from_be_bytes(*secs), is_fresh: flags & FRESH != 0 };
    (flags & HAS_LIFE != 0).then_some(life)
}

/// Whether a client posted the message of a record.
pub(crate) fn is_of(record: &[u8], client: &[u8]) -> bool {
    record.get(TIME + 1..).is_some_and(|rest| rest.starts_with(client))
}

/// Decodes a record. The body is not copied.
pub(crate) fn decode(record: Vec<u8>) -> Result<Record, Malformed> {
    let mut rest = Bytes::from(record);
    let created = Timestamp::from_millis(rest.try_get_u64().map_err(|_| Malformed)?);
    let flags = rest.try_get_u8().map_err(|_| Malformed)?;
    let client = take_text(&mut rest)?;
    let client = ClientId::new(std::str::from_utf8(&client).map_err(|_| Malformed)?);
    let sealed_with = if flags & SEALED == 0 {
        None
    } else {
        let key = take_text(&mut rest)?;
        Some(KeyId(String::from_utf8(key.to_vec()).map_err(|_| Malformed)?))
    };
    let checksum = if flags & CHECKSUMMED == 0 {
        None
    } else {
        let mut sum = [0; 16];
        rest.try_copy_to_slice(&mut sum).map_err(|_| Malformed)?;
        Some(Checksum(sum))
    };
    if flags & HAS_LIFE != 0 {
        rest.truncate(rest.len().checked_sub(LIFE).ok_or(Malformed)?);
    }
    Ok(Record { created, client, payload: Payload { bytes: rest, sealed_with, checksum } })
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Texts from requests are far shorter than 4 GiB, the most that this length can represent.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text(rest: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = rest.try_get_u32().map_err(|_| Malformed)? as usize;
    if length > rest.len() {
        return Err(Malformed);
    }
    Ok(rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let plain = Payload::plain(Bytes::from_static(b"{\"a\": 1}"));
        for payload in [
            plain.clone(),
            Payload::plain(Bytes::new()),
            Payload { sealed_with: Some(KeyId("k".into())), ..plain.clone() },
            Payload { checksum: Some(Checksum([7; 16])), ..plain.clone() },
            Payload {
                sealed_with: Some(KeyId(String::new())),
                checksum: Some(Checksum([0xff; 16])),
                bytes: (0..=255).collect(),
            },
        ] {
            let created = Timestamp::from_millis(1_700_000_000_123);
            let me = ClientId::new("me");
            let life = |is_fresh| Some(Life { secs: 3600, is_fresh });
            let all = [None, life(false), life(true)];
            let [without, with, fresh] = all.map(|life| encode(created, &me, &payload, life));
            assert_eq!((without.len() + LIFE, with.len()), (with.len(), length(&me, &payload)));
            assert_eq!(with[with.len() - LIFE..], 3600_u32.to_be_bytes());
            assert_eq!((without[8] / 4, with[8] / 4, fresh[8] / 4), (0, 1, 3), "flags");
            let mine = client(&me);
            let read = Record { created, client: me, payload };
            for record in [without, with, fresh] {
                assert_eq!(record[9..9 + mine.len()], mine, "where scripts look for it");
                assert_eq!(decode(record).unwrap(), read);
            }
        }
    }

    #[test]
    fn a_truncated_record_is_rejected() {
        let payload = Payload { checksum: Some(Checksum([7; 16])), ..Payload::plain(Bytes::new()) };
        for life in [None, Some(Life { secs: 60, is_fresh: true })] {
            let record = encode(Timestamp::from_millis(1), &ClientId::new("me"), &payload, life);
            for length in 0..record.len() {
                assert!(decode(record[..length].to_vec()).is_err(), "{length} bytes");
            }
        }
    }
}
