//! The model test finds faults and shrinks its counterexamples.

use std::sync::Once;

use zaqar_storage_testkit::model::{Counterexample, search};
use zaqar_storage_testkit::{Fault, Memories};

/// The first small counterexample found for a fault. With fixed seeds each run of the tests tries
/// the same cases, so the result is reproducible.
fn found(fault: Fault) -> Counterexample {
    silence_the_kit();
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        // Sometimes shrinking ends at a case that is not small, because it needs every one of its
        // operations.
        let Some(case) = search(|| Memories::with_fault(fault), 2000, seed) else { continue };
        if (1..=FEW).contains(&case.ops.len()) {
            return case;
        }
        found.push(case);
    }
    panic!("no counterexample of at most {FEW} operations in {SEEDS} times 2000 cases: {found:#?}");
}

/// These tests expect panics of the kit's threads, so they are not printed.
fn silence_the_kit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some("zaqar-kit") {
                default(info);
            }
        }));
    });
}

#[test]
fn a_correct_store_agrees_with_the_oracle() {
    let found = search(Memories::new, 300, 0);
    assert!(found.is_none(), "{found:#?}");
}

/// The maximum number of operations of a small counterexample, out of up to 40.
const FEW: usize = 8;
/// The maximum number of searches for a small counterexample.
const SEEDS: u64 = 8;

/// One test for each fault: it is found, with a small counterexample.
macro_rules! found {
    ($($test:ident: $fault:ident;)*) => {
        $(#[test]
        fn $test() {
            let found = found(Fault::$fault);
            assert!(!found.reason.is_empty());
        })*
    };
}

found! {
    double_claim: DoubleClaim;
    lost_order: LostOrder;
    kind_leak: KindLeak;
    expired_shown: ExpiredShown;
    expired_claim_holds: ExpiredClaimHolds;
    marker_skips: MarkerSkips;
    page_cut_before_filter: PageCutBeforeFilter;
    position_reused: PositionReused;
    delay_ignored: DelayIgnored;
    claim_not_counted: ClaimNotCounted;
    ttl_not_extended: TtlNotExtended;
    dead_letter_lost: DeadLetterLost;
    dead_letter_counted: DeadLetterCounted;
    released_to_end: ReleasedToEnd;
    purge_leaves_claimed: PurgeLeavesClaimed;
    close_keeps_contents: CloseKeepsContents;
    any_claim_deletes: AnyClaimDeletes;
    subscribed_twice: SubscribedTwice;
    start_position_too_late: StartPositionTooLate;
    subscriptions_reversed: SubscriptionsReversed;
    changed_to_taken_subscriber: ChangedToTakenSubscriber;
    change_keeps_since: ChangeKeepsSince;
    outbox_not_written: OutboxNotWritten;
    outbox_due_early: OutboxDueEarly;
    entry_lease_ignored: EntryLeaseIgnored;
    entry_lease_never_expires: EntryLeaseNeverExpires;
    purge_clears_outbox: PurgeClearsOutbox;
    followers_ignored: FollowersIgnored;
    followed_is_due: FollowedIsDue;
    settled_hidden: SettledHidden;
    lease_never_expires: LeaseNeverExpires;
    pop_removes_unreadable: PopRemovesUnreadable;
    claim_takes_unreadable: ClaimTakesUnreadable;
    lost_lease_continues: LostLeaseContinues;
    lease_lists_others: LeaseListsOthers;
    positions_ignore_clock: PositionsIgnoreClock;
    entries_outlive_readers: EntriesOutliveReaders;
}
