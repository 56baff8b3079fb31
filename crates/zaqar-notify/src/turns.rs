//! Which queues are expanded, and which wait for their turn. A queue whose store does not answer
//! delays no other, as long as fewer than [`ALL`] such queues come up at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use zaqar_core::QueueKey;

/// Queues that wait, and queues that are remembered as slow, at most.
const REMEMBERED: usize = 10_000;
/// Expansions that run at once, but for slow ones.
const QUICK: usize = 8;
/// An expansion that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Queues that are begun although their last expansion failed or was slow: at most as long as no
/// more than these are slow.
const TROUBLED: usize = 32;
/// Expansions that run at once, slow ones too. Each holds some 64 KiB of bodies, or one entry.
const ALL: usize = 64;

/// Why a queue is expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It has news.
    News,
    /// A look-up in the outbox named it.
    LookUp,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    reason: Reason,
    was_troubled: bool,
}

impl Running {
    fn is_slow(&self, now: Instant) -> bool {
        self.was_troubled || now.duration_since(self.since) >= SLOW
    }
}

/// The queues that are expanded or wait. Each is expanded once at a time.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: HashMap<QueueKey, Reason>,
    /// Those that wait and are not running, in their order.
    order: VecDeque<QueueKey>,
    /// Likewise, those whose last expansion failed or was slow.
    troubled_order: VecDeque<QueueKey>,
    running: HashMap<QueueKey, Running>,
    troubled: HashSet<QueueKey>,
}

impl Turns {
    /// Adds a queue: with news once more if it is running, by a look-up only if it is not. Returns
    /// whether it is known to wait now; it does not if too many do.
    pub(crate) fn add(&mut self, key: QueueKey, reason: Reason) -> bool {
        if self.waiting.contains_key(&key) {
            return true;
        }
        let is_running = self.running.contains_key(&key);
        if self.waiting.len() >= REMEMBERED || (is_running && reason == Reason::LookUp) {
            return false;
        }
        if !is_running {
            self.line_up(key.clone());
        }
        self.waiting.insert(key, reason);
        true
    }

    fn line_up(&mut self, key: QueueKey) {
        let is_troubled = self.troubled.contains(&key);
        let order = if is_troubled { &mut self.troubled_order } else { &mut self.order };
        order.push_back(key);
    }

    /// The next queue to expand, which is running then.
    pub(crate) fn next(&mut self, now: Instant) -> Option<QueueKey> {
        let slow = self.running.values().filter(|one| one.is_slow(now)).count();
        let quick = self.running.len() - slow;
        let (key, was_troubled) = if self.running.len() < ALL
            && quick < QUICK
            && let Some(key) = self.order.pop_front()
        {
            (key, false)
        } else if slow < TROUBLED {
            (self.troubled_order.pop_front()?, true)
        } else {
            return None;
        };
        let reason = self.waiting.remove(&key).unwrap_or(Reason::News);
        self.running.insert(key.clone(), Running { since: now, reason, was_troubled });
        Some(key)
    }

    /// Ends an expansion. Returns why it was made.
    pub(crate) fn end(&mut self, key: &QueueKey, has_failed: bool, now: Instant) -> Option<Reason> {
        let Running { since, reason, .. } = self.running.remove(key)?;
        if !has_failed && now.duration_since(since) < SLOW {
            self.troubled.remove(key);
        } else if self.troubled.len() < REMEMBERED {
            self.troubled.insert(key.clone());
        }
        if self.waiting.contains_key(key) {
            self.line_up(key.clone());
        }
        Some(reason)
    }

    /// When the next expansion becomes slow, if a queue waits for that.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        let quick = self.running.values().filter(|one| !one.is_slow(now));
        let first = quick.map(|one| one.since + SLOW).min();
        first.filter(|_| !self.order.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::{Kind, ProjectId, QueueName};

    use super::*;

    fn key(number: usize) -> QueueKey {
        let name = QueueName::new(&format!("q{number}")).unwrap();
        QueueKey { project: ProjectId::new("p").unwrap(), kind: Kind::Queue, name }
    }

    /// How many are begun now.
    fn begun(turns: &mut Turns, now: Instant) -> usize {
        std::iter::from_fn(|| turns.next(now)).count()
    }

    #[test]
    fn those_that_have_become_slow_leave_their_turns_to_others() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        (0..100).for_each(|number| assert!(turns.add(key(number), Reason::News)));
        assert_eq!(begun(&mut turns, start), QUICK);
        assert_eq!(turns.next_change(start), Some(start + SLOW));
        assert_eq!(begun(&mut turns, start + SLOW), QUICK);
        let all = (2..20).map(|times| begun(&mut turns, start + SLOW * times)).sum::<usize>();
        assert_eq!(2 * QUICK + all, ALL);
    }

    #[test]
    fn those_that_failed_keep_no_turn_from_the_others() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        for number in 0..200 {
            turns.add(key(number), Reason::LookUp);
            assert_eq!(turns.next(start), Some(key(number)));
            turns.end(&key(number), true, start);
        }
        (0..200).for_each(|number| assert!(turns.add(key(number), Reason::LookUp)));
        assert_eq!(begun(&mut turns, start), TROUBLED);
        assert!(turns.next_change(start).is_none(), "no other waits");
        turns.add(key(200), Reason::LookUp);
        assert_eq!(turns.next(start), Some(key(200)));
        assert_eq!(turns.end(&key(200), false, start), Some(Reason::LookUp));
        // One that works again has its turn as before.
        assert_eq!(turns.end(&key(0), false, start), Some(Reason::LookUp));
        assert_eq!(begun(&mut turns, start), 1, "another that failed");
        turns.add(key(0), Reason::LookUp);
        assert_eq!(turns.next(start), Some(key(0)));
    }

    #[test]
    fn a_queue_runs_once_at_a_time_and_again_if_it_has_news_meanwhile() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        assert!(turns.add(key(1), Reason::LookUp));
        assert!(turns.add(key(1), Reason::News));
        assert_eq!(begun(&mut turns, start), 1);
        assert!(!turns.add(key(1), Reason::LookUp), "it is running");
        assert!(turns.add(key(1), Reason::News));
        assert_eq!(begun(&mut turns, start), 0);
        assert_eq!(turns.end(&key(1), false, start), Some(Reason::LookUp));
        assert_eq!(turns.next(start), Some(key(1)));
        assert_eq!(turns.end(&key(1), false, start), Some(Reason::News));
        assert_eq!(begun(&mut turns, start), 0);
        assert!(turns.waiting.is_empty() && turns.running.is_empty());
    }

    #[test]
    fn only_so_many_wait() {
        let mut turns = Turns::default();
        (0..REMEMBERED).for_each(|number| assert!(turns.add(key(number), Reason::News)));
        assert!(!turns.add(key(REMEMBERED), Reason::News));
    }
}
