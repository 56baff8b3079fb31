//! The accounts of projects: only those that a holder has.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Shared;
use crate::ProjectId;

/// Shards of the map of projects, each with a lock: enough that two cores rarely contend for one.
pub(super) const SHARDS: usize = 16;

pub(super) type Projects = HashMap<Hashed, Weak<ProjectAccount>, BuildHasherDefault<Prehashed>>;

/// A project with its hash under the budget's key, which chooses the shard and the place in it.
#[derive(PartialEq, Eq)]
pub(super) struct Hashed {
    hash: u64,
    id: ProjectId,
}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The hasher of a [`Hashed`], which has its hash.
#[derive(Default)]
pub(super) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // `Hashed` writes one whole number; for anything else it is a hash all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

pub(super) struct ProjectAccount {
    pub(super) id: ProjectId,
    pub(super) in_use: AtomicUsize,
    /// The part of it that is charged to background holders.
    pub(super) background: AtomicUsize,
    shared: Arc<Shared>,
}

impl Shared {
    fn shard(&self, id: &ProjectId) -> (MutexGuard<'_, Projects>, Hashed) {
        let hash = self.hasher.hash_one(id);
        // By bits that the map does not use: the lowest and the highest choose the place in it.
        (lock(&self.projects[(hash >> 32) as usize % SHARDS]), Hashed { hash, id: id.clone() })
    }

    pub(super) fn project(self: &Arc<Self>, id: &ProjectId) -> Arc<ProjectAccount> {
        let (mut shard, key) = self.shard(id);
        if let Some(account) = shard.get(&key).and_then(Weak::upgrade) {
            return account;
        }
        let (id, shared) = (id.clone(), Arc::clone(self));
        let (in_use, background) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let account = Arc::new(ProjectAccount { id, in_use, background, shared });
        shard.insert(key, Arc::downgrade(&account));
        account
    }
}

impl Drop for ProjectAccount {
    fn drop(&mut self) {
        let (mut shard, key) = self.shared.shard(&self.id);
        // Another thread may have created a new account of this project in between.
        if shard.get(&key).is_some_and(|account| account.strong_count() == 0) {
            shard.remove(&key);
        }
    }
}

/// No code panics while it holds one of these locks.
pub(super) fn lock(shard: &Mutex<Projects>) -> MutexGuard<'_, Projects> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
