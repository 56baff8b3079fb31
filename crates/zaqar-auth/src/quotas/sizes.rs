//! Estimates the bytes of a queue's messages from their number and from recent posts.

use std::collections::VecDeque;

use zaqar_api::Amount;

/// Recorded posts, at most; then neighbours are merged.
const MAX_POSTS: usize = 64;

/// The posts to a queue through this server, oldest first.
///
/// Stores count messages, not bytes. A queue is read from its head, so the messages that remain are
/// the last ones posted: their bytes follow from their number and the sizes of the last posts.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    posts: VecDeque<Amount>,
    /// Mean size of messages that were posted before, or through another server.
    sample: Option<u64>,
}

impl Sizes {
    /// Records a post.
    pub(super) fn posted(&mut self, post: Amount) {
        if post.messages == 0 {
            return;
        }
        self.posts.push_back(post);
        if self.posts.len() > MAX_POSTS {
            let mut halved = VecDeque::with_capacity(MAX_POSTS);
            while let Some(first) = self.posts.pop_front() {
                let second = self.posts.pop_front().unwrap_or_default();
                halved.push_back(first.plus(second));
            }
            self.posts = halved;
        }
    }

    /// Forgets a post that failed, if it is not among those that are too old to matter.
    pub(super) fn take_back(&mut self, post: Amount) {
        if let Some(at) = self.posts.iter().rposition(|one| *one == post) {
            self.posts.remove(at);
            return;
        }
        // It is part of a merged post.
        let has = |one: &&mut Amount| one.messages > post.messages && one.bytes >= post.bytes;
        if let Some(one) = self.posts.iter_mut().rev().find(has) {
            *one = one.minus(post);
        }
    }

    /// Whether the sizes of so many messages cannot be said without a look at some of them.
    pub(super) fn needs_sample(&self, messages: u64) -> bool {
        let known: u64 = self.posts.iter().map(|post| post.messages).sum();
        self.sample.is_none() && known < messages
    }

    /// Records the mean size of some messages of the queue.
    pub(super) fn sampled(&mut self, mean: u64) {
        self.sample = Some(mean);
    }

    /// The bytes of the last `messages` messages. Forgets older posts.
    pub(super) fn bytes_of(&mut self, messages: u64) -> u64 {
        let (mut rest, mut bytes, mut used) = (messages, 0_u64, 0);
        for post in self.posts.iter().rev() {
            if rest == 0 {
                break;
            }
            used += 1;
            let part = rest.min(post.messages);
            let share = u128::from(post.bytes) * u128::from(part) / u128::from(post.messages);
            bytes = bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
            rest -= part;
        }
        self.posts.drain(..self.posts.len() - used);
        if messages == 0 {
            self.sample = None;
        }
        bytes.saturating_add(rest.saturating_mul(self.mean()))
    }

    /// Mean size of a message that this server did not see: from the sample, else from the posts it
    /// saw.
    fn mean(&self) -> u64 {
        let seen = self.posts.iter().copied().fold(Amount::default(), Amount::plus);
        self.sample.or_else(|| seen.bytes.checked_div(seen.messages)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_messages_are_the_last_ones_posted() {
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
    fn unseen_messages_have_the_size_of_the_sample() {
        let mut sizes = Sizes::default();
        assert!(sizes.needs_sample(3) && !sizes.needs_sample(0));
        sizes.sampled(100);
        sizes.posted(Amount { messages: 1, bytes: 7 });
        assert!(!sizes.needs_sample(3));
        assert_eq!(sizes.bytes_of(3), 207);
    }

    #[test]
    fn a_post_that_failed_is_forgotten() {
        let (mut sizes, failed) = (Sizes::default(), Amount { messages: 2, bytes: 9000 });
        sizes.posted(Amount { messages: 1, bytes: 10 });
        sizes.posted(failed);
        sizes.posted(Amount { messages: 1, bytes: 30 });
        sizes.take_back(failed);
        assert_eq!(sizes.bytes_of(2), 40);
        // Also where steps became one.
        sizes.posted(failed);
        for _ in 0..MAX_POSTS {
            sizes.posted(Amount { messages: 1, bytes: 1 });
        }
        sizes.take_back(failed);
        assert_eq!(sizes.bytes_of(MAX_POSTS as u64 + 2), MAX_POSTS as u64 + 40);
    }

    #[test]
    fn many_posts_take_bounded_room_and_lose_no_byte() {
        let mut sizes = Sizes::default();
        for n in 0..10_000 {
            sizes.posted(Amount { messages: 1, bytes: n });
        }
        assert!(sizes.posts.len() <= MAX_POSTS);
        assert_eq!(sizes.bytes_of(10_000), (0..10_000).sum::<u64>());
    }
}
