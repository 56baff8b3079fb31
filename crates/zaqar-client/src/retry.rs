//! Which requests are sent again, and when.

use std::time::Duration;

use crate::Error;

/// When a request that failed is sent again.
///
/// A request that may be repeated (reads, deletions by id, the creation of a queue, renewals) is
/// sent again after a lost connection, no answer in time, and 502 to 504. Any other (posts, claims,
/// pops) is sent again only where the server cannot have done it: no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is sent, at most; 1 is never again.
    pub attempts: u32,
    /// The pause before the second attempt. It doubles with each attempt, and half of it is random.
    pub first_pause: Duration,
    /// The longest pause; a longer `Retry-After` ends the retries.
    pub longest_pause: Duration,
    /// Posts may be sent again where the first may have been stored: each message arrives at least
    /// once, instead of at most once.
    pub posts_may_repeat: bool,
}

impl Default for Retries {
    /// Four attempts within some seconds; posts are not repeated.
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            posts_may_repeat: false,
        }
    }
}

impl Retries {
    /// No request is sent twice.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// The pause before attempt `next` (the second is 2), or `None` where there is none.
    pub(crate) fn pause(&self, error: &Error, next: u32, repeat: Repeat) -> Option<Duration> {
        let may_repeat = match repeat {
            Repeat::Safe => true,
            Repeat::Post => self.posts_may_repeat || !error.may_be_done(),
            Repeat::Unsafe => !error.may_be_done(),
        };
        if next > self.attempts || !may_repeat || !error.is_passing() {
            return None;
        }
        let asked = error.retry_after().unwrap_or_default();
        if asked > self.longest_pause {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << next.saturating_sub(2).min(16));
        Some(self.jittered(doubled.min(self.longest_pause)).max(asked))
    }

    fn jittered(&self, pause: Duration) -> Duration {
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// What sending a request twice does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The same as sending it once.
    Safe,
    /// Stores messages twice.
    Post,
    /// Something that nobody wants.
    Unsafe,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        Error::from(Box::new(Refusal {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            status,
            title: String::new(),
            description: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
            request_id: None,
        }))
    }

    #[test]
    fn only_safe_requests_are_repeated() {
        let retries = Retries::default();
        let lost = Error::Connect { url: String::new(), source: "refused".into() };
        let unsure =
            Error::Timeout { method: String::new(), path: String::new(), limit: Duration::ZERO };
        let repeats = |error: &Error, repeat| retries.pause(error, 2, repeat).is_some();
        for repeat in [Repeat::Safe, Repeat::Post, Repeat::Unsafe] {
            assert!(repeats(&lost, repeat));
            assert_eq!(repeats(&unsure, repeat), repeat == Repeat::Safe);
            assert_eq!(repeats(&refused(503, None), repeat), repeat == Repeat::Safe);
            assert!(!repeats(&refused(400, None), repeat));
        }
        let retries = Retries { posts_may_repeat: true, ..retries };
        assert!(retries.pause(&unsure, 2, Repeat::Post).is_some());
        assert!(retries.pause(&unsure, 2, Repeat::Unsafe).is_none());
    }

    #[test]
    fn pauses_double_within_their_bound_and_heed_the_server() {
        let retries = Retries { attempts: 40, ..Retries::default() };
        for next in 2..=40 {
            let pause = retries.pause(&refused(503, None), next, Repeat::Safe).unwrap();
            let doubled = Duration::from_millis(100) * 2_u32.pow((next - 2).min(16));
            let most = doubled.min(retries.longest_pause);
            assert!(pause <= most && pause >= most / 2, "{pause:?} before attempt {next}");
        }
        assert!(retries.pause(&refused(503, None), 41, Repeat::Safe).is_none());
        let asked = retries.pause(&refused(503, Some(3)), 2, Repeat::Safe);
        assert_eq!(asked, Some(Duration::from_secs(3)));
        assert_eq!(retries.pause(&refused(503, Some(11)), 2, Repeat::Safe), None);
    }
}
