//! Posts that were answered and are still being applied: their messages get their positions in the
//! background.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mongodb::bson::Binary;
use tokio::task::JoinHandle;

/// The last pending post of each queue.
#[derive(Debug, Default)]
pub(crate) struct PendingPosts {
    posts: Mutex<HashMap<String, PendingPost>>,
}

/// A pending post; its task returns whether it was applied.
#[derive(Debug)]
pub(crate) struct PendingPost {
    op: Binary,
    task: JoinHandle<bool>,
}

impl PendingPost {
    /// Waits for it. Returns its intent, which may be removed from the head; `None` if applying it
    /// failed.
    pub(crate) async fn done(self) -> Option<Binary> {
        matches!(self.task.await, Ok(true)).then_some(self.op)
    }
}

impl PendingPosts {
    /// Registers a pending post. An earlier one that it replaces does not remove its intent; others
    /// do.
    pub(crate) fn put(&self, queue: &str, op: Binary, task: JoinHandle<bool>) {
        if task.is_finished() {
            return;
        }
        self.posts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(queue.to_owned(), PendingPost { op, task });
    }

    /// Takes a post over from its task: the caller then has to remove its intent.
    pub(crate) fn take(&self, queue: &str) -> Option<PendingPost> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).remove(queue)
    }

    /// Unregisters a post. Returns whether nobody has taken it over.
    pub(crate) fn forget(&self, queue: &str, op: &Binary) -> bool {
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = posts.get(queue).is_some_and(|post| post.op == *op);
        if is_there {
            posts.remove(queue);
        }
        is_there
    }
}
