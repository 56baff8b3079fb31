//! What goes on after its answer: posts whose messages get their positions.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mongodb::bson::Binary;
use tokio::task::JoinHandle;

/// The last post of each queue that is on its way to its positions.
#[derive(Debug, Default)]
pub(crate) struct Placing {
    posts: Mutex<HashMap<String, Post>>,
}

/// A post on its way; its task says whether it has arrived.
#[derive(Debug)]
pub(crate) struct Post {
    op: Binary,
    task: JoinHandle<bool>,
}

impl Post {
    /// Its step, once it is carried out and may be struck off; `None` where it failed.
    pub(crate) async fn done(self) -> Option<Binary> {
        matches!(self.task.await, Ok(true)).then_some(self.op)
    }
}

impl Placing {
    /// Remembers a post on its way. An earlier one that nobody took over strikes off nothing:
    /// others do.
    pub(crate) fn put(&self, queue: &str, op: Binary, task: JoinHandle<bool>) {
        if task.is_finished() {
            return;
        }
        self.posts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(queue.to_owned(), Post { op, task });
    }

    /// Takes a post over from its task: who does so strikes it off.
    pub(crate) fn take(&self, queue: &str) -> Option<Post> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).remove(queue)
    }

    /// Forgets a post; whether nobody has taken it over.
    pub(crate) fn forget(&self, queue: &str, op: &Binary) -> bool {
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = posts.get(queue).is_some_and(|post| post.op == *op);
        if is_there {
            posts.remove(queue);
        }
        is_there
    }
}
