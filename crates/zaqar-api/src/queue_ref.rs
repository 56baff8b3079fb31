//! How a caller names a queue.

use zaqar_core::{Kind, QueueName};

/// A queue or topic of the caller's project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRef {
    /// Queue or topic.
    pub kind: Kind,
    /// Its name.
    pub name: QueueName,
}
