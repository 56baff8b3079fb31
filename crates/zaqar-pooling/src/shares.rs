//! Bounds how much of a kind of work runs concurrently: in all, and of each owner, so that one
//! whose work hangs leaves room for others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Permits, of which each owner may hold a share.
pub(crate) struct Shares<K> {
    total: usize,
    held: Mutex<Held<K>>,
}

struct Held<K> {
    count: usize,
    by_owner: HashMap<K, usize>,
}

/// A permit for work of some owners; it is given back when it is dropped.
pub(crate) struct SharePermit<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    owners: Vec<K>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// `total` permits.
    pub(crate) fn new(total: usize) -> Self {
        Self { total, held: Mutex::new(Held { count: 0, by_owner: HashMap::new() }) }
    }

    /// A permit for work that has several owners, each with its bound; `None` if no permit is left,
    /// or one of them holds as many as it may.
    pub(crate) fn try_acquire(self: &Arc<Self>, owners: &[(K, usize)]) -> Option<SharePermit<K>> {
        let mut held = self.held();
        let has_share = |(owner, bound): &(K, usize)| {
            held.by_owner.get(owner).is_none_or(|count| count < bound)
        };
        if held.count >= self.total || !owners.iter().all(has_share) {
            return None;
        }
        held.count += 1;
        let owners: Vec<_> = owners.iter().map(|(owner, _)| owner.clone()).collect();
        for owner in &owners {
            *held.by_owner.entry(owner.clone()).or_default() += 1;
        }
        drop(held);
        Some(SharePermit { shares: Arc::clone(self), owners })
    }
}

impl<K> Shares<K> {
    fn held(&self) -> MutexGuard<'_, Held<K>> {
        // No critical section leaves the counts inconsistent.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for SharePermit<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.count = held.count.saturating_sub(1);
        for owner in &self.owners {
            let Some(count) = held.by_owner.get_mut(owner) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.by_owner.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_has_a_share_of_all() {
        let shares = Arc::new(Shares::new(3));
        let acquire = |owners: &[(&'static str, usize)]| shares.try_acquire(owners);
        let first = acquire(&[("pool", 2), ("queue", 1)]).unwrap();
        assert!(acquire(&[("pool", 2), ("queue", 1)]).is_none(), "the queue has its share");
        let _second = acquire(&[("pool", 2), ("another", 1)]).unwrap();
        assert!(acquire(&[("pool", 2), ("third", 1)]).is_none(), "the pool has its share");
        let _third = acquire(&[("other pool", 2)]).unwrap();
        assert!(acquire(&[("idle pool", 2)]).is_none(), "there are three in all");
        drop(first);
        let _again = acquire(&[("pool", 2), ("queue", 1)]).unwrap();
        assert_eq!(shares.held().by_owner.len(), 4, "no owner without permits");
    }
}
