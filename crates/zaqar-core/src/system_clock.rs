//! The machine's time, protected from wrong readings of its wall clock.
//!
//! The kernel has two clocks: a monotonic one that counts time since boot, suspension included, and
//! the wall clock, which administrators, NTP and hypervisors set. The time of this module is the
//! monotonic clock plus an offset, which follows the wall clock under the rules of [`SystemClock`].

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{Clock, ClockStatus, Timestamp};
use crate::storage::MAX_CLOCK_SKEW;

/// Nanoseconds. A request reads the clock several times, and 128 bits would be divided by a
/// function. These reach from 1678 to 2262; readings past that saturate.
type Nanos = i64;

/// A difference up to this is corrected gradually (slewed); a larger one is a step of the wall
/// clock.
const MAX_SLEW: Nanos = nanos(Duration::from_secs(1));
/// A step is adopted once the wall clock has been stable for this long.
const STABLE_FOR: Nanos = nanos(Duration::from_secs(30));
/// Readings that differ by no more than this belong to one step.
const SAME_STEP: Nanos = nanos(Duration::from_secs(1));
/// A step back by more than this is adopted at once, not slewed.
const MAX_SET_BACK: Nanos = nanos(MAX_CLOCK_SKEW);

const fn nanos(duration: Duration) -> Nanos {
    const MAX_SECS: u64 = Nanos::MAX as u64 / 1_000_000_000;
    match duration.as_secs() {
        secs @ 0..MAX_SECS => (secs * 1_000_000_000) as Nanos + duration.subsec_nanos() as Nanos,
        _ => Nanos::MAX,
    }
}

/// The machine's time. It always advances and follows the wall clock, but never trusts a single
/// reading of it:
///
/// - A difference of at most 1 s is corrected gradually: time runs up to 5 % faster or slower.
/// - A larger one is a step. It is ignored until the wall clock has been stable for 30 s; a clock
///   that is an hour wrong for a few seconds changes nothing.
/// - A step forward is then adopted at once. For a step back of at most 30 s, time runs at half
///   speed until it is corrected.
/// - A step back of more than 30 s ([`MAX_CLOCK_SKEW`]) is then adopted at once, too. This is the
///   only case in which time goes back. Otherwise a server that was started with a wrong clock
///   would have to be restarted once the clock is right. Stores reset the later times that they
///   have stored.
///
/// It starts at the wall clock's first reading. Time that passes while the process is stopped or
/// the machine is suspended counts. If the monotonic clock of a paused virtual machine stood still,
/// its wall clock makes a step. A reading costs two clock calls and a lock.
///
/// All values of this type are one clock, the process's. If each had an offset of its own, one that
/// is made while the wall clock is wrong would differ from the others.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    fn tracker() -> MutexGuard<'static, OffsetTracker> {
        static TRACKER: LazyLock<Mutex<OffsetTracker>> =
            LazyLock::new(|| Mutex::new(OffsetTracker::new(Reading::now())));
        TRACKER.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // Read under the lock, so that readings are used in order.
        let mut tracker = Self::tracker();
        tracker.update(Reading::now());
        tracker.time()
    }

    fn status(&self) -> ClockStatus {
        let mut tracker = Self::tracker();
        tracker.update(Reading::now());
        tracker.status()
    }
}

/// Both clocks at one moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// Since boot.
    monotonic: Nanos,
    /// Since 1970.
    wall: Nanos,
}

impl Reading {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now() -> Self {
        // By way of the C library, so that libfaketime can set it.
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => -nanos(before.duration()),
        };
        Self { monotonic: monotonic(), wall }
    }
}

/// Time since boot, suspension included.
#[cfg(target_os = "linux")]
fn monotonic() -> Nanos {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    since.tv_sec.saturating_mul(1_000_000_000).saturating_add(since.tv_nsec)
}

/// Time since the first call. If the system does not count suspension, waking up is a step of the
/// wall clock.
#[cfg(not(target_os = "linux"))]
fn monotonic() -> Nanos {
    static START: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    nanos(START.elapsed())
}

/// Computes the offset by the rules of [`SystemClock`].
#[derive(Debug, Clone)]
struct OffsetTracker {
    last: Reading,
    /// Added to the monotonic clock to get the time.
    offset: Nanos,
    step: Option<ClockStep>,
}

/// A step of the wall clock that is not adopted yet, or that is being slewed.
#[derive(Debug, Clone, Copy)]
struct ClockStep {
    /// When it was first seen, by the monotonic clock.
    since: Nanos,
    /// Wall clock minus monotonic clock when it was last seen.
    offset: Nanos,
}

impl OffsetTracker {
    fn new(first: Reading) -> Self {
        let offset = first.wall.saturating_sub(first.monotonic);
        Self { last: first, offset, step: None }
    }

    fn update(&mut self, reading: Reading) {
        let elapsed = (reading.monotonic - self.last.monotonic).max(0);
        self.last = Reading { monotonic: self.last.monotonic.max(reading.monotonic), ..reading };
        let wanted = reading.wall.saturating_sub(self.last.monotonic);
        let missing = wanted.saturating_sub(self.offset);
        if missing.saturating_abs() <= MAX_SLEW {
            self.step = None;
            self.slew(missing, elapsed / 20);
        } else if self.has_been_stable(wanted) {
            if !(-MAX_SET_BACK..=0).contains(&missing) {
                self.offset = wanted;
                self.step = None;
            } else {
                self.slew(missing, elapsed / 2);
            }
        }
    }

    /// Records a step of the wall clock. Returns whether the wall clock has been stable for long
    /// enough.
    fn has_been_stable(&mut self, wanted: Nanos) -> bool {
        let now = self.last.monotonic;
        let same = self
            .step
            .filter(|step| step.offset.saturating_sub(wanted).saturating_abs() <= SAME_STEP);
        let since = same.map_or(now, |step| step.since);
        self.step = Some(ClockStep { since, offset: wanted });
        now - since >= STABLE_FOR
    }

    fn slew(&mut self, missing: Nanos, at_most: Nanos) {
        self.offset = self.offset.saturating_add(missing.clamp(-at_most, at_most));
    }

    fn time(&self) -> Timestamp {
        let nanos = self.last.monotonic.saturating_add(self.offset).max(0);
        Timestamp::from_millis(nanos.unsigned_abs() / 1_000_000)
    }

    fn status(&self) -> ClockStatus {
        let wanted = self.last.wall.saturating_sub(self.last.monotonic);
        let missing = wanted.saturating_sub(self.offset);
        let unsteady_for = self.step.map(|step| {
            let nanos = self.last.monotonic - step.since;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        ClockStatus { offset_ms: missing / 1_000_000, unsteady_for }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    /// A time of the wall clock, in seconds since 1970.
    const START: Nanos = 1_700_000_000;

    /// A simulated machine whose wall clock can be set.
    struct Machine {
        monotonic: Nanos,
        wall: Nanos,
        tracker: OffsetTracker,
    }

    impl Machine {
        fn new() -> Self {
            let (monotonic, wall) = (5 * SECOND, START * SECOND);
            Self { monotonic, wall, tracker: OffsetTracker::new(Reading { monotonic, wall }) }
        }

        fn pass(&mut self, nanos: Nanos) {
            self.monotonic += nanos;
            self.wall += nanos;
        }

        fn set(&mut self, by_millis: Nanos) {
            self.wall += by_millis * 1_000_000;
        }

        fn now(&mut self) -> u64 {
            self.tracker.update(Reading { monotonic: self.monotonic, wall: self.wall });
            self.tracker.time().as_millis()
        }

        /// Reads the time every 100 ms for a number of seconds; returns the milliseconds since the
        /// start.
        fn run(&mut self, secs: Nanos) -> i64 {
            for _ in 0..secs * 10 {
                self.pass(SECOND / 10);
                self.now();
            }
            self.now() as Nanos - START * 1000
        }
    }

    #[test]
    fn one_wrong_reading_changes_nothing() {
        for hours in [1, -1, 24, -24, 24 * 365] {
            let mut machine = Machine::new();
            assert_eq!(machine.run(10), 10_000);
            machine.set(hours * 3_600_000);
            assert_eq!(machine.run(3), 13_000, "{hours} hours off");
            let status = machine.tracker.status();
            assert_eq!(status.offset_ms, hours * 3_600_000);
            assert_eq!(status.unsteady_for.map(|since| since.as_secs()), Some(2));
            machine.set(-hours * 3_600_000);
            assert_eq!(machine.run(100), 113_000, "time advances normally afterwards");
            assert_eq!(machine.tracker.status(), ClockStatus::default());
        }
    }

    #[test]
    fn a_step_that_lasts_is_adopted() {
        // The step in milliseconds; the time 29 s, 32 s and 100 s later.
        for (step, before, adopted, after) in [
            (500, 29_500, 32_500, 100_500),
            (-500, 28_500, 31_500, 99_500),
            (20_000, 29_000, 52_000, 120_000),
            (3_600_000, 29_000, 3_632_000, 3_700_000),
            (-3_600_000, 29_000, -3_568_000, -3_500_000),
            // Half speed from the 30th second on; the last second is slewed by 5 %.
            (-20_000, 29_000, 31_050, 80_000),
        ] {
            let mut machine = Machine::new();
            machine.set(step);
            assert_eq!(machine.run(29), before, "{step}");
            let shown = machine.run(3);
            assert!((shown - adopted).abs() <= 50, "{step}: {shown}");
            assert_eq!(machine.run(68), after, "{step}");
            assert_eq!(machine.tracker.status(), ClockStatus::default());
        }
    }

    #[test]
    fn time_that_passes_while_the_process_is_stopped_counts() {
        let mut machine = Machine::new();
        machine.pass(30 * SECOND);
        assert_eq!(machine.run(0), 30_000, "stopped or suspended");
        // A virtual machine that was paused: the wall clock is corrected some seconds later.
        machine.run(5);
        machine.set(600_000);
        assert_eq!(machine.run(29), 64_000);
        assert_eq!(machine.run(2), 666_000);
    }

    #[test]
    fn steps_to_different_times_are_separate() {
        let mut machine = Machine::new();
        for n in 1..20 {
            machine.set(3_600_000);
            assert_eq!(machine.run(20), n * 20_000);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test compares with it")]
    fn the_machines_clock_follows_the_wall_clock_and_advances() {
        let clock = SystemClock;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(clock.now().as_millis().abs_diff(wall) < 60_000);
        let first = clock.now();
        while clock.now() == first {}
        assert!(clock.now() > first, "it advances");
        assert!(clock.status().is_steady());
    }

    proptest! {
        /// Whatever the wall clock shows for one reading, time advances at most 5 % slower or
        /// faster.
        #[test]
        fn single_wrong_readings_change_the_speed_by_at_most_5_percent(
            readings in prop::collection::vec((1..40_000 as Nanos, 0..100_000 as Nanos), 1..200),
        ) {
            let mut machine = Machine::new();
            let mut last = machine.now();
            for (n, (pass, wrong_by)) in readings.into_iter().enumerate() {
                machine.pass(pass * 1_000_000);
                let wrong_by = if n % 2 == 0 { wrong_by } else { -wrong_by };
                machine.set(wrong_by);
                let now = machine.now();
                machine.set(-wrong_by);
                let gone = now as Nanos - last as Nanos;
                prop_assert!((gone - pass).abs() <= pass / 20 + 1, "{gone} ms instead of {pass}");
                last = now;
            }
        }

        /// Whatever happened before, a stable wall clock is eventually followed.
        #[test]
        fn a_stable_wall_clock_is_followed(
            moves in prop::collection::vec((1..5_000 as Nanos, -90_000..90_000 as Nanos), 1..50),
        ) {
            let mut machine = Machine::new();
            for (pass, set) in moves {
                machine.pass(pass * 1_000_000);
                machine.set(set);
                machine.now();
            }
            machine.run(120);
            prop_assert_eq!(machine.now() as Nanos, machine.wall / 1_000_000);
            prop_assert!(machine.tracker.status().is_steady());
        }
    }
}
