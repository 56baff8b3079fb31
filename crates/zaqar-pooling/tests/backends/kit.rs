//! The behaviour kit and the model test. Which queue is in which pool is left to chance.

use zaqar_storage_testkit::{block_on, check, model, names};

use crate::stores::Deployments;

/// What a store of stores cannot show, as its documentation says: stores answer which queues are
/// due, not since when.
const NOT_SHOWN: &str = "outbox::due_queues_come_longest_due_first";

/// Tests of the kit at a time.
const AT_ONCE: usize = 4;

#[test]
fn the_kit_passes_but_for_what_the_documentation_names() {
    assert!(names().any(|name| name == NOT_SHOWN));
    // Rows of queues are of the management store alone, which is no store of stores.
    let is_shown = |name: &&str| *name != NOT_SHOWN && !name.starts_with("queues::");
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
