//! Metadata of each attempt of a call, by which a script recognises a wrong clock, a request that
//! arrives too late, and a repeat, in whichever order original and repeat arrive.
//!
//! - **Deadline.** When the caller gives up the attempt, by the server's clock: a script that
//!   starts later does nothing. The clock is read once per connection.
//! - **Request.** A random id of the call. A repeat stores it in a hash of the queue (or of
//!   whatever the script works on); an original that arrives later finds it there and does nothing.
//!   Scripts whose second execution would do more or answer otherwise also store it at the first
//!   execution, with their answer. The hash is named by the time of the first attempt and expires
//!   after the last deadline, so recognising a repeat costs one look-up, however many requests
//!   there were.
//! - **Clock.** The script compares the caller's `now` with `TIME` and does nothing if they differ
//!   by more than the bound.

use std::time::{Duration, Instant};

use zaqar_core::Timestamp;

/// The time range of requests that share a hash, in milliseconds.
const BUCKET: u64 = 2048;

/// How a script treats the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// A read: it may be executed any number of times.
    Read = 0,
    /// The first attempt: it does nothing if a repeat was executed before.
    First = 1,
    /// A later attempt: it stores the request, so that a first attempt after it does nothing.
    Repeat = 2,
}

/// The server's clock, read when a connection was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerClock {
    /// Microseconds since 1970.
    pub(crate) connected: u64,
    /// When the request for it was sent, so that deadlines are rather too late than too early.
    pub(crate) asked: Instant,
}

/// What all attempts of a call share.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// The caller's time; `None` if the script does not depend on it.
    pub(crate) now: Option<Timestamp>,
    /// How far `now` may differ from the server's clock; `None` for no limit.
    pub(crate) max_clock_skew: Option<Duration>,
    /// The timeout of an attempt.
    pub(crate) timeout: Duration,
    /// How long attempts are started.
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

    /// Encodes the envelope for an attempt that begins now.
    pub(crate) fn encode(&mut self, attempt: Attempt, clock: ServerClock) -> Vec<u8> {
        let time = clock.connected / 1000 + millis(clock.asked.elapsed());
        // This fits until the year 2248.
        let new = || u32::try_from(time / BUCKET).unwrap_or(u32::MAX);
        let bucket = *self.bucket.get_or_insert_with(new);
        // The last repeat begins within `retry_for`.
        let keep = millis(self.retry_for + self.timeout * 2).saturating_add(BUCKET);
        let mut text = Vec::with_capacity(49);
        text.extend(self.now.map_or(0, Timestamp::as_millis).to_be_bytes());
        text.extend((time + millis(self.timeout)).to_be_bytes());
        text.extend(clock.connected.to_be_bytes());
        text.extend(self.max_clock_skew.map_or(0, skew_millis).to_be_bytes());
        text.extend(small(keep).to_be_bytes());
        text.extend(bucket.to_be_bytes());
        text.push(attempt as u8);
        text.extend(self.request);
        text
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// How far clocks may differ, in the encoding of scripts: at least a millisecond.
pub(crate) fn skew_millis(bound: Duration) -> u32 {
    small(millis(bound)).max(1)
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
