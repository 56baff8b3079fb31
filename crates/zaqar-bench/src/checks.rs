//! What a queue promises, checked while the benchmark runs: nothing lost, nothing twice, in order.

use std::collections::HashMap;

use serde::Serialize;
use tokio::time::Instant;

use crate::envelope::Label;

/// Examples of faults that are kept.
const EXAMPLES: usize = 10;

/// What is known of each message. Two bits a message, and an entry for each that is held.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    posted: Vec<Bits>,
    deleted: Vec<Bits>,
    /// Messages that a consumer holds, and until when at least.
    held: HashMap<(u32, u64), (usize, Instant)>,
    /// A claim without an answer may hold messages, which come late when it expires.
    has_unanswered_claim: bool,
    pub(crate) faults: Faults,
}

/// What went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Messages that were acknowledged, and that nobody got.
    pub(crate) lost: u64,
    /// Messages that two consumers held at once.
    pub(crate) claimed_twice: u64,
    /// Messages that were got after their deletion was acknowledged.
    pub(crate) back_from_deletion: u64,
    /// Messages that came behind later ones of the same producer.
    pub(crate) out_of_order: u64,
    /// Messages that a reader saw twice.
    pub(crate) seen_twice: u64,
    /// The first faults, in words.
    pub(crate) examples: Vec<String>,
}

impl Faults {
    /// All of them.
    pub(crate) const fn total(&self) -> u64 {
        self.lost
            + self.claimed_twice
            + self.back_from_deletion
            + self.out_of_order
            + self.seen_twice
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

impl Checks {
    pub(crate) fn new(producers: usize) -> Self {
        let bits = || vec![Bits::default(); producers];
        Self { posted: bits(), deleted: bits(), ..Self::default() }
    }

    /// The server acknowledged the post.
    pub(crate) fn posted(&mut self, label: Label) {
        if let Some(bits) = self.posted.get_mut(label.producer as usize) {
            bits.set(label.number);
        }
    }

    /// A consumer got messages, in this order, for at least until then.
    pub(crate) fn claimed(
        &mut self,
        consumer: usize,
        order: &mut Order,
        labels: &[Label],
        until: Instant,
    ) {
        let now = Instant::now();
        for &label in labels {
            let key = (label.producer, label.number);
            if self.is_deleted(label) {
                self.faults.back_from_deletion += 1;
                self.faults.example(|| format!("{} was claimed after its deletion", name(label)));
            }
            if let Some(&(holder, held_until)) = self.held.get(&key) {
                if holder != consumer && now < held_until {
                    self.faults.claimed_twice += 1;
                    self.faults.example(|| {
                        format!("{} was claimed by consumers {holder} and {consumer}", name(label))
                    });
                }
            } else if !self.has_unanswered_claim {
                // What comes again, after a claim that ended, comes late.
                self.check_order(order, label, "claimed");
            }
            self.held.insert(key, (consumer, until));
        }
    }

    /// A reader saw a message on a page.
    pub(crate) fn seen(&mut self, order: &mut Order, label: Label) {
        if order.last(label) == Some(label.number) {
            self.faults.seen_twice += 1;
            self.faults.example(|| format!("{} was listed twice", name(label)));
            return;
        }
        self.check_order(order, label, "listed");
    }

    fn check_order(&mut self, order: &mut Order, label: Label, what: &str) {
        if let Some(later) = order.see(label) {
            self.faults.out_of_order += 1;
            self.faults.example(|| format!("{} was {what} after number {later}", name(label)));
        }
    }

    /// The server acknowledged the deletion.
    pub(crate) fn deleted(&mut self, label: Label) {
        self.held.remove(&(label.producer, label.number));
        if let Some(bits) = self.deleted.get_mut(label.producer as usize) {
            bits.set(label.number);
        }
    }

    /// The claim that holds it ends now: it may come again, and late.
    pub(crate) fn released(&mut self, label: Label) {
        if let Some((_, until)) = self.held.get_mut(&(label.producer, label.number)) {
            *until = Instant::now();
        }
    }

    /// Nobody knows what a claim holds. The order of what is claimed is not checked any more.
    pub(crate) fn claim_unanswered(&mut self) {
        self.has_unanswered_claim = true;
    }

    /// Whether the order of what is claimed is checked.
    pub(crate) const fn checks_order(&self) -> bool {
        !self.has_unanswered_claim
    }

    /// Nobody knows whether the server deleted it: it may be gone without being lost.
    pub(crate) fn maybe_deleted(&mut self, label: Label) {
        if let Some(bits) = self.posted.get_mut(label.producer as usize) {
            bits.clear(label.number);
        }
    }

    fn is_deleted(&self, label: Label) -> bool {
        let bits = self.deleted.get(label.producer as usize);
        bits.is_some_and(|bits| bits.has(label.number))
    }

    /// Messages that were acknowledged and not deleted.
    pub(crate) fn left(&self) -> u64 {
        self.posted.iter().zip(&self.deleted).map(|(posted, deleted)| posted.without(deleted)).sum()
    }

    /// What is left is lost: the consumers found nothing more.
    pub(crate) fn count_lost(&mut self) {
        self.faults.lost = self.left();
        for (producer, (posted, deleted)) in self.posted.iter().zip(&self.deleted).enumerate() {
            if let Some(number) = posted.first_without(deleted) {
                self.faults.example(|| {
                    format!("number {number} of producer {producer} was acknowledged and is lost")
                });
            }
        }
    }
}

fn name(label: Label) -> String {
    format!("number {} of producer {}", label.number, label.producer)
}

/// The last message of each producer that one consumer or reader got.
#[derive(Debug, Default)]
pub(crate) struct Order(HashMap<u32, u64>);

impl Order {
    fn last(&self, label: Label) -> Option<u64> {
        self.0.get(&label.producer).copied()
    }

    /// The number that came before although it is later.
    fn see(&mut self, label: Label) -> Option<u64> {
        let last = self.0.entry(label.producer).or_insert(label.number);
        if *last > label.number {
            return Some(*last);
        }
        *last = label.number;
        None
    }
}

/// A set of numbers from 0.
#[derive(Debug, Clone, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, number: u64) {
        let Ok(at) = usize::try_from(number / 64) else { return };
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: u64) {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.0.get_mut(at));
        if let Some(word) = word {
            *word &= !(1 << (number % 64));
        }
    }

    fn has(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn words<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let others = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0.iter().zip(others).map(|(word, other)| word & !other)
    }

    fn without(&self, other: &Self) -> u64 {
        self.words(other).map(|word| u64::from(word.count_ones())).sum()
    }

    fn first_without(&self, other: &Self) -> Option<u64> {
        let (at, word) = self.words(other).enumerate().find(|(_, word)| *word != 0)?;
        Some(at as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn label(producer: u32, number: u64) -> Label {
        Label { run: 1, producer, number, due_us: 0 }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_good_queue_has_no_fault() {
        let (mut checks, mut order) = (Checks::new(2), Order::default());
        for number in 0..200 {
            checks.posted(label(0, number));
            checks.posted(label(1, number));
        }
        for number in 0..200 {
            let labels = [label(1, number), label(0, number)];
            checks.claimed(0, &mut order, &labels, later());
            labels.into_iter().for_each(|label| checks.deleted(label));
        }
        checks.count_lost();
        assert_eq!((checks.faults.total(), checks.held.len()), (0, 0));
    }

    #[test]
    fn each_fault_is_found() {
        let (mut checks, mut order) = (Checks::new(1), Order::default());
        for number in 0..70 {
            checks.posted(label(0, number));
        }
        checks.claimed(0, &mut order, &[label(0, 5)], later());
        checks.claimed(1, &mut Order::default(), &[label(0, 5)], later());
        assert_eq!(checks.faults.claimed_twice, 1);
        checks.deleted(label(0, 5));
        checks.claimed(1, &mut Order::default(), &[label(0, 5)], later());
        assert_eq!(checks.faults.back_from_deletion, 1);
        checks.claimed(0, &mut order, &[label(0, 4)], later());
        assert_eq!(checks.faults.out_of_order, 1);
        let mut reader = Order::default();
        checks.seen(&mut reader, label(0, 1));
        checks.seen(&mut reader, label(0, 1));
        assert_eq!(checks.faults.seen_twice, 1);
        (0..66).for_each(|number| checks.deleted(label(0, number)));
        assert_eq!(checks.left(), 4);
        checks.maybe_deleted(label(0, 69));
        checks.count_lost();
        assert_eq!((checks.faults.lost, checks.faults.total()), (3, 7));
        assert!(checks.faults.examples.last().unwrap().starts_with("number 66 of producer 0"));
    }

    #[test]
    fn a_claim_that_ended_is_no_fault() {
        let mut checks = Checks::new(1);
        let (mut one, mut other) = (Order::default(), Order::default());
        checks.claimed(0, &mut one, &[label(0, 1)], Instant::now());
        checks.claimed(1, &mut other, &[label(0, 2)], later());
        checks.claimed(1, &mut other, &[label(0, 1)], later());
        assert_eq!(checks.faults.total(), 0, "{:?}", checks.faults);
    }

    #[test]
    fn a_deletion_that_failed_is_no_fault() {
        let mut checks = Checks::new(1);
        let (mut one, mut other) = (Order::default(), Order::default());
        let labels = [label(0, 1), label(0, 2)];
        labels.into_iter().for_each(|label| checks.posted(label));
        checks.claimed(0, &mut one, &labels, later());
        labels.into_iter().for_each(|label| checks.released(label));
        checks.maybe_deleted(label(0, 2));
        checks.claimed(1, &mut other, &[label(0, 3)], later());
        // The server did neither: both come again, and late.
        checks.claimed(1, &mut other, &labels, later());
        assert_eq!((checks.faults.total(), checks.left()), (0, 1), "{:?}", checks.faults);
    }

    #[test]
    fn messages_of_a_claim_without_an_answer_may_be_out_of_order() {
        let (mut checks, mut order) = (Checks::new(1), Order::default());
        checks.claim_unanswered();
        checks.claimed(0, &mut order, &[label(0, 2), label(0, 1)], later());
        assert_eq!((checks.faults.total(), checks.checks_order()), (0, false));
    }
}
