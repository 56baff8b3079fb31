//! The behaviour kit on two in-memory pools and one on disk: the queues of a test are in different
//! pools.

use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;
use zaqar_pooling::{Options, Pooled};
use zaqar_storage_testkit::{About, Factory, Fault, Stores, block_on, check, model, names};

use crate::support::{Deployment, Places};

struct ThreePools;

#[async_trait]
impl Factory for ThreePools {
    async fn open(&self, _: &str) -> Stores {
        // Left to the operating system, as the last test that needs it is not known.
        let disk = format!("disk:{}/c", TempDir::new().unwrap().keep().display());
        let deployment =
            Deployment::with_pools(&[("memory:a", 100), ("memory:b", 100), (&disk, 100)]).await;
        let pooled = Pooled::new(Arc::new(deployment.registry()), Options::default());
        pooled.refresh().await;
        Stores { management: deployment.management, messages: Arc::new(pooled) }
    }

    async fn discard(&self, _: &str) {}

    fn about(&self) -> About {
        About { keeps: false, shared: false, repairs_time: true }
    }
}

/// Concurrent tests of the kit: as many as a machine with few cores can run in time.
const AT_ONCE: usize = 3;

#[test]
fn the_kit_passes() {
    let shown: Vec<_> = names().collect();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let shown = &shown;
            scope.spawn(move || {
                for name in shown.iter().skip(first).step_by(AT_ONCE) {
                    block_on(check(ThreePools, name));
                }
            });
        }
    });
}

/// In-memory pools with one fault.
struct FaultyPools(Fault);

#[async_trait]
impl Factory for FaultyPools {
    async fn open(&self, _: &str) -> Stores {
        let places = Arc::new(Places::with_fault(self.0));
        let deployment = Deployment { places, ..Deployment::new() };
        let deployment = deployment.and_pools(&[("memory:a", 1), ("memory:b", 1)]).await;
        let pooled = Pooled::new(Arc::new(deployment.registry()), Options::default());
        pooled.refresh().await;
        Stores { management: deployment.management, messages: Arc::new(pooled) }
    }

    async fn discard(&self, _: &str) {}

    fn about(&self) -> About {
        About { keeps: false, shared: false, repairs_time: true }
    }
}

/// The store of stores neither repairs nor hides faults of pools.
#[test]
fn the_kit_notices_what_pools_do_wrong() {
    let mut hidden = Vec::new();
    for (fault, name) in [
        (Fault::DoubleClaim, "claims::a_message_is_held_by_one_claim"),
        (Fault::LostOrder, "messages::a_batch_keeps_its_order"),
        (Fault::ProjectLeak, "isolation::projects_share_nothing"),
        (Fault::PositionReused, "messages::positions_are_not_reused_after_deletes"),
        (Fault::ClientLost, "messages::messages_round_trip"),
        (Fault::DeadLetterLost, "dead_letters::a_message_at_the_maximum_claim_count_moves"),
        (Fault::ReleasedToEnd, "claims::release_frees_messages_in_place"),
        (Fault::PurgeLeavesClaims, "purging::purge_ends_claims"),
        (Fault::CloseKeepsContents, "heads::a_new_incarnation_shows_nothing_of_the_old"),
        (Fault::AnyClaimDeletes, "messages::delete_with_the_wrong_claim"),
        (Fault::DeleteIgnored, "messages::delete_removes_a_free_one"),
        (Fault::DueQueuesStuck, "outbox::every_due_queue_appears"),
        (Fault::LeaseRevived, "leases::an_expired_lease_stays_expired"),
        (Fault::FollowRestarts, "following::a_follower_continues_after_the_last_entry"),
    ] {
        let tried = block_on(async { tokio::spawn(check(FaultyPools(fault), name)).await });
        if tried.is_ok() {
            hidden.push((fault, name));
        }
    }
    assert_eq!(hidden, []);
}

#[test]
fn random_operations_agree_with_the_oracle() {
    // Few cases, as each has pools on disk. None of them reads the client of a dead letter.
    model::run(|| ThreePools, 8);
}
