//! The state of one destination: its concurrency limit and its circuit breaker.
//!
//! A pure state machine; the caller passes the time. Its circuit has two states, which users see:
//!
//! - **ok**: deliveries are sent, at most [`Bounds::max_in_flight`] at once. Each sign of overload
//!   halves that limit, and each window of successes adds one to it;
//! - **open**: after [`Bounds::failures_to_open`] failures in a row. One delivery at a time is sent
//!   as a probe, with growing pauses between probes. A success closes the circuit.
//!
//! Nothing keeps a destination from being probed. Where nothing has succeeded for
//! [`Bounds::suspend_after`], each failure says that its subscription should be suspended.

use std::time::Duration;

use zaqar_core::Timestamp;

/// Limits of each destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Deliveries in flight at once, at most; at least 1.
    pub max_in_flight: u32,
    /// Failures in a row that open the circuit; at least 1.
    pub failures_to_open: u32,
    /// The pause before the first probe.
    pub first_pause: Duration,
    /// The longest pause between probes.
    pub longest_pause: Duration,
    /// A failure suspends its subscription when nothing has succeeded for this long.
    pub suspend_after: Duration,
    /// The state is forgotten when nothing was sent for this long although it could be: earlier
    /// failures say nothing about the time in between.
    pub forget_after: Duration,
}

impl Default for Bounds {
    /// 16 in flight; 5 failures; probes after 5 s to 5 min; suspended after 5 days; forgotten after
    /// an hour.
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            failures_to_open: 5,
            first_pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(300),
            suspend_after: Duration::from_secs(5 * 86_400),
            forget_after: Duration::from_secs(3600),
        }
    }
}

/// The circuit's state, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Deliveries are sent.
    Ok,
    /// Only probes are sent, the next one not before `probe`.
    Open {
        /// When the next probe may start.
        probe: Timestamp,
    },
}

/// Whether a delivery may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has started: the caller must call [`Destination::end`].
    Started,
    /// The limit in flight is reached; retry when one ends.
    Full,
    /// Not before this time.
    NotBefore(Timestamp),
}

/// The outcome of a delivery that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The receiver answered and works, even if it rejected the message.
    Working,
    /// It is overloaded (429, 503, timeouts).
    Overloaded,
    /// It fails: no connection, no answer, another 5xx.
    Failing,
    /// The delivery was given up before anything was sent.
    NotSent,
}

/// One destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    bounds: Bounds,
    circuit: Circuit,
    in_flight: u32,
    /// The present limit in flight, with fractions: it grows with each success.
    window: f64,
    failures: u32,
    pauses: u32,
    failing_since: Option<Timestamp>,
    /// When a delivery ended last.
    used: Timestamp,
}

impl Destination {
    /// A new one: circuit ok, nothing in flight.
    pub fn new(bounds: Bounds) -> Self {
        let window = f64::from(bounds.max_in_flight.max(1));
        Self {
            bounds,
            circuit: Circuit::Ok,
            in_flight: 0,
            window,
            failures: 0,
            pauses: 0,
            failing_since: None,
            used: Timestamp::from_millis(0),
        }
    }

    /// The circuit's state.
    pub const fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Deliveries in flight.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The present limit in flight; at least 1.
    pub fn window(&self) -> u32 {
        // It is between 1 and a `u32` by construction.
        self.window as u32
    }

    /// Since when nothing has succeeded; `None` if nothing failed since the last success.
    pub const fn failing_since(&self) -> Option<Timestamp> {
        self.failing_since
    }

    /// Whether this state equals that of a new destination, so that it can be dropped.
    pub fn is_idle(&self) -> bool {
        let untouched = Self { used: self.used, ..Self::new(self.bounds) };
        *self == untouched
    }

    /// When its state is forgotten, unless something is in flight.
    pub fn forgotten(&self) -> Timestamp {
        let since = match self.circuit {
            Circuit::Ok => self.used,
            Circuit::Open { probe } => probe.max(self.used),
        };
        later(since, self.bounds.forget_after)
    }

    /// Starts a delivery if that is allowed now.
    pub fn start(&mut self, now: Timestamp) -> Admission {
        if self.in_flight == 0 && now >= self.forgotten() {
            *self = Self::new(self.bounds);
        }
        let is_free = match self.circuit {
            Circuit::Open { probe } if now < probe => return Admission::NotBefore(probe),
            Circuit::Open { .. } => self.in_flight == 0,
            Circuit::Ok => self.in_flight < self.window(),
        };
        if !is_free {
            return Admission::Full;
        }
        self.in_flight += 1;
        Admission::Started
    }

    /// Ends a delivery that had started. `asked` is the time before which the receiver wants no
    /// request (`Retry-After`, within its bounds). Returns whether it has failed, and nothing has
    /// succeeded for [`Bounds::suspend_after`].
    pub fn end(&mut self, ended: Ended, asked: Option<Timestamp>, now: Timestamp) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.used = self.used.max(now);
        match ended {
            Ended::NotSent => false,
            Ended::Working => {
                self.succeeded();
                false
            }
            Ended::Overloaded => {
                self.window = (self.window / 2.0).max(1.0);
                self.failed(asked, now)
            }
            Ended::Failing => self.failed(asked, now),
        }
    }

    /// Ends a pause: the next delivery is a probe, and may start at once. What failed before counts
    /// no more for a suspension.
    pub const fn resume(&mut self, now: Timestamp) {
        self.failing_since = None;
        if !matches!(self.circuit, Circuit::Ok) {
            self.circuit = Circuit::Open { probe: now };
            self.pauses = 0;
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.pauses = 0;
        self.failing_since = None;
        let most = f64::from(self.bounds.max_in_flight.max(1));
        self.window = (self.window + 1.0 / self.window).min(most);
        self.circuit = Circuit::Ok;
    }

    fn failed(&mut self, asked: Option<Timestamp>, now: Timestamp) -> bool {
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        match self.circuit {
            // Failures of deliveries that were in flight when the circuit opened lengthen no pause.
            Circuit::Open { probe } if now < probe => {}
            Circuit::Open { .. } => self.pause(asked, now),
            Circuit::Ok if self.failures >= self.bounds.failures_to_open.max(1) => {
                self.pause(asked, now);
            }
            Circuit::Ok => {}
        }
        now >= later(since, self.bounds.suspend_after)
    }

    fn pause(&mut self, asked: Option<Timestamp>, now: Timestamp) {
        let doubled = self.bounds.first_pause.saturating_mul(1 << self.pauses.min(20));
        self.pauses = self.pauses.saturating_add(1);
        let pause = doubled.min(self.bounds.longest_pause);
        let probe = later(now, pause);
        self.circuit = Circuit::Open { probe: asked.map_or(probe, |asked| asked.max(probe)) };
    }
}

fn later(since: Timestamp, duration: Duration) -> Timestamp {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(since.as_millis().saturating_add(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn fail(destination: &mut Destination, ended: Ended, secs: u64) {
        assert_eq!(destination.start(at(secs)), Admission::Started);
        assert!(!destination.end(ended, None, at(secs)));
    }

    #[test]
    fn the_circuit_opens_probes_and_closes() {
        let mut one = Destination::new(Bounds::default());
        for _ in 0..4 {
            fail(&mut one, Ended::Failing, 100);
            assert_eq!(one.circuit(), Circuit::Ok);
        }
        fail(&mut one, Ended::Failing, 100);
        assert_eq!(one.circuit(), Circuit::Open { probe: at(105) });
        assert_eq!(one.start(at(104)), Admission::NotBefore(at(105)));
        // One probe at a time, and each pause is twice the one before, up to 300 s.
        let mut now = 105;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(one.start(at(now)), Admission::Started);
            assert_eq!(one.start(at(now)), Admission::Full);
            one.end(Ended::Failing, None, at(now));
            assert_eq!(one.circuit(), Circuit::Open { probe: at(now + pause) });
            now += pause;
        }
        assert_eq!(one.start(at(now)), Admission::Started);
        one.end(Ended::Working, None, at(now));
        assert_eq!(one.circuit(), Circuit::Ok);
        assert_eq!(one.failing_since(), None);
        // A success resets the count of failures.
        for ended in [Ended::Failing; 4].into_iter().chain([Ended::Working]) {
            fail(&mut one, ended, now);
        }
        for _ in 0..4 {
            fail(&mut one, Ended::Failing, now);
        }
        assert_eq!(one.circuit(), Circuit::Ok);
    }

    #[test]
    fn what_was_in_flight_when_it_opened_lengthens_no_pause() {
        let mut one = Destination::new(Bounds::default());
        for _ in 0..16 {
            assert_eq!(one.start(at(0)), Admission::Started);
        }
        for _ in 0..16 {
            one.end(Ended::Failing, None, at(1));
        }
        assert_eq!(one.circuit(), Circuit::Open { probe: at(6) });
    }

    #[test]
    fn a_receiver_can_ask_for_a_longer_pause() {
        let bounds = Bounds { failures_to_open: 1, ..Bounds::default() };
        let mut one = Destination::new(bounds);
        assert_eq!(one.start(at(0)), Admission::Started);
        one.end(Ended::Overloaded, Some(at(60)), at(0));
        assert_eq!(one.circuit(), Circuit::Open { probe: at(60) });
        assert_eq!(one.start(at(60)), Admission::Started);
        one.end(Ended::Overloaded, Some(at(61)), at(60));
        assert_eq!(one.circuit(), Circuit::Open { probe: at(70) });
    }

    #[test]
    fn the_window_halves_with_overload_and_grows_with_success() {
        let bounds = Bounds { max_in_flight: 8, failures_to_open: 100, ..Bounds::default() };
        let mut one = Destination::new(bounds);
        assert_eq!(one.window(), 8);
        for expected in [4, 2, 1, 1] {
            fail(&mut one, Ended::Overloaded, 0);
            assert_eq!(one.window(), expected);
        }
        fail(&mut one, Ended::Failing, 0);
        assert_eq!(one.window(), 1);
        // About one more after each window of successes.
        let mut successes = 0;
        while one.window() < 8 {
            fail(&mut one, Ended::Working, 0);
            successes += 1;
            assert!(successes < 100);
        }
        assert!((20..40).contains(&successes), "{successes}");
        for _ in 0..1000 {
            fail(&mut one, Ended::Working, 0);
        }
        assert_eq!(one.window(), 8);
        for _ in 0..8 {
            assert_eq!(one.start(at(0)), Admission::Started);
        }
        assert_eq!(one.start(at(0)), Admission::Full);
        one.end(Ended::NotSent, None, at(0));
        assert_eq!(one.start(at(0)), Admission::Started);
    }

    /// Fails all probes until one tells that its subscription should be suspended.
    fn fail_for_days(one: &mut Destination, since: u64) -> Timestamp {
        let mut now = at(since);
        loop {
            match one.start(now) {
                Admission::Started if one.end(Ended::Failing, None, now) => return now,
                Admission::Started => {}
                Admission::NotBefore(later) => now = later,
                Admission::Full => unreachable!("nothing is in flight"),
            }
        }
    }

    #[test]
    fn failures_after_days_without_success_suspend_and_the_next_one_is_probed() {
        let mut dead = Destination::new(Bounds::default());
        let now = fail_for_days(&mut dead, 0);
        let days = now.as_secs() as f64 / 86_400.0;
        assert!((5.0..5.01).contains(&days), "{days}");
        let probe = now.plus_secs(300);
        assert_eq!(dead.start(now), Admission::NotBefore(probe));
        assert_eq!(dead.start(probe), Admission::Started);
        assert!(dead.end(Ended::Failing, None, probe), "the next one is suspended too");
        // One that is resumed has as long as the first.
        dead.resume(probe);
        assert_eq!(dead.start(probe), Admission::Started);
        assert!(!dead.end(Ended::Failing, None, probe));
        let probe = probe.plus_secs(300);
        assert_eq!(dead.start(probe), Admission::Started);
        assert!(!dead.end(Ended::Working, None, probe));
        assert_eq!(dead.circuit(), Circuit::Ok);
    }

    #[test]
    fn failures_that_are_far_apart_say_nothing_about_the_time_between_them() {
        let bounds = Bounds { failures_to_open: 2, ..Bounds::default() };
        let mut one = Destination::new(bounds);
        for day in 0..20 {
            fail(&mut one, Ended::Failing, day * 86_400);
            assert_eq!((one.circuit(), one.failures), (Circuit::Ok, 1));
        }
        // A pause that the receiver asked for is no time without use.
        let asked = at(30 * 86_400);
        assert_eq!(one.start(at(20 * 86_400)), Admission::Started);
        one.end(Ended::Failing, Some(asked), at(20 * 86_400));
        fail(&mut one, Ended::Failing, 20 * 86_400);
        let probe = at(20 * 86_400 + 5);
        assert_eq!(one.circuit(), Circuit::Open { probe });
        assert_eq!(one.start(probe), Admission::Started);
        one.end(Ended::Failing, Some(asked), probe);
        assert_eq!(one.start(at(29 * 86_400)), Admission::NotBefore(asked));
    }

    #[test]
    fn only_an_untouched_state_is_idle() {
        let mut one = Destination::new(Bounds::default());
        assert!(one.is_idle());
        assert_eq!(one.start(at(0)), Admission::Started);
        assert!(!one.is_idle());
        one.end(Ended::Working, None, at(0));
        assert!(one.is_idle());
        fail(&mut one, Ended::Failing, 0);
        assert!(!one.is_idle());
    }
}
