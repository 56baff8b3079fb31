//! When a failed delivery is retried.
//!
//! The rules are those of the original's guide "The Notification Delivery Policy": some immediate
//! retries, some after the minimum delay, some after delays that grow by a function, some after the
//! maximum delay. After them an optional [`Tail`] continues for hours.

mod backoff;
mod retry_after;
mod tail;

use std::time::Duration;

use serde_json::{Map, Value};

pub use backoff::Backoff;
pub use retry_after::RetryAfter;
pub use tail::Tail;

/// A `_retry_policy`, complete: members that are absent have the documented defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Immediate retries after the first attempt.
    pub retries_with_no_delay: u32,
    /// Retries after `minimum_delay` each.
    pub minimum_delay_retries: u32,
    /// Seconds.
    pub minimum_delay: u32,
    /// Seconds.
    pub maximum_delay: u32,
    /// Retries after `maximum_delay` each, the last ones.
    pub maximum_delay_retries: u32,
    /// How delays grow from the minimum to the maximum in between.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// The documented defaults: 3 at once, 3 after 5 s, linear from 5 to 30 s, 3 after 30 s.
    fn default() -> Self {
        Self {
            retries_with_no_delay: 3,
            minimum_delay_retries: 3,
            minimum_delay: 5,
            maximum_delay: 30,
            maximum_delay_retries: 3,
            backoff: Backoff::Linear,
        }
    }
}

impl RetryPolicy {
    /// The policy that applies to one subscription of one queue, from the values of their
    /// `_retry_policy` members.
    ///
    /// The subscription's applies; if it is empty, the queue's; if that is empty, the defaults. If
    /// either says `ignore_subscription_override`, the queue's applies.
    ///
    /// Both were checked when they were stored ([`zaqar_core::metadata::check_retry_policy`]); a
    /// member with an invalid value counts as absent.
    pub fn effective(subscription: Option<&Value>, queue: Option<&Value>) -> Self {
        let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
        let subscription = object(subscription).unwrap_or_default();
        let queue = object(queue).unwrap_or_default();
        let ignores = |policy: &Map<String, Value>| {
            policy.get("ignore_subscription_override").and_then(Value::as_bool).unwrap_or(false)
        };
        let ignored = ignores(&subscription) || ignores(&queue);
        Self::read(if ignored || subscription.is_empty() { &queue } else { &subscription })
    }

    fn read(policy: &Map<String, Value>) -> Self {
        let default = Self::default();
        let number = |name, default| {
            let number = policy.get(name).and_then(Value::as_u64);
            number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
        };
        let backoff = policy.get("retry_backoff_function").and_then(Value::as_str);
        Self {
            retries_with_no_delay: number("retries_with_no_delay", default.retries_with_no_delay),
            minimum_delay_retries: number("minimum_delay_retries", default.minimum_delay_retries),
            minimum_delay: number("minimum_delay", default.minimum_delay),
            maximum_delay: number("maximum_delay", default.maximum_delay),
            maximum_delay_retries: number("maximum_delay_retries", default.maximum_delay_retries),
            backoff: backoff.and_then(Backoff::by_name).unwrap_or(default.backoff),
        }
    }

    /// The number of retries after the first attempt.
    pub fn retries(&self) -> u64 {
        u64::from(self.retries_with_no_delay)
            + u64::from(self.minimum_delay_retries)
            + self.backoff.retries(self.minimum_delay, self.maximum_delay)
            + u64::from(self.maximum_delay_retries)
    }

    /// The delay before retry number `retry` (0 is the first), without jitter; `None` after the
    /// last. Cost: constant.
    pub fn delay(&self, retry: u64) -> Option<Duration> {
        let growing = self.backoff.retries(self.minimum_delay, self.maximum_delay);
        let mut rest = retry;
        for (count, delay) in [
            (u64::from(self.retries_with_no_delay), Some(0)),
            (u64::from(self.minimum_delay_retries), Some(self.minimum_delay)),
            (growing, None),
            (u64::from(self.maximum_delay_retries), Some(self.maximum_delay)),
        ] {
            if rest < count {
                let growing = || self.backoff.delay(self.minimum_delay, self.maximum_delay, rest);
                return Some(Duration::from_secs(delay.map_or_else(growing, u64::from)));
            }
            rest -= count;
        }
        None
    }
}

/// Everything that determines retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The policy of the subscription or the queue.
    pub policy: RetryPolicy,
    /// Retries after those of the policy, if any.
    pub tail: Option<Tail>,
}

impl Schedule {
    /// The delay before the retry after `failed` failed attempts; `None` if there is no further
    /// retry.
    ///
    /// `chance` in 0..1 spreads retries that failed together, by [`jitter`]. The receiver's
    /// `retry_after` lengthens the delay within its bounds.
    pub fn delay(
        &self,
        failed: u32,
        retry_after: Option<RetryAfter>,
        chance: f64,
    ) -> Option<Duration> {
        let retry = u64::from(failed.saturating_sub(1));
        let planned = self.policy.delay(retry).or_else(|| {
            let behind = retry - self.policy.retries();
            self.tail.as_ref().and_then(|tail| tail.delay(behind))
        })?;
        let delay = jitter(planned, chance);
        Some(retry_after.map_or(delay, |asked| asked.bounded(delay)))
    }
}

/// Changes a delay by up to a tenth either way, depending on `chance` in 0..1.
pub fn jitter(delay: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn delays(policy: &RetryPolicy) -> Vec<u64> {
        let delays: Vec<_> =
            (0..policy.retries()).map(|retry| policy.delay(retry).unwrap().as_secs()).collect();
        assert_eq!(policy.delay(policy.retries()), None);
        assert_eq!(policy.delay(u64::MAX), None);
        delays
    }

    #[test]
    fn the_default_is_the_documented_one() {
        let expected = [0, 0, 0, 5, 5, 5, 5, 10, 15, 20, 25, 30, 30, 30];
        assert_eq!(delays(&RetryPolicy::default()), expected);
    }

    #[test]
    fn each_member_counts() {
        let policy = json!({
            "retries_with_no_delay": 1, "minimum_delay_retries": 2, "minimum_delay": 1,
            "maximum_delay": 20, "maximum_delay_retries": 0,
            "retry_backoff_function": "geometric",
        });
        let policy = RetryPolicy::effective(Some(&policy), None);
        assert_eq!(delays(&policy), [0, 1, 1, 1, 4, 20]);
        let none = json!({"retries_with_no_delay": 0, "minimum_delay_retries": null,
            "maximum_delay_retries": u32::MAX});
        let none = RetryPolicy::effective(Some(&none), None);
        assert_eq!(none.delay(0), Some(Duration::from_secs(5)));
        assert_eq!(none.retries(), 3 + 5 + u64::from(u32::MAX));
        assert_eq!(none.delay(none.retries() - 1), Some(Duration::from_secs(30)));
    }

    #[test]
    fn of_two_policies_one_applies() {
        let marked = |count: u32, ignores: bool| {
            let retries = "retries_with_no_delay";
            json!({ retries: count, "ignore_subscription_override": ignores })
        };
        let table = [
            (None, None, 3),
            (Some(json!({})), Some(json!({})), 3),
            (Some(json!(null)), Some(marked(7, false)), 7),
            (Some(json!({})), Some(marked(7, false)), 7),
            (Some(marked(9, false)), Some(marked(7, false)), 9),
            (Some(marked(9, false)), Some(marked(7, true)), 7),
            (Some(marked(9, true)), Some(marked(7, false)), 7),
            // As in the original: an ignored policy stays ignored even if nothing replaces it.
            (Some(marked(9, true)), None, 3),
        ];
        for (subscription, queue, expected) in table {
            let policy = RetryPolicy::effective(subscription.as_ref(), queue.as_ref());
            assert_eq!(policy.retries_with_no_delay, expected, "{subscription:?} {queue:?}");
        }
    }

    #[test]
    fn jitter_is_a_tenth_either_way() {
        let delay = Duration::from_secs(100);
        for (chance, expected) in [(0.0, 90), (0.5, 100), (1.0, 110), (-3.0, 90), (7.0, 110)] {
            assert_eq!(jitter(delay, chance).as_secs_f64().round() as u64, expected, "{chance}");
        }
        assert_eq!(jitter(Duration::ZERO, 1.0), Duration::ZERO);
    }

    #[test]
    fn the_tail_follows_the_policy() {
        let policy = RetryPolicy {
            retries_with_no_delay: 0,
            minimum_delay_retries: 1,
            minimum_delay: 5,
            maximum_delay: 5,
            maximum_delay_retries: 0,
            backoff: Backoff::Linear,
        };
        let tail = Tail {
            first: Duration::from_secs(60),
            longest: Duration::from_secs(120),
            total: Duration::from_secs(400),
        };
        let with_tail = Schedule { policy, tail: Some(tail) };
        let secs = |failed| with_tail.delay(failed, None, 0.5).map(|delay| delay.as_secs());
        let found: Vec<_> = (1..=6).map(secs).collect();
        assert_eq!(found, [Some(5), Some(60), Some(120), Some(120), None, None]);
        let without = Schedule { policy, tail: None };
        assert_eq!(without.delay(2, None, 0.5), None);
        let asked = RetryAfter::from_delay(Duration::from_secs(100));
        assert_eq!(with_tail.delay(1, Some(asked), 0.5), Some(Duration::from_secs(100)));
        assert_eq!(without.delay(2, Some(asked), 0.5), None, "the policy's end is the end");
    }
}
