//! The behaviour kit and the model test. Queues are placed at random.

use zaqar_storage_testkit::{block_on, check, model, names};

use crate::stores::Deployments;

/// Concurrent tests of the kit.
const AT_ONCE: usize = 4;

#[test]
fn the_kit_passes() {
    // The management store alone has the rows of queues, and is not a store of stores.
    let is_shown = |name: &&str| !name.starts_with("queues::");
    let shown: Vec<_> = names().filter(is_shown).collect();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let shown = &shown;
            scope.spawn(move || {
                for name in shown.iter().skip(first).step_by(AT_ONCE) {
                    block_on(check(Deployments, name));
                }
            });
        }
    });
}

#[test]
fn random_operations_agree_with_the_oracle() {
    model::run(|| Deployments, 4);
}
