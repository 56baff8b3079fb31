//! A model test: random operations on a store, each answer compared with that of a small pure
//! oracle.
//!
//! After each operation the whole store is compared: every queue's listing, counts, subscriptions
//! and what can be followed of its outbox, which queues are due, and the latest claims. What time
//! brings due is swept first, as a store may do that in pieces.

mod operation;
mod oracle;
mod run;

use std::sync::Arc;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::factory::Factory;
use crate::run::{failure_text, runtime};

pub use operation::{New, Op, Reserve, operations};

/// Random cases that [`crate::behaviour!`] tries.
pub const CASES: u32 = 32;

/// Operations in one case, at most.
const MAX_OPS: usize = 40;

/// Operations on which a store and the oracle do not agree.
#[derive(Debug, Clone)]
pub struct Counterexample {
    /// The fewest operations that were found to show it.
    pub ops: Vec<Op>,
    /// What the store did, and what it should have done.
    pub reason: String,
}

/// Does operations on a new store of the factory, and compares all that can be seen.
///
/// # Errors
/// Where the store's answers are not the oracle's: which, and at which operation.
pub async fn check(factory: Arc<dyn Factory>, ops: &[Op]) -> Result<(), String> {
    let ops = ops.to_vec();
    // A task of its own: its panic is an answer here.
    let ended = tokio::spawn(run::run(factory, ops)).await;
    ended.map_err(failure_text)
}

/// Tries this many cases, the same ones for the same seed, and makes the first that fails as small
/// as it can. The factory is made inside a runtime.
pub fn search<F: Factory>(
    factory: impl FnOnce() -> F,
    cases: u32,
    seed: u64,
) -> Option<Counterexample> {
    let runtime = runtime();
    let inside = runtime.enter();
    let factory: Arc<dyn Factory> = Arc::new(factory());
    drop(inside);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let found = TestRunner::new_with_rng(config, rng).run(&operations(MAX_OPS), |ops| {
        runtime.block_on(check(factory.clone(), &ops)).map_err(TestCaseError::fail)
    });
    match found {
        Ok(()) => None,
        Err(TestError::Fail(reason, ops)) => {
            Some(Counterexample { ops, reason: reason.message().to_owned() })
        }
        Err(TestError::Abort(reason)) => {
            Some(Counterexample { ops: Vec::new(), reason: reason.message().to_owned() })
        }
    }
}

/// Tries this many cases, others in each run; what fails names the seed.
///
/// # Panics
/// Where one fails, with its counterexample.
pub fn run<F: Factory>(factory: impl FnOnce() -> F, cases: u32) {
    let seed = rand::random();
    if let Some(Counterexample { ops, reason }) = search(factory, cases, seed) {
        panic!("{reason}\nafter these operations (seed {seed}): {ops:#?}");
    }
}
