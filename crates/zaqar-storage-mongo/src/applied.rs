//! Steps that this process carries out or has carried out: of those who meet one at once, one does
//! it and the others wait for it, and who meets it later leaves it alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::Binary;
use tokio::sync::OnceCell;
use zaqar_core::storage::Error;

/// Steps that are remembered, about.
const REMEMBERED: usize = 4096;

/// By their names.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    steps: Mutex<HashMap<Vec<u8>, Arc<OnceCell<u64>>>>,
}

impl Carried {
    /// Does `work` unless that was done for this step; what it answered then.
    pub(crate) async fn once(
        &self,
        op: &Binary,
        work: impl Future<Output = Result<u64, Error>>,
    ) -> Result<u64, Error> {
        let step = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            if steps.len() >= REMEMBERED {
                // Those that nobody works on or waits for.
                steps.retain(|_, step| Arc::strong_count(step) > 1);
            }
            Arc::clone(steps.entry(op.bytes.clone()).or_default())
        };
        // Where who works on it fails or is dropped, the next one begins anew.
        step.get_or_try_init(|| work).await.copied()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::schema::fresh_op;

    #[tokio::test]
    async fn a_step_is_done_once_and_again_only_after_a_failure() {
        let (carried, op, done) = (Carried::default(), fresh_op(), Cell::new(0));
        let work = async |answer: Result<u64, Error>| {
            done.set(done.get() + 1);
            answer
        };
        assert!(carried.once(&op, work(Err(Error::Closed))).await.is_err());
        assert_eq!(carried.once(&op, work(Ok(7))).await.unwrap(), 7);
        assert_eq!(carried.once(&op, work(Ok(8))).await.unwrap(), 7);
        assert_eq!(done.get(), 2);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let carried = Carried::default();
        for _ in 0..2 * REMEMBERED {
            carried.once(&fresh_op(), async { Ok(1) }).await.unwrap();
        }
        assert!(carried.steps.lock().unwrap().len() <= REMEMBERED);
    }
}
