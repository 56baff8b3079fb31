//! What each attempt of a call tells the server about itself, so that a script recognises a wrong
//! clock, a request that comes too late, and its own repeat, in either order.
//!
//! - **Deadline.** By the server's clock, when the caller gives the attempt up: a script that is
//!   reached later does nothing. The clock is read once a connection.
//! - **Request.** Drawn at random for each call. A repeat leaves it in a hash of the queue (or of
//!   whatever the script works on), and an original that comes later finds it there and does
//!   nothing. Scripts whose second run would do more or answer otherwise leave it, with their
//!   answer, at the first run, too. The hash is named by the time of the first attempt and expires
//!   after the last deadline, so that recognising costs one look-up, however many requests there
//!   were.
//! - **Clock.** The script compares the caller's `now` with `TIME` and refuses to act beyond the
//!   bound.

use std::time::{Duration, Instant};

use zaqar_core::Timestamp;

/// How long requests go to one hash, in milliseconds.
const BUCKET: u64 = 2048;

/// What scripts do about a request that they have met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It reads: it may run any number of times.
    Read = 0,
    /// The first: it does nothing where a repeat came before.
    First = 1,
    /// A later one: it leaves its mark for the first.
    Repeat = 2,
}

/// The server's clock, read when a connection was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerClock {
    /// Microseconds since 1970.
    pub(crate) connected: u64,
    /// When it was asked: before it answered, so that deadlines are rather too late than too early.
    pub(crate) asked: Instant,
}

/// What is the same for all attempts of a call.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// The caller's time, or none where nothing depends on it.
    pub(crate) now: Option<Timestamp>,
    /// How far that may be from the server's; `None` for any distance.
    pub(crate) max_clock_skew: Option<Duration>,
    /// How long an attempt may take.
    pub(crate) timeout: Duration,
    /// How long attempts go on.
    pub(crate) retry_for: Duration,
    request: [u8; 12],
    bucket: Option<u32>,
}

impl Envelope {
    pub(crate) fn new(
        now: Option<Timestamp>,
        max_clock_skew: Option<Duration>,
        timeout: Duration,
        retry_for: Duration,
    ) -> Self {
        Self { now, max_clock_skew, timeout, retry_for, request: rand::random(), bucket: None }
    }

    /// As scripts take it, for an attempt that begins now.
    pub(crate) fn encode(&mut self, attempt: Attempt, clock: ServerClock) -> Vec<u8> {
        let time = clock.connected / 1000 + millis(clock.asked.elapsed());
        // It fits until the year 2248.
        let new = || u32::try_from(time / BUCKET).unwrap_or(u32::MAX);
        let bucket = *self.bucket.get_or_insert_with(new);
        // The last repeat begins before `retry_for` is over.
        let keep = millis(self.retry_for + self.timeout * 2).saturating_add(BUCKET);
        let mut text = Vec::with_capacity(49);
        text.extend(self.now.map_or(0, Timestamp::as_millis).to_be_bytes());
        text.extend((time + millis(self.timeout)).to_be_bytes());
        text.extend(clock.connected.to_be_bytes());
        text.extend(small(self.max_clock_skew.map_or(0, |bound| millis(bound).max(1))));
        text.extend(small(keep));
        text.extend(bucket.to_be_bytes());
        text.push(attempt as u8);
        text.extend(self.request);
        text
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn small(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_a_call_differ_only_in_what_they_are() {
        let now = Some(Timestamp::from_millis(1_700_000_000_000));
        let timeout = Duration::from_secs(1);
        let mut call = Envelope::new(now, None, timeout, timeout * 5);
        let clock = ServerClock { connected: 1_700_000_000_000_000, asked: Instant::now() };
        let (first, repeat) =
            (call.encode(Attempt::First, clock), call.encode(Attempt::Repeat, clock));
        // Request and bucket are the same; the deadline grows.
        assert_eq!((first.len(), &first[..8]), (49, &repeat[..8]));
        assert_eq!((&first[28..36], &first[37..]), (&repeat[28..36], &repeat[37..]));
        assert_eq!((first[36], repeat[36]), (1, 2));
        assert!(first[8..16] <= repeat[8..16]);
        let mut other = Envelope::new(now, None, timeout, timeout * 5);
        assert_ne!(other.encode(Attempt::First, clock)[37..], first[37..]);
    }
}
