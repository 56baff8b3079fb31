//! When a producer posts: as soon as it can, or at times that do not depend on the answers.

use std::time::Duration;

use tokio::time::Instant;

/// The times of one producer.
#[derive(Debug)]
pub(crate) enum Pace {
    /// The next post follows the answer to the one before.
    Closed,
    /// Posts are due at even times. One that is late is sent at once, and its latency counts from
    /// when it was due: a server that stops shows in every post that it held up.
    Open {
        /// When the next one is due.
        next: Instant,
        /// The time between two.
        every: Duration,
    },
}

impl Pace {
    /// `rate` posts a second from all of `count` producers, of which this is the one at `at`; their
    /// times lie evenly between each other's.
    pub(crate) fn new(start: Instant, rate: Option<f64>, at: usize, count: usize) -> Self {
        let Some(rate) = rate else { return Self::Closed };
        let every = Duration::from_secs_f64(count as f64 / rate);
        Self::Open { next: start + every.mul_f64(at as f64 / count as f64), every }
    }

    /// Waits for the next post, and returns when it was due.
    pub(crate) async fn due(&mut self) -> Instant {
        match self {
            Self::Closed => Instant::now(),
            Self::Open { next, every } => {
                let due = *next;
                tokio::time::sleep_until(due).await;
                *next = due + *every;
                due
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_does_not_wait_for_answers() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Some(100.0), 1, 2);
        let at = |due: Instant| (due - start).as_millis();
        assert_eq!(at(pace.due().await), 10);
        assert_eq!(at(pace.due().await), 30);
        // An answer took 100 ms: what was due meanwhile is sent now, and counts from then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for due in [50, 70, 90, 110, 130] {
            assert_eq!(at(pace.due().await), due);
        }
        assert_eq!(at(Instant::now()), 130);
        assert_eq!(at(pace.due().await), 150);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_continues_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None, 0, 1);
        assert_eq!(pace.due().await, start);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pace.due().await, start + Duration::from_secs(1));
    }
}
