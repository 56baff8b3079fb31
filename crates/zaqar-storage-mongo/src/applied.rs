//! Deduplicates the application of intents within this process: concurrent callers wait for the one
//! that applies an intent, and later callers skip it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::Binary;
use tokio::sync::OnceCell;
use zaqar_core::storage::Error;

/// About how many intents are remembered.
const REMEMBERED: usize = 4096;

/// The intents that were or are being applied, by id.
#[derive(Debug, Default)]
pub(crate) struct AppliedIntents {
    intents: Mutex<HashMap<Vec<u8>, Arc<OnceCell<u64>>>>,
}

impl AppliedIntents {
    /// Runs `work` once for this intent. Returns its result, also to later callers.
    pub(crate) async fn once(
        &self,
        op: &Binary,
        work: impl Future<Output = Result<u64, Error>>,
    ) -> Result<u64, Error> {
        let intent = {
            let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
            if intents.len() >= REMEMBERED {
                // Drop those that are not in use.
                intents.retain(|_, intent| Arc::strong_count(intent) > 1);
            }
            Arc::clone(intents.entry(op.bytes.clone()).or_default())
        };
        // If the running caller fails or is cancelled, the next one starts over.
        intent.get_or_try_init(|| work).await.copied()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::schema::random_id;

    #[tokio::test]
    async fn an_intent_is_applied_once_and_again_only_after_a_failure() {
        let (applied, op, done) = (AppliedIntents::default(), random_id(), Cell::new(0));
        let work = async |answer: Result<u64, Error>| {
            done.set(done.get() + 1);
            answer
        };
        assert!(applied.once(&op, work(Err(Error::Closed))).await.is_err());
        assert_eq!(applied.once(&op, work(Ok(7))).await.unwrap(), 7);
        assert_eq!(applied.once(&op, work(Ok(8))).await.unwrap(), 7);
        assert_eq!(done.get(), 2);
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let applied = AppliedIntents::default();
        for _ in 0..2 * REMEMBERED {
            applied.once(&random_id(), async { Ok(1) }).await.unwrap();
        }
        assert!(applied.intents.lock().unwrap().len() <= REMEMBERED);
    }
}
