//! The kit detects every fault of the in-memory store and names the violated behaviour.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, Once, OnceLock};

use tokio::runtime::Runtime;
use zaqar_storage_testkit::{Fault, Memories, check, names, run_all};

/// The name of the threads whose panics are expected.
const PLANTED: &str = "planted";

type Broken = BTreeSet<&'static str>;

/// The behaviours that fail on stores with this fault; cached.
fn broken_by(fault: Fault) -> Broken {
    static KNOWN: LazyLock<Mutex<HashMap<Fault, Arc<OnceLock<Broken>>>>> =
        LazyLock::new(Mutex::default);
    let known = KNOWN.lock().expect("no panic under the lock").entry(fault).or_default().clone();
    known.get_or_init(|| try_out(fault)).clone()
}

/// Faults that make a behaviour wait for news until its time limit. They are tried on one thread
/// whose time moves on when nothing else is to be done.
const WAITING: [Fault; 3] = [Fault::NewsLost, Fault::ProjectLeak, Fault::ServesAfterShutDown];

fn try_out(fault: Fault) -> Broken {
    let runtime = if WAITING.contains(&fault) { paused } else { runtime };
    let run = move || runtime().block_on(run_all(Memories::with_fault(fault)));
    silence_planted_panics();
    let thread = std::thread::Builder::new().name(PLANTED.to_owned()).spawn(run);
    let outcomes = thread.expect("a thread starts").join().expect("behaviours run in tasks");
    assert_eq!(outcomes.len(), names().count());
    outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .map(|outcome| outcome.name)
        .collect()
}

fn runtime() -> Runtime {
    silence_planted_panics();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(PLANTED)
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime starts")
}

/// These tests expect the kit's panics, so they are not printed.
fn silence_planted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(PLANTED) {
                default(info);
            }
        }));
    });
}

/// One test for each fault: at least these behaviours fail.
macro_rules! faults {
    ($($test:ident: $fault:ident breaks $($name:literal)+;)*) => {
        $(#[test]
        fn $test() {
            let broken = broken_by(Fault::$fault);
            for name in [$($name),+] {
                // A violation that needs a race does not occur every time.
                let is_broken = broken.contains(name)
                    || (0..ROUNDS).any(|_| breaks(Fault::$fault, name));
                assert!(is_broken, "{name} passes; these fail: {broken:?}");
            }
        })*

        #[test]
        fn every_fault_has_a_test() {
            assert_eq!([$(Fault::$fault),*], Fault::ALL);
        }
    };
}

faults! {
    double_claim: DoubleClaim breaks "claims::a_message_is_held_by_one_claim";
    racing_claims: RacingClaims breaks "concurrency::concurrent_claims_are_disjoint";
    racing_pops: RacingPops breaks "concurrency::concurrent_pops_are_disjoint";
    racing_deletes: RacingDeletes breaks "concurrency::a_claim_or_a_delete_gets_a_message";
    two_creators: TwoCreators breaks "queues::one_of_many_creators_creates";
    lost_order: LostOrder breaks "messages::a_batch_keeps_its_order";
    project_leak: ProjectLeak breaks "isolation::projects_share_nothing"
        "isolation::rows_of_odd_keys_share_nothing" "queues::list_is_of_one_project_and_kind";
    kind_leak: KindLeak breaks "isolation::kinds_share_nothing"
        "queues::list_is_of_one_project_and_kind";
    expired_shown: ExpiredShown breaks "messages::a_message_expires_with_its_ttl";
    expired_claim_holds: ExpiredClaimHolds breaks "claims::a_claim_expires_with_its_ttl";
    marker_skips: MarkerSkips breaks "listing::a_marker_need_not_exist"
        "listing::a_marker_may_have_expired" "purging::markers_stay_valid_after_a_purge";
    marker_restarts: MarkerRestarts breaks "listing::a_marker_need_not_exist";
    page_cut_before_filter: PageCutBeforeFilter breaks "listing::excluded_clients_do_not_shorten_pages"
        "listing::excluded_claims_do_not_shorten_pages" "listing::a_long_excluded_run_is_skipped";
    half_batch: HalfBatch breaks "concurrency::readers_see_whole_batches"
        "concurrency::claims_and_pops_see_whole_batches";
    stale_post: StalePost breaks "messages::a_post_with_another_generation_is_stale";
    position_reused: PositionReused breaks "messages::positions_are_not_reused_after_deletes"
        "messages::positions_are_not_reused_after_a_purge" "messages::positions_are_not_reused_after_expiry"
        "restart::positions_are_not_reused_after_a_restart";
    delay_ignored: DelayIgnored breaks "delays::a_delayed_message_waits_until_it_is_due";
    claim_not_counted: ClaimNotCounted breaks "claims::claims_are_counted";
    ttl_not_extended: TtlNotExtended breaks "claims::a_claim_extends_ttls"
        "claims::renew_extends_ttls";
    renew_ignored: RenewIgnored breaks "claims::renew_restarts_the_ttl";
    dead_letter_lost: DeadLetterLost breaks "dead_letters::a_message_at_the_maximum_claim_count_moves";
    dead_letter_counted: DeadLetterCounted breaks "dead_letters::a_dead_letter_is_stored_as_new";
    client_lost: ClientLost breaks "messages::messages_round_trip";
    released_to_end: ReleasedToEnd breaks "claims::release_frees_messages_in_place";
    purge_leaves_claimed: PurgeLeavesClaimed breaks "purging::purge_removes_everything";
    purge_leaves_claims: PurgeLeavesClaims breaks "purging::purge_ends_claims";
    close_keeps_contents: CloseKeepsContents breaks "heads::a_new_incarnation_shows_nothing_of_the_old";
    any_claim_deletes: AnyClaimDeletes breaks "messages::delete_with_the_wrong_claim";
    stats_stale: StatsStale breaks "stats::stats_are_exact_after_a_sweep";
    sweep_never_ends: SweepNeverEnds breaks "upkeep::repeated_sweeps_end_and_leave_nothing";
    sweep_panics: SweepPanics breaks "upkeep::repeated_sweeps_end_and_leave_nothing";
    serves_after_shut_down: ServesAfterShutDown breaks "upkeep::a_store_that_is_shut_down_rejects_calls";
    subscribed_twice: SubscribedTwice breaks "subscriptions::a_subscriber_subscribes_once"
        "subscriptions::one_of_many_subscribers_subscribes";
    changed_to_taken_subscriber: ChangedToTakenSubscriber breaks "subscriptions::one_of_many_changes_to_a_subscriber_succeeds"
        "subscriptions::a_change_to_a_taken_subscriber_changes_nothing";
    change_keeps_since: ChangeKeepsSince breaks "subscriptions::a_change_sets_only_its_fields";
    outbox_not_written: OutboxNotWritten breaks "outbox::a_post_writes_one_entry";
    outbox_due_early: OutboxDueEarly breaks "outbox::an_entry_is_due_with_its_first_message";
    entry_lease_ignored: EntryLeaseIgnored breaks "outbox::concurrent_leases_are_disjoint"
        "outbox::a_lease_holds_until_it_expires";
    entry_lease_never_expires: EntryLeaseNeverExpires breaks "outbox::a_lease_holds_until_it_expires";
    purge_clears_outbox: PurgeClearsOutbox breaks "outbox::entries_outlive_messages";
    news_lost: NewsLost breaks "news::a_slow_listener_blocks_nobody";
    numbers_rounded: NumbersRounded breaks "heads::generations_of_any_size_round_trip"
        "queues::generations_of_any_size_round_trip"
        "subscriptions::subscriptions_round_trip";
    row_lost: RowLost breaks "queues::create_stores_the_row";
    row_overwritten: RowOverwritten breaks "queues::create_does_not_change_an_existing_row";
    racing_replaces: RacingReplaces breaks "queues::one_of_many_replacers_replaces";
    replace_creates: ReplaceCreates breaks "queues::replace_changes_nothing_without_a_row";
    remove_ignored: RemoveIgnored breaks "queues::a_removed_row_can_be_created_again";
    rows_reversed: RowsReversed breaks "queues::list_is_ascending_by_byte";
    metadata_sorted: MetadataSorted breaks "queues::metadata_round_trips";
    any_generation: AnyGeneration breaks "queues::replace_needs_the_generation"
        "queues::remove_needs_the_incarnation" "heads::advance_needs_the_incarnation"
        "heads::close_needs_the_incarnation" "subscriptions::subscribe_needs_the_generation"
        "claims::a_claim_with_another_generation_is_stale"
        "listing::a_marker_of_another_incarnation_begins_at_the_start";
    generation_lost: GenerationLost breaks "heads::open_creates_an_empty_head";
    open_overwrites: OpenOverwrites breaks "heads::open_does_not_change_an_existing_head"
        "heads::one_of_many_openers_opens";
    advance_lowers: AdvanceLowers breaks "heads::advance_never_lowers_the_version";
    close_checks_version: CloseChecksVersion breaks "heads::close_ignores_the_version";
    opens_missing_head: OpensMissingHead breaks "messages::a_post_without_a_head_is_absent"
        "claims::a_claim_without_a_head_is_absent" "stats::stats_without_a_head_are_none";
    missing_head_fails: MissingHeadFails breaks "popping::pop_of_an_empty_queue" "purging::purge_of_an_empty_queue"
        "messages::delete_of_a_missing_message" "messages::delete_many_ignores_missing_ids";
    racing_posts: RacingPosts breaks "concurrency::readers_see_each_message_once";
    endless_listing: EndlessListing breaks "listing::an_empty_queue_has_an_empty_page"
        "listing::no_head_has_an_empty_page";
    last_page_has_no_marker: LastPageHasNoMarker breaks "listing::the_last_page_has_a_marker";
    time_rounded: TimeRounded breaks "messages::messages_round_trip"
        "claims::claim_get_returns_the_held_messages" "stats::stats_include_the_first_and_the_last";
    delete_ignored: DeleteIgnored breaks "messages::delete_removes_a_free_one"
        "subscriptions::unsubscribe_removes_one";
    subscriptions_reversed: SubscriptionsReversed breaks
        "subscriptions::subscriptions_are_listed_by_id";
    outbox_always_written: OutboxAlwaysWritten breaks "outbox::a_post_without_subscribers_writes_none";
    due_queues_stuck: DueQueuesStuck breaks "outbox::every_due_queue_appears";
    second_shut_down_fails: SecondShutDownFails breaks "upkeep::shutting_down_twice_is_harmless";
    start_position_too_late: StartPositionTooLate breaks "following::a_subscriber_gets_its_start_position";
    followers_ignored: FollowersIgnored breaks "following::a_post_can_be_followed"
        "following::leasing_and_settling_do_not_hide_entries";
    followed_is_due: FollowedIsDue breaks "following::a_post_can_be_followed";
    follow_restarts: FollowRestarts breaks "following::a_follower_continues_after_the_last_entry";
    settled_hidden: SettledHidden breaks "following::leasing_and_settling_do_not_hide_entries";
    lease_never_expires: LeaseNeverExpires breaks "leases::subscriptions_are_removed_with_their_lease"
        "leases::ending_a_lease_removes_only_its_subscriptions"
        "leases::subscriptions_on_an_unknown_lease_are_removed"
        "leases::a_lease_with_many_subscriptions_is_swept_in_batches";
    lease_revived: LeaseRevived breaks "leases::an_expired_lease_stays_expired";
    pop_removes_unreadable: PopRemovesUnreadable breaks "popping::pop_skips_messages_that_the_caller_cannot_open"
        "popping::a_pop_continues_after_many_unreadable_messages";
    claim_takes_unreadable: ClaimTakesUnreadable breaks "claims::claims_skip_messages_that_the_caller_cannot_open"
        "claims::skipped_messages_stay_free_among_others"
        "claims::a_claim_continues_after_many_unreadable_messages"
        "dead_letters::messages_that_the_caller_cannot_open_do_not_move";
    lost_lease_continues: LostLeaseContinues breaks "leases::a_renewal_reports_the_state_of_the_lease";
    lease_lists_others: LeaseListsOthers breaks "subscriptions::subscriptions_on_a_lease_are_listed_separately";
    positions_ignore_clock: PositionsIgnoreClock breaks "messages::positions_follow_the_clock";
    entries_outlive_readers: EntriesOutliveReaders breaks "outbox::entries_expire_with_their_messages"
        "outbox::entries_end_with_the_last_subscription";
    time_ahead_kept: TimeAheadKept breaks "messages::a_time_far_ahead_is_reset";
    stale_claim: StaleClaim breaks "claims::a_claim_with_another_generation_is_stale"
        "claims::claims_of_their_own_need_the_generation";
    lost_claim_renews: LostClaimRenews breaks "claims::renew_without_a_live_claim";
    lost_claim_deletes: LostClaimDeletes breaks "messages::delete_many_needs_live_claims";
    list_hides_claimed: ListHidesClaimed breaks "listing::claimed_messages_are_listed_on_request";
    get_removes: GetRemoves breaks "messages::get_removes_nothing";
    entry_created_when_leased: EntryCreatedWhenLeased breaks "outbox::a_lease_holds_until_it_expires";
    settle_ignored: SettleIgnored breaks "outbox::entries_are_leased_oldest_first"
        "outbox::a_settled_entry_is_never_due_again";
    recipients_on_leases: RecipientsOnLeases breaks "subscriptions::recipients_have_an_address";
    recipients_unconfirmed: RecipientsUnconfirmed breaks "subscriptions::recipients_may_have_to_be_confirmed";
    freeze_ignored: FreezeIgnored breaks "moving::a_frozen_head_rejects_every_call"
        "moving::a_head_that_is_discarded_is_gone";
    thaw_ignored: ThawIgnored breaks "moving::a_head_that_thaws_serves_as_before";
    move_loses_claims: MoveLosesClaims breaks "moving::everything_arrives";
    import_repeated: ImportRepeated breaks "moving::a_repeated_import_changes_nothing";
    any_move: AnyMove breaks "moving::a_call_of_another_move_does_nothing";
    head_unlisted: HeadUnlisted breaks "moving::every_head_is_listed";
    lease_overtakes: LeaseOvertakes breaks "outbox::a_leased_entry_blocks_those_after_it"
        "moving::a_leased_entry_blocks_others_after_a_move";
    lease_unbounded: LeaseUnbounded breaks "outbox::a_lease_is_bounded";
    settles_one: SettlesOne breaks "outbox::entries_are_settled_together";
    claim_shared: ClaimShared breaks "claims::each_message_has_a_claim_of_its_own";
}

/// A fault that breaks this many behaviours or more proves nothing about a single one.
const TOO_MANY: usize = 40;

/// How often a behaviour is run on a store whose fault needs a race.
const ROUNDS: usize = 100;

/// Every behaviour can fail, and not only with faults that break everything.
#[test]
fn no_behaviour_passes_whatever_the_store_does() {
    let mut untouched: BTreeSet<_> = names().collect();
    let faults: Vec<_> =
        Fault::ALL.into_iter().filter(|fault| broken_by(*fault).len() < TOO_MANY).collect();
    for fault in &faults {
        untouched.retain(|name| !broken_by(*fault).contains(name));
    }
    // A violation that needs a race does not occur every time.
    for _ in 0..ROUNDS {
        untouched.retain(|name| !faults.iter().any(|fault| breaks(*fault, name)));
    }
    assert_eq!(untouched, BTreeSet::new());
}

/// Whether one behaviour fails on a store with this fault in one run.
fn breaks(fault: Fault, name: &'static str) -> bool {
    let tried = runtime().block_on(async move {
        tokio::spawn(async move { check(Memories::with_fault(fault), name).await }).await
    });
    tried.is_err()
}
