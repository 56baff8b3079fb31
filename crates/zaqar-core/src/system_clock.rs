//! The machine's time, protected from wrong readings of its wall clock.
//!
//! The kernel keeps two clocks: a steady one that counts time since boot, suspension included, and
//! the wall clock, which administrators, NTP and hypervisors set. Time here is the steady clock
//! plus an offset, and the offset follows the wall clock under the rules of [`SystemClock`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{Clock, ClockStatus, Timestamp};
use crate::storage::MAX_CLOCK_SKEW;

/// A difference up to this is corrected gradually; a greater one is a step of the wall clock.
const MAX_SLEW: i128 = nanos(Duration::from_secs(1));
/// A step is adopted once the wall clock has kept it for this long.
const STEADY_AFTER: i128 = nanos(Duration::from_secs(30));
/// Readings that differ by no more than this belong to one step.
const SAME_STEP: i128 = nanos(Duration::from_secs(1));
/// A wall clock that was set back further than this is adopted by a jump.
const MAX_SET_BACK: i128 = nanos(MAX_CLOCK_SKEW);

const fn nanos(duration: Duration) -> i128 {
    duration.as_nanos() as i128
}

/// The machine's time. It never stands still and follows the wall clock, but never believes a
/// single reading of it:
///
/// - A difference of at most 1 s is corrected gradually: time runs up to 5 % faster or slower.
/// - A greater one is a step. Until the wall clock has kept it for 30 s, time goes on without it; a
///   clock that is an hour wrong for a few seconds changes nothing.
/// - A step forward is then adopted at once. A step back of at most 30 s is made up for by time
///   running at half speed.
/// - A step back of more than 30 s ([`MAX_CLOCK_SKEW`]) is then adopted at once too: the one case
///   in which time goes back. Otherwise a server that was started with a wrong clock would have to
///   be restarted once the clock is right. Stores repair what they kept of the time before.
///
/// It starts at the wall clock's first reading. Time that passes while the process is stopped or
/// the machine is suspended counts; where a paused virtual machine's steady clock stood still, its
/// wall clock makes a step. A reading costs two clock calls and a lock.
#[derive(Debug)]
pub struct SystemClock {
    steering: Mutex<Steering>,
}

impl SystemClock {
    /// A clock that begins with the present wall clock.
    pub fn new() -> Self {
        Self { steering: Mutex::new(Steering::new(Reading::now())) }
    }

    fn steering(&self) -> MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // Read under the lock, so that no reading is older than one that was used before.
        let mut steering = self.steering();
        steering.follow(Reading::now());
        steering.time()
    }

    fn status(&self) -> ClockStatus {
        let mut steering = self.steering();
        steering.follow(Reading::now());
        steering.status()
    }
}

/// Both clocks at one moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// Since boot.
    steady: i128,
    /// Since 1970.
    wall: i128,
}

impl Reading {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now() -> Self {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => -nanos(before.duration()),
        };
        Self { steady: steady(), wall }
    }
}

/// Time since boot, suspension included.
#[cfg(target_os = "linux")]
fn steady() -> i128 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    i128::from(since.tv_sec) * 1_000_000_000 + i128::from(since.tv_nsec)
}

/// Time since the first call. Where the system does not count suspension, waking up is a step of
/// the wall clock.
#[cfg(not(target_os = "linux"))]
fn steady() -> i128 {
    static START: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    nanos(START.elapsed())
}

/// The rules of [`SystemClock`].
#[derive(Debug, Clone)]
struct Steering {
    last: Reading,
    /// What must be added to the steady clock.
    offset: i128,
    step: Option<Step>,
}

/// A step of the wall clock that is not adopted yet, or that time is slowly making up for.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// When it was first seen, by the steady clock.
    since: i128,
    /// Wall clock minus steady clock when it was last seen.
    offset: i128,
}

impl Steering {
    fn new(first: Reading) -> Self {
        Self { last: first, offset: first.wall - first.steady, step: None }
    }

    fn follow(&mut self, reading: Reading) {
        let elapsed = (reading.steady - self.last.steady).max(0);
        self.last = Reading { steady: self.last.steady.max(reading.steady), ..reading };
        let wanted = reading.wall - self.last.steady;
        let missing = wanted - self.offset;
        if missing.abs() <= MAX_SLEW {
            self.step = None;
            self.slew(missing, elapsed / 20);
        } else if self.is_steady_at(wanted) {
            if !(-MAX_SET_BACK..=0).contains(&missing) {
                self.offset = wanted;
                self.step = None;
            } else {
                self.slew(missing, elapsed / 2);
            }
        }
    }

    /// Notes that the wall clock differs by a step; whether it has kept that step for long enough.
    fn is_steady_at(&mut self, wanted: i128) -> bool {
        let now = self.last.steady;
        let same = self.step.filter(|step| (step.offset - wanted).abs() <= SAME_STEP);
        let since = same.map_or(now, |step| step.since);
        self.step = Some(Step { since, offset: wanted });
        now - since >= STEADY_AFTER
    }

    fn slew(&mut self, missing: i128, at_most: i128) {
        self.offset += missing.clamp(-at_most, at_most);
    }

    fn time(&self) -> Timestamp {
        let millis = (self.last.steady + self.offset).max(0) / 1_000_000;
        Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    fn status(&self) -> ClockStatus {
        let missing = self.last.wall - self.last.steady - self.offset;
        let unsteady_for = self.step.map(|step| {
            let nanos = self.last.steady - step.since;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        let offset_ms = i64::try_from(missing / 1_000_000).unwrap_or(i64::MAX);
        ClockStatus { offset_ms, unsteady_for }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i128 = 1_000_000_000;
    /// A time of the wall clock, in seconds since 1970.
    const START: i128 = 1_700_000_000;

    /// A machine whose wall clock can be set.
    struct Machine {
        steady: i128,
        wall: i128,
        steering: Steering,
    }

    impl Machine {
        fn new() -> Self {
            let (steady, wall) = (5 * SECOND, START * SECOND);
            Self { steady, wall, steering: Steering::new(Reading { steady, wall }) }
        }

        fn pass(&mut self, nanos: i128) {
            self.steady += nanos;
            self.wall += nanos;
        }

        fn set(&mut self, by_millis: i128) {
            self.wall += by_millis * 1_000_000;
        }

        fn now(&mut self) -> u64 {
            self.steering.follow(Reading { steady: self.steady, wall: self.wall });
            self.steering.time().as_millis()
        }

        /// Milliseconds since the start, asked every 100 ms for a number of seconds.
        fn run(&mut self, secs: i128) -> i64 {
            for _ in 0..secs * 10 {
                self.pass(SECOND / 10);
                self.now();
            }
            self.now() as i64 - (START * 1000) as i64
        }
    }

    #[test]
    fn one_wrong_reading_changes_nothing() {
        for hours in [1, -1, 24, -24, 24 * 365] {
            let mut machine = Machine::new();
            assert_eq!(machine.run(10), 10_000);
            machine.set(hours * 3_600_000);
            assert_eq!(machine.run(3), 13_000, "{hours} hours off");
            let status = machine.steering.status();
            assert_eq!(i128::from(status.offset_ms), hours * 3_600_000);
            assert_eq!(status.unsteady_for.map(|since| since.as_secs()), Some(2));
            machine.set(-hours * 3_600_000);
            assert_eq!(machine.run(100), 113_000, "and goes on counting afterwards");
            assert_eq!(machine.steering.status(), ClockStatus::default());
        }
    }

    #[test]
    fn a_step_that_lasts_is_adopted() {
        // The step in milliseconds; what time shows 29 s, 32 s and 100 s later.
        for (step, before, adopted, after) in [
            (500, 29_500, 32_500, 100_500),
            (-500, 28_500, 31_500, 99_500),
            (20_000, 29_000, 52_000, 120_000),
            (3_600_000, 29_000, 3_632_000, 3_700_000),
            (-3_600_000, 29_000, -3_568_000, -3_500_000),
            // Half speed from the 30th second on, until the last second is made up for slowly.
            (-20_000, 29_000, 31_050, 80_000),
        ] {
            let mut machine = Machine::new();
            machine.set(step);
            assert_eq!(machine.run(29), before, "{step}");
            let shown = machine.run(3);
            assert!((shown - adopted).abs() <= 50, "{step}: {shown}");
            assert_eq!(machine.run(68), after, "{step}");
            assert_eq!(machine.steering.status(), ClockStatus::default());
        }
    }

    #[test]
    fn time_that_passes_while_the_process_is_stopped_counts() {
        let mut machine = Machine::new();
        machine.pass(30 * SECOND);
        assert_eq!(machine.run(0), 30_000, "stopped or suspended");
        // A virtual machine that was paused: the wall clock is set right some seconds later.
        machine.run(5);
        machine.set(600_000);
        assert_eq!(machine.run(29), 64_000);
        assert_eq!(machine.run(2), 666_000);
    }

    #[test]
    fn steps_to_different_times_are_not_one() {
        let mut machine = Machine::new();
        for n in 1..20 {
            machine.set(3_600_000);
            assert_eq!(machine.run(20), n * 20_000);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test compares with it")]
    fn the_machine_has_both_clocks() {
        let clock = SystemClock::new();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(clock.now().as_millis().abs_diff(wall) < 60_000);
        let first = clock.now();
        while clock.now() == first {}
        assert!(clock.now() > first, "it goes on");
        assert!(clock.status().is_steady());
    }

    proptest! {
        /// Whatever the wall clock shows for one reading: time goes on, a twentieth slower or
        /// faster at most.
        #[test]
        fn time_goes_on(
            readings in prop::collection::vec((1..40_000i128, 0..100_000i128), 1..200),
        ) {
            let mut machine = Machine::new();
            let mut last = machine.now();
            for (n, (pass, wrong_by)) in readings.into_iter().enumerate() {
                machine.pass(pass * 1_000_000);
                let wrong_by = if n % 2 == 0 { wrong_by } else { -wrong_by };
                machine.set(wrong_by);
                let now = machine.now();
                machine.set(-wrong_by);
                let gone = i128::from(now) - i128::from(last);
                prop_assert!((gone - pass).abs() <= pass / 20 + 1, "{gone} ms instead of {pass}");
                last = now;
            }
        }

        /// Whatever happened before, a wall clock that keeps its time is followed in the end.
        #[test]
        fn a_wall_clock_that_keeps_its_time_is_followed(
            moves in prop::collection::vec((1..5_000i128, -90_000..90_000i128), 1..50),
        ) {
            let mut machine = Machine::new();
            for (pass, set) in moves {
                machine.pass(pass * 1_000_000);
                machine.set(set);
                machine.now();
            }
            machine.run(120);
            prop_assert_eq!(i128::from(machine.now()), machine.wall / 1_000_000);
            prop_assert!(machine.steering.status().is_steady());
        }
    }
}
