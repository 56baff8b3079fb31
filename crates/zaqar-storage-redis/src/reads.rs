//! Remembers what the latest reads of queues were like, so that direct reads (see `direct`) ask for
//! what there is, and are not tried where scripts read anyway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use zaqar_core::storage::Message;
use zaqar_core::{Incarnation, QueueKey};

/// Queues of which pages are remembered. Past this number they are learned anew.
const MAX_QUEUES: usize = 1024;
/// Reads of a queue that are left to scripts after an unusual one: at first, and at most, as the
/// number doubles each time.
const PAUSES: (u8, u8) = (2, 64);
/// The messages of one page, as their sizes are not known before.
const MAX_COUNT: u64 = 128;
/// Bytes of a record besides the body, about.
const OVERHEAD: u64 = 64;

/// What the latest reads of queues were like.
#[derive(Debug, Default)]
pub(crate) struct Reads(Mutex<HashMap<QueueKey, Known>>);

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) incarnation: Option<Incarnation>,
    /// No position before this is that of a fresh message: see `lua/fresh.lua`.
    pub(crate) cursor: u64,
    /// Bytes of the largest body of the latest pages; `None` if there was none.
    size: Option<u64>,
    /// By [`Kind`].
    pauses: [Pause; 2],
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Page,
    Get,
}

/// Reads that are left to scripts.
#[derive(Debug, Clone, Copy, Default)]
struct Pause {
    left: u8,
    /// Their number after the latest read; 0 if that was usual.
    length: u8,
}

impl Reads {
    /// Remembers a slice that a script has read.
    pub(crate) fn learn(&self, key: &QueueKey, incarnation: Incarnation, messages: &[Message]) {
        self.update(key, |known| {
            known.incarnation = Some(incarnation);
            known.learn_size(messages);
        });
    }

    /// What is known of a queue; `None` if this read is left to a script.
    pub(crate) fn begin(&self, key: &QueueKey, kind: Kind) -> Option<Known> {
        self.update(key, |known| {
            let pause = &mut known.pauses[kind as usize];
            let is_over = pause.left == 0;
            pause.left = pause.left.saturating_sub(1);
            is_over.then_some(*known)
        })
    }

    /// Notes whether a read was usual.
    pub(crate) fn end(&self, key: &QueueKey, kind: Kind, is_usual: bool) {
        self.update(key, |known| {
            let length = known.pauses[kind as usize].length;
            let length = if is_usual { 0 } else { (2 * length).clamp(PAUSES.0, PAUSES.1) };
            known.pauses[kind as usize] = Pause { left: length, length };
        });
    }

    pub(crate) fn update<T>(&self, key: &QueueKey, change: impl FnOnce(&mut Known) -> T) -> T {
        // No code panics while it holds the lock, and every state is valid.
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = queues.get_mut(key) {
            return change(known);
        }
        if queues.len() == MAX_QUEUES {
            queues.clear();
        }
        change(queues.entry(key.clone()).or_default())
    }
}

impl Known {
    /// Messages that have so many bytes, or one of them more; none if their size is not known.
    pub(crate) fn fitting(&self, bytes: u64) -> u64 {
        self.size.map_or(0, |size| bytes.div_ceil(size + OVERHEAD).min(MAX_COUNT))
    }

    /// The size falls slowly, so that pages of small and of large messages may alternate.
    pub(crate) fn learn_size(&mut self, messages: &[Message]) {
        if let Some(largest) = messages.iter().map(|message| message.payload.bytes.len()).max() {
            let before = self.size.unwrap_or_default();
            self.size = Some((largest as u64).max(before - before / 16));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zaqar_core::{ClientId, MessageId, Payload, Position, Timestamp};

    use super::*;

    const BYTES: u64 = 128 << 10;

    fn message(bytes: usize) -> Message {
        let id = MessageId { incarnation: Incarnation::new(1), position: Position::new(1) };
        let payload = Payload::plain(Bytes::from(vec![b'x'; bytes]));
        let (client, created) = (ClientId::new("me"), Timestamp::from_millis(0));
        Message { id, client, payload, ttl: 60, created, claim: None, claim_count: 0 }
    }

    #[test]
    fn pages_of_unknown_sizes_are_bounded() {
        let mut known = Known::default();
        assert_eq!(known.fitting(BYTES), 0);
        known.learn_size(&[message(1)]);
        assert_eq!(known.fitting(BYTES), MAX_COUNT);
        known.learn_size(&[message(1), message(200 << 10), message(1)]);
        assert_eq!(known.fitting(BYTES), 1);
        // Pages of small messages between those of large ones change little.
        for _ in 0..5 {
            known.learn_size(&[message(1)]);
        }
        known.learn_size(&[]);
        assert_eq!(known.fitting(BYTES), 1);
        for _ in 0..200 {
            known.learn_size(&[message(1)]);
        }
        assert_eq!(known.fitting(BYTES), MAX_COUNT);
    }

    #[test]
    fn unusual_reads_pause_the_next_ones() {
        let (reads, key) = (Reads::default(), crate::keys::queue("q/p/n").unwrap());
        let attempts = |count: usize| {
            let begin = |_: &usize| {
                let begins = reads.begin(&key, Kind::Page).is_some();
                if begins {
                    reads.end(&key, Kind::Page, false);
                }
                begins
            };
            (0..count).filter(begin).count()
        };
        // One, after 2 another, after 4 another, …, and then one of 65.
        assert_eq!((attempts(1 + 3 + 5 + 9 + 17 + 33 + 65), attempts(650)), (7, 10));
        assert!(reads.begin(&key, Kind::Get).is_some());
        reads.end(&key, Kind::Page, true);
        assert!(reads.begin(&key, Kind::Page).is_some());
    }
}
