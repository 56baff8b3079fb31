//! Remembers which queues had large answers lately. How large a claim or a pop becomes is known
//! only when it is answered, so the next one of such a queue uses the connections for large
//! answers, where it delays no small ones.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Value;
use zaqar_core::QueueKey;

use crate::peer::{LARGE_BYTES, Lane};

/// Queues that are remembered. Past this number they are learned anew.
const MAX_QUEUES: usize = 1024;

/// The queues whose last answer with messages was large.
#[derive(Debug, Default)]
pub(crate) struct AnswerSizes(Mutex<HashSet<QueueKey>>);

impl AnswerSizes {
    /// The connections for a call whose answer has messages of this queue.
    pub(crate) fn lane(&self, key: &QueueKey) -> Lane {
        if self.lock().contains(key) { Lane::Large } else { Lane::Small }
    }

    /// Notes the bytes of such an answer.
    pub(crate) fn note(&self, key: &QueueKey, bytes: usize) {
        let is_large = bytes > LARGE_BYTES;
        let mut queues = self.lock();
        if !is_large {
            queues.remove(key);
        } else if !queues.contains(key) {
            if queues.len() == MAX_QUEUES {
                queues.clear();
            }
            queues.insert(key.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<QueueKey>> {
        // No code panics while it holds the lock, and every state is valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of the strings of an answer of a script.
#[expect(clippy::wildcard_enum_match_arm, reason = "scripts answer lists, strings and numbers")]
pub(crate) fn size(answer: &Value) -> usize {
    match answer {
        Value::BulkString(bytes) => bytes.len(),
        Value::Array(values) => values.iter().map(size).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::{Kind, ProjectId, QueueName};

    use super::*;

    fn key(name: &str) -> QueueKey {
        let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new(name).unwrap());
        QueueKey { project, kind: Kind::Queue, name }
    }

    fn answer(bytes: usize) -> usize {
        size(&Value::Array(vec![Value::Int(1), Value::BulkString(vec![b'x'; bytes])]))
    }

    #[test]
    fn a_queue_with_a_large_answer_uses_the_large_connections_next() {
        let sizes = AnswerSizes::default();
        sizes.note(&key("large"), answer(LARGE_BYTES + 1));
        sizes.note(&key("small"), answer(LARGE_BYTES));
        assert_eq!(sizes.lane(&key("large")), Lane::Large);
        assert_eq!(sizes.lane(&key("small")), Lane::Small);
        sizes.note(&key("large"), answer(1));
        assert_eq!(sizes.lane(&key("large")), Lane::Small);
    }

    #[test]
    fn a_bounded_number_of_queues_is_remembered() {
        let sizes = AnswerSizes::default();
        let large = answer(LARGE_BYTES + 1);
        for number in 0..=MAX_QUEUES {
            sizes.note(&key(&format!("q{number}")), large);
        }
        assert_eq!(sizes.lock().len(), 1);
    }
}
