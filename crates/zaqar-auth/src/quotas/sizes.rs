//! How many bytes the messages of a queue have, from their number and from what was posted.

use std::collections::VecDeque;

use zaqar_api::Amount;

/// Posts are remembered in so many steps at most; then neighbours become one.
const STEPS: usize = 64;

/// What was posted to a queue through this server, oldest first.
///
/// Stores count messages, not bytes. A queue is read from its head, so what waits is what was
/// posted last: its bytes follow from the number of messages and the sizes of the last posts.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    steps: VecDeque<Amount>,
    /// Bytes of a message that was posted before, or through another server.
    sample: Option<u64>,
}

impl Sizes {
    /// Notes a post.
    pub(super) fn posted(&mut self, post: Amount) {
        if post.messages == 0 {
            return;
        }
        self.steps.push_back(post);
        if self.steps.len() > STEPS {
            let mut halved = VecDeque::with_capacity(STEPS);
            while let Some(first) = self.steps.pop_front() {
                let second = self.steps.pop_front().unwrap_or_default();
                halved.push_back(sum(first, second));
            }
            self.steps = halved;
        }
    }

    /// Whether the sizes of so many messages cannot be said without a look at some of them.
    pub(super) fn needs_sample(&self, messages: u64) -> bool {
        let known: u64 = self.steps.iter().map(|step| step.messages).sum();
        self.sample.is_none() && known < messages
    }

    /// Notes the mean size of some messages of the queue.
    pub(super) fn sampled(&mut self, mean: u64) {
        self.sample = Some(mean);
    }

    /// The bytes of the last so many messages, and forgets what was posted before them.
    pub(super) fn bytes_of(&mut self, messages: u64) -> u64 {
        let (mut rest, mut bytes, mut used) = (messages, 0_u64, 0);
        for step in self.steps.iter().rev() {
            if rest == 0 {
                break;
            }
            used += 1;
            let part = rest.min(step.messages);
            let share = u128::from(step.bytes) * u128::from(part) / u128::from(step.messages);
            bytes = bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
            rest -= part;
        }
        self.steps.drain(..self.steps.len() - used);
        if messages == 0 {
            self.sample = None;
        }
        bytes.saturating_add(rest.saturating_mul(self.mean()))
    }

    /// Bytes of a message that this server did not see: as those at the head, else as those that it
    /// saw.
    fn mean(&self) -> u64 {
        let seen = self.steps.iter().copied().fold(Amount::default(), sum);
        self.sample.or_else(|| seen.bytes.checked_div(seen.messages)).unwrap_or_default()
    }
}

fn sum(one: Amount, other: Amount) -> Amount {
    Amount {
        messages: one.messages.saturating_add(other.messages),
        bytes: one.bytes.saturating_add(other.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_was_posted_last() {
        let mut sizes = Sizes::default();
        sizes.posted(Amount { messages: 2, bytes: 2000 });
        sizes.posted(Amount { messages: 4, bytes: 40 });
        assert_eq!(sizes.bytes_of(6), 2040);
        assert_eq!(sizes.bytes_of(5), 1040);
        assert_eq!(sizes.bytes_of(4), 40);
        assert_eq!(sizes.bytes_of(1), 10);
        assert_eq!(sizes.bytes_of(0), 0);
    }

    #[test]
    fn what_was_not_seen_is_as_the_sample() {
        let mut sizes = Sizes::default();
        assert!(sizes.needs_sample(3) && !sizes.needs_sample(0));
        sizes.sampled(100);
        sizes.posted(Amount { messages: 1, bytes: 7 });
        assert!(!sizes.needs_sample(3));
        assert_eq!(sizes.bytes_of(3), 207);
    }

    #[test]
    fn many_posts_take_bounded_room_and_lose_no_byte() {
        let mut sizes = Sizes::default();
        for n in 0..10_000 {
            sizes.posted(Amount { messages: 1, bytes: n });
        }
        assert!(sizes.steps.len() <= STEPS);
        assert_eq!(sizes.bytes_of(10_000), (0..10_000).sum::<u64>());
    }
}
