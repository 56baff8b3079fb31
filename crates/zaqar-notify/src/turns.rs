//! Which queues are expanded, and which wait for their turn. A queue whose store does not answer
//! delays no other, as long as fewer than [`ALL`] such queues come up at once. Projects have turns
//! one after the other, and none has all of what there is: see [`share`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use zaqar_core::{ProjectId, QueueKey};

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

/// How much of a bound one project may have.
const fn share(bound: usize) -> usize {
    bound * 3 / 4
}

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

/// Expansions that run.
#[derive(Debug, Clone, Copy)]
struct Counts {
    quick: usize,
    slow: usize,
}

impl Counts {
    fn of<'a>(running: impl Iterator<Item = &'a Running>, now: Instant) -> Self {
        running.fold(Self { quick: 0, slow: 0 }, |counts, one| match one.is_slow(now) {
            true => Self { slow: counts.slow + 1, ..counts },
            false => Self { quick: counts.quick + 1, ..counts },
        })
    }

    /// Whether another may begin, within what `part` leaves of each bound.
    fn leaves_one(self, part: fn(usize) -> usize) -> bool {
        self.quick < part(QUICK) && self.quick + self.slow < part(ALL)
    }

    /// Whether another may begin that failed or was slow.
    fn leaves_troubled(self, part: fn(usize) -> usize) -> bool {
        self.slow < part(TROUBLED)
    }
}

/// Queues that wait and are not running.
#[derive(Debug, Default)]
struct Line {
    /// Those of each project, in their order.
    queues: HashMap<ProjectId, VecDeque<QueueKey>>,
    /// The projects, in the order of their turns.
    projects: VecDeque<ProjectId>,
}

impl Line {
    fn push(&mut self, key: QueueKey) {
        let queues = self.queues.entry(key.project.clone()).or_default();
        if queues.is_empty() {
            self.projects.push_back(key.project.clone());
        }
        queues.push_back(key);
    }

    /// The first queue of the first project that may have its turn, which is the last one then.
    fn pop(&mut self, may_have_it: impl Fn(&ProjectId) -> bool) -> Option<QueueKey> {
        let at = self.projects.iter().position(may_have_it)?;
        let project = self.projects.remove(at)?;
        let queues = self.queues.get_mut(&project)?;
        let key = queues.pop_front();
        if queues.is_empty() {
            self.queues.remove(&project);
        } else {
            self.projects.push_back(project);
        }
        key
    }
}

/// The queues that are expanded or wait. Each is expanded once at a time.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: HashMap<QueueKey, Reason>,
    /// The number of those that wait, by project.
    waiting_of: HashMap<ProjectId, usize>,
    line: Line,
    /// Those whose last expansion failed or was slow.
    troubled_line: Line,
    running: HashMap<QueueKey, Running>,
    troubled: HashSet<QueueKey>,
}

impl Turns {
    /// Adds a queue: with news once more if it is running, by a look-up only if it is not. Returns
    /// whether it is known to wait now; it does not if too many do, in all or of its project.
    pub(crate) fn add(&mut self, key: QueueKey, reason: Reason) -> bool {
        if self.waiting.contains_key(&key) {
            return true;
        }
        let is_running = self.running.contains_key(&key);
        let of_project = self.waiting_of.get(&key.project).copied().unwrap_or(0);
        let is_full = self.waiting.len() >= REMEMBERED || of_project >= share(REMEMBERED);
        if is_full || (is_running && reason == Reason::LookUp) {
            return false;
        }
        if !is_running {
            self.line_up(key.clone());
        }
        self.waiting_of.insert(key.project.clone(), of_project + 1);
        self.waiting.insert(key, reason);
        true
    }

    fn line_up(&mut self, key: QueueKey) {
        let is_troubled = self.troubled.contains(&key);
        let line = if is_troubled { &mut self.troubled_line } else { &mut self.line };
        line.push(key);
    }

    /// The next queue to expand, which is running then.
    pub(crate) fn next(&mut self, now: Instant) -> Option<QueueKey> {
        let running = &self.running;
        let all = Counts::of(running.values(), now);
        let of = |project: &ProjectId| {
            let of_project = running.iter().filter(|(key, _)| key.project == *project);
            Counts::of(of_project.map(|(_, one)| one), now)
        };
        let (key, was_troubled) = if all.leaves_one(|bound| bound)
            && let Some(key) = self.line.pop(|project| of(project).leaves_one(share))
        {
            (key, false)
        } else if all.leaves_troubled(|bound| bound) {
            (self.troubled_line.pop(|project| of(project).leaves_troubled(share))?, true)
        } else {
            return None;
        };
        let reason = self.waiting.remove(&key).unwrap_or(Reason::News);
        if let Some(count) = self.waiting_of.get_mut(&key.project) {
            *count -= 1;
            if *count == 0 {
                self.waiting_of.remove(&key.project);
            }
        }
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
        first.filter(|_| !self.line.projects.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::{Kind, ProjectId, QueueName};

    use super::*;

    /// A queue of one of two projects.
    fn key(number: usize) -> QueueKey {
        key_of(if number.is_multiple_of(2) { "even" } else { "odd" }, number)
    }

    fn key_of(project: &str, number: usize) -> QueueKey {
        let name = QueueName::new(&format!("q{number}")).unwrap();
        QueueKey { project: ProjectId::new(project).unwrap(), kind: Kind::Queue, name }
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
        assert!(turns.waiting_of.is_empty() && turns.line.queues.is_empty());
    }

    #[test]
    fn a_project_with_many_queues_delays_no_other() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        (0..REMEMBERED).for_each(|number| {
            turns.add(key_of("busy", number), Reason::News);
        });
        assert!(!turns.add(key_of("busy", REMEMBERED), Reason::News), "it has its share");
        assert_eq!(begun(&mut turns, start), share(QUICK));
        for number in 0..REMEMBERED - share(REMEMBERED) {
            assert!(turns.add(key_of("other", number), Reason::News));
        }
        // What the busy one leaves is the other's; then each has its turn.
        assert_eq!(begun(&mut turns, start), QUICK - share(QUICK));
        let mut turn = |ended: &QueueKey| {
            turns.end(ended, false, start);
            turns.next(start).unwrap()
        };
        let next: Vec<_> = (0..4).map(|number| turn(&key_of("busy", number))).collect();
        let next: Vec<_> = next.iter().map(|key| key.project.as_str()).collect();
        assert_eq!(next, ["busy", "other", "busy", "other"]);
    }

    #[test]
    fn a_project_whose_store_does_not_answer_delays_no_other() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        (0..1000).for_each(|number| {
            turns.add(key_of("hangs", number), Reason::News);
        });
        let at = |times| start + SLOW * times;
        let hanging: usize = (0..20).map(|times| begun(&mut turns, at(times))).sum();
        assert_eq!(hanging, share(ALL));
        assert!(turns.add(key_of("other", 0), Reason::News));
        assert_eq!(turns.next(at(20)), Some(key_of("other", 0)));
        // Those that failed, too.
        let mut turns = Turns::default();
        for (project, count) in [("hangs", 100), ("other", 1)] {
            for number in 0..count {
                let key = key_of(project, number);
                turns.add(key.clone(), Reason::News);
                assert_eq!(turns.next(start), Some(key.clone()));
                turns.end(&key, true, start);
            }
        }
        (0..100).for_each(|number| {
            turns.add(key_of("hangs", number), Reason::News);
        });
        assert_eq!(begun(&mut turns, start), share(TROUBLED));
        turns.add(key_of("other", 0), Reason::News);
        assert_eq!(turns.next(start), Some(key_of("other", 0)));
    }

    #[test]
    fn only_so_many_wait() {
        let mut turns = Turns::default();
        (0..REMEMBERED).for_each(|number| assert!(turns.add(key(number), Reason::News)));
        assert!(!turns.add(key(REMEMBERED), Reason::News));
    }
}
