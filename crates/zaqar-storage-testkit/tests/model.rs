//! The model test finds faults, and makes what it finds small.

use std::sync::Once;

use zaqar_storage_testkit::model::{Counterexample, search};
use zaqar_storage_testkit::{Fault, Memories};

/// The first operations found that show a fault and are few. Seeds make each run of the tests try
/// the same cases: a fault that is found today is found tomorrow.
fn found(fault: Fault) -> Counterexample {
    silence_the_kit();
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        // Now and then a case is found that is not small, and that leaving out any one operation
        // hides.
        let Some(case) = search(|| Memories::with_fault(fault), 2000, seed) else { continue };
        if (1..=FEW).contains(&case.ops.len()) {
            return case;
        }
        found.push(case);
    }
    panic!("{SEEDS} times 2000 cases show the fault with at most {FEW} operations: {found:#?}");
}

/// The panics of the kit's threads are what these tests look for: they need not fill the screen.
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
fn a_right_store_agrees_with_the_oracle() {
    let found = search(Memories::new, 300, 0);
    assert!(found.is_none(), "{found:#?}");
}

/// Of up to 40 operations, so many are few.
const FEW: usize = 8;
/// Searches for a case that is small.
const SEEDS: u64 = 8;

/// One test for each fault: it is found, and shown with few operations.
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
    page_cut_first: PageCutFirst;
    position_twice: PositionTwice;
    delay_ignored: DelayIgnored;
    claim_not_counted: ClaimNotCounted;
    life_not_extended: LifeNotExtended;
    dead_letter_lost: DeadLetterLost;
    dead_letter_counted: DeadLetterCounted;
    released_to_end: ReleasedToEnd;
    purge_leaves_claimed: PurgeLeavesClaimed;
    close_forgotten: CloseForgotten;
    any_claim_deletes: AnyClaimDeletes;
    subscribed_twice: SubscribedTwice;
    subscribed_late: SubscribedLate;
    subscriptions_reversed: SubscriptionsReversed;
    changed_twice: ChangedTwice;
    change_keeps_since: ChangeKeepsSince;
    outbox_forgotten: OutboxForgotten;
    outbox_hasty: OutboxHasty;
    leased_twice: LeasedTwice;
    leased_forever: LeasedForever;
    purge_takes_outbox: PurgeTakesOutbox;
    follow_forgotten: FollowForgotten;
    followed_is_due: FollowedIsDue;
    settled_hidden: SettledHidden;
    lease_forever: LeaseForever;
    pop_takes_unreadable: PopTakesUnreadable;
    lost_lease_continues: LostLeaseContinues;
    leased_of_others: LeasedOfOthers;
    positions_ignore_clock: PositionsIgnoreClock;
    entries_outlive_readers: EntriesOutliveReaders;
}
