//! A model test: random operations on a store, whose answers are compared with those of a small
//! pure oracle.
//!
//! After each operation the whole store is compared: every queue's listing, counts, subscriptions
//! and followable outbox entries, which queues are due, and the latest claims. What is due is swept
//! first, as a store may process it in batches.

mod operation;
mod oracle;
mod run;

use std::sync::Arc;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::factory::Factory;
use crate::run::{failure_text, runtime};

pub use operation::{DeadLetterRule, New, Op, operations};

/// Random cases that [`crate::behaviour!`] runs.
pub const CASES: u32 = 32;

/// The maximum number of operations in one case.
const MAX_OPS: usize = 40;

/// Operations on which a store and the oracle disagree.
#[derive(Debug, Clone)]
pub struct Counterexample {
    /// The operations, shrunk.
    pub ops: Vec<Op>,
    /// What the store returned, and what it should have returned.
    pub reason: String,
}

/// Runs operations on a new store of the factory, and compares everything observable with the
/// oracle.
///
/// # Errors
/// The first difference between the store and the oracle, and the operation after which it
/// occurred.
pub async fn check(factory: Arc<dyn Factory>, ops: &[Op]) -> Result<(), String> {
    let ops = ops.to_vec();
    // In its own task, so that a panic becomes an error.
    let ended = tokio::spawn(run::run(factory, ops)).await;
    ended.map_err(failure_text)
}

/// Runs this many cases, the same ones for the same seed, and shrinks the first that fails. The
/// factory is created inside a runtime.
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

/// Runs this many cases with a random seed, which a failure reports.
///
/// # Panics
/// If a case fails, with its counterexample.
pub fn run<F: Factory>(factory: impl FnOnce() -> F, cases: u32) {
    let seed = rand::random();
    if let Some(Counterexample { ops, reason }) = search(factory, cases, seed) {
        panic!("{reason}\nafter these operations (seed {seed}): {ops:#?}");
    }
}
