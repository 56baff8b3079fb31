//! Retries after the policy's: hours of exponential backoff.

use std::time::Duration;

/// Retries after the policy's last; each delay is twice the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The first delay; less than 1 s counts as 1 s.
    pub first: Duration,
    /// The longest delay; less than `first` counts as `first`.
    pub longest: Duration,
    /// The sum of all delays, at most.
    pub total: Duration,
}

impl Default for Tail {
    /// From 1 minute to 2 hours, over 24 hours.
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self { first: Duration::from_secs(60), longest: 2 * hour, total: 24 * hour }
    }
}

impl Tail {
    /// Delay number `index`, 0 is the first; `None` once the sum would exceed `total`.
    ///
    /// Cost: at most 64 steps, because delays double until they reach the longest.
    pub fn delay(&self, index: u64) -> Option<Duration> {
        let first = self.first.max(Duration::from_secs(1));
        let longest = self.longest.max(first);
        let (mut delay, mut sum) = (first, Duration::ZERO);
        let mut left = index;
        while delay < longest && left > 0 {
            sum = sum.saturating_add(delay);
            delay = delay.saturating_mul(2).min(longest);
            left -= 1;
        }
        let equal = u32::try_from(left.saturating_add(1)).unwrap_or(u32::MAX);
        let sum = sum.saturating_add(delay.saturating_mul(equal));
        (sum <= self.total).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_end() {
        let minutes: Vec<_> = (0..)
            .map_while(|index| Tail::default().delay(index))
            .map(|delay| delay.as_secs() / 60)
            .collect();
        let mut expected = vec![1, 2, 4, 8, 16, 32, 64];
        expected.resize(17, 120);
        assert_eq!(minutes, expected);
        assert!(minutes.iter().sum::<u64>() <= 24 * 60);
    }

    #[test]
    fn odd_values_do_no_harm() {
        let zero = Tail { first: Duration::ZERO, longest: Duration::ZERO, total: Duration::MAX };
        assert_eq!(zero.delay(0), Some(Duration::from_secs(1)));
        assert_eq!(zero.delay(u64::MAX), Some(Duration::from_secs(1)));
        let none = Tail { total: Duration::ZERO, ..Tail::default() };
        assert_eq!(none.delay(0), None);
        let endless = Tail { first: Duration::MAX, longest: Duration::MAX, total: Duration::MAX };
        assert_eq!(endless.delay(u64::MAX), Some(Duration::MAX));
    }
}
