//! The four backoff functions.

/// Seconds between two delays of the linear function; the others have the same number of delays.
/// The original's `LINEAR_INTERVAL`.
const INTERVAL: u32 = 5;

/// A `retry_backoff_function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// Each delay is 5 s longer.
    Linear,
    /// The increments grow evenly.
    Arithmetic,
    /// Each delay grows by the same factor.
    Geometric,
    /// Same as geometric: the original's two formulas are one function.
    Exponential,
}

impl Backoff {
    /// By its name in a `_retry_policy`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "linear" => Some(Self::Linear),
            "arithmetic" => Some(Self::Arithmetic),
            "geometric" => Some(Self::Geometric),
            "exponential" => Some(Self::Exponential),
            _ => None,
        }
    }

    /// How many delays there are from `minimum` to `maximum` seconds.
    pub fn retries(self, minimum: u32, maximum: u32) -> u64 {
        let span = maximum.saturating_sub(minimum);
        u64::from(match self {
            Self::Linear => span.div_ceil(INTERVAL),
            Self::Arithmetic | Self::Geometric | Self::Exponential => span / INTERVAL,
        })
    }

    /// Delay number `index` in seconds; 0 is the first, [`Backoff::retries`] - 1 the last.
    ///
    /// Where the original divides by zero, this takes the limit: a single delay is the minimum, and
    /// geometric delays start from 1 s if the minimum is 0. Cost: constant.
    pub fn delay(self, minimum: u32, maximum: u32, index: u64) -> u64 {
        let count = self.retries(minimum, maximum);
        let last = count.saturating_sub(1);
        if last == 0 {
            return minimum.into();
        }
        let (low, high) = (f64::from(minimum), f64::from(maximum));
        let at = index.min(last) as f64;
        let delay = match self {
            Self::Linear => low + f64::from(INTERVAL) * at,
            Self::Arithmetic => {
                // Increments d, 2d, 3d, …
                let d = 2.0 * (high - low) / (count as f64 * last as f64);
                low + at * (at + 1.0) * d / 2.0
            }
            Self::Geometric | Self::Exponential => {
                let low = low.max(1.0);
                let factor = 10f64.powf((high / low).log10() / last as f64);
                low * factor.powf(at)
            }
        };
        // The original truncates fractions after rounding errors of its own: 30 is sometimes
        // 29.999… there. Here a whole number stays whole.
        (delay + 1e-6) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: Backoff, minimum: u32, maximum: u32) -> Vec<u64> {
        let count = backoff.retries(minimum, maximum);
        (0..count).map(|index| backoff.delay(minimum, maximum, index)).collect()
    }

    /// Results of the original's functions, except for their rounding errors.
    #[test]
    fn delays_are_the_originals() {
        use Backoff::{Arithmetic, Exponential, Geometric, Linear};
        let table: [(Backoff, u32, u32, &[u64]); 14] = [
            (Linear, 5, 30, &[5, 10, 15, 20, 25]),
            (Linear, 1, 12, &[1, 6, 11]),
            (Linear, 0, 10, &[0, 5]),
            (Arithmetic, 5, 30, &[5, 7, 12, 20, 30]),
            (Arithmetic, 0, 10, &[0, 10]),
            (Arithmetic, 10, 60, &[10, 11, 13, 16, 21, 26, 33, 41, 50, 60]),
            (Geometric, 5, 30, &[5, 7, 12, 19, 30]),
            (Geometric, 1, 20, &[1, 4, 20]),
            (Geometric, 10, 60, &[10, 12, 14, 18, 22, 27, 33, 40, 49, 60]),
            (Exponential, 5, 30, &[5, 7, 12, 19, 30]),
            (Exponential, 1, 20, &[1, 4, 20]),
            (Exponential, 10, 60, &[10, 12, 14, 18, 22, 27, 33, 40, 49, 60]),
            (Geometric, 3, 13, &[3, 13]),
            (Linear, 30, 30, &[]),
        ];
        for (backoff, minimum, maximum, expected) in table {
            let found = delays(backoff, minimum, maximum);
            assert_eq!(found, expected, "{backoff:?} {minimum} {maximum}");
        }
    }

    /// The original raises `ZeroDivisionError` for these, and retries end.
    #[test]
    fn nothing_divides_by_zero() {
        use Backoff::{Arithmetic, Exponential, Geometric};
        let table: [(Backoff, u32, u32, &[u64]); 8] = [
            // The minimum is 0, which no factor can increase.
            (Geometric, 0, 20, &[1, 2, 7, 20]),
            (Exponential, 0, 20, &[1, 2, 7, 20]),
            // A single delay: the function has no second point.
            (Geometric, 5, 10, &[5]),
            (Exponential, 5, 14, &[5]),
            (Arithmetic, 5, 10, &[5]),
            (Arithmetic, 0, 9, &[0]),
            (Arithmetic, 5, 9, &[]),
            (Geometric, 20, 5, &[]),
        ];
        for (backoff, minimum, maximum, expected) in table {
            let found = delays(backoff, minimum, maximum);
            assert_eq!(found, expected, "{backoff:?} {minimum} {maximum}");
        }
    }

    #[test]
    fn delays_grow_and_stay_within_their_bounds() {
        for backoff in
            [Backoff::Linear, Backoff::Arithmetic, Backoff::Geometric, Backoff::Exponential]
        {
            for (minimum, maximum) in [(0, 1000), (7, 86_400), (1, u32::MAX), (0, u32::MAX)] {
                let count = backoff.retries(minimum, maximum);
                let mut before = 0;
                for index in [0, 1, 2, count / 2, count - 2, count - 1, u64::MAX] {
                    let delay = backoff.delay(minimum, maximum, index);
                    assert!(delay >= before && delay <= maximum.into(), "{backoff:?} {index}");
                    before = delay;
                }
            }
        }
    }
}
