//! The kit notices every fault that the store in memory can be given, and names the behaviour that
//! it breaks.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, Once, OnceLock};

use tokio::runtime::Runtime;
use zaqar_storage_testkit::{Fault, Memories, check, names, run_all};

type Broken = BTreeSet<&'static str>;

/// The behaviours that fail on stores with this fault; tried once.
fn broken_by(fault: Fault) -> Broken {
    static KNOWN: LazyLock<Mutex<HashMap<Fault, Arc<OnceLock<Broken>>>>> =
        LazyLock::new(Mutex::default);
    let known =
        KNOWN.lock().expect("nobody fails under the lock").entry(fault).or_default().clone();
    known.get_or_init(|| try_out(fault)).clone()
}

fn try_out(fault: Fault) -> Broken {
    let outcomes = runtime().block_on(run_all(Memories::with_fault(fault)));
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
        .thread_name("planted")
        .enable_all()
        .build()
        .expect("a runtime starts")
}

/// The kit's own panics are what these tests look for: they need not fill the screen.
fn silence_planted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some("planted") {
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
                // What only a race breaks is not broken every time.
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
    racing_claims: RacingClaims breaks "concurrency::claimers_share_out_messages";
    racing_pops: RacingPops breaks "concurrency::poppers_share_out_messages";
    racing_deletes: RacingDeletes breaks "concurrency::a_claim_or_a_deletion_gets_a_message";
    two_creators: TwoCreators breaks "queues::of_many_creators_one_creates";
    lost_order: LostOrder breaks "messages::a_batch_keeps_its_order";
    project_leak: ProjectLeak breaks "isolation::projects_share_nothing"
        "isolation::rows_of_odd_keys_share_nothing" "queues::list_shows_one_project_and_kind";
    kind_leak: KindLeak breaks "isolation::kinds_share_nothing"
        "queues::list_shows_one_project_and_kind";
    expired_shown: ExpiredShown breaks "messages::a_message_lives_until_its_ttl_is_over";
    expired_claim_holds: ExpiredClaimHolds breaks "claims::a_claim_lives_until_its_ttl_is_over";
    marker_skips: MarkerSkips breaks "listing::a_marker_need_not_exist"
        "listing::a_marker_may_have_expired" "purging::markers_outlive_a_purge";
    marker_restarts: MarkerRestarts breaks "listing::a_marker_need_not_exist";
    page_cut_first: PageCutFirst breaks "listing::hidden_clients_do_not_shorten_pages"
        "listing::hidden_claims_do_not_shorten_pages" "listing::a_long_hidden_run_is_passed";
    half_batch: HalfBatch breaks "concurrency::readers_see_whole_batches"
        "concurrency::claims_and_pops_see_whole_batches";
    stale_post: StalePost breaks "messages::a_post_with_another_generation_is_stale";
    position_twice: PositionTwice breaks "messages::no_position_twice_after_deletes"
        "messages::no_position_twice_after_a_purge" "messages::no_position_twice_after_expiry"
        "restart::no_position_twice_after_a_restart";
    delay_ignored: DelayIgnored breaks "delays::a_delayed_message_waits_until_it_is_due";
    claim_not_counted: ClaimNotCounted breaks "claims::claims_are_counted";
    life_not_extended: LifeNotExtended breaks "claims::a_claim_lengthens_lives"
        "claims::renew_lengthens_lives";
    renew_forgotten: RenewForgotten breaks "claims::renew_starts_again";
    dead_letter_lost: DeadLetterLost breaks "dead_letters::a_message_claimed_often_enough_moves";
    dead_letter_counted: DeadLetterCounted breaks "dead_letters::a_letter_starts_anew";
    client_forgotten: ClientForgotten breaks "messages::what_was_posted_comes_back";
    released_to_end: ReleasedToEnd breaks "claims::release_leaves_old_places";
    purge_leaves_claimed: PurgeLeavesClaimed breaks "purging::purge_removes_everything";
    purge_leaves_claims: PurgeLeavesClaims breaks "purging::purge_ends_claims";
    close_forgotten: CloseForgotten breaks "heads::a_new_life_shows_nothing_of_the_old";
    any_claim_deletes: AnyClaimDeletes breaks "messages::delete_with_the_wrong_claim";
    stats_stale: StatsStale breaks "stats::stats_are_exact_after_a_sweep";
    sweep_never_ends: SweepNeverEnds breaks "upkeep::sweeping_ends_and_leaves_nothing";
    sweep_panics: SweepPanics breaks "upkeep::sweeping_ends_and_leaves_nothing";
    closed_answers: ClosedAnswers breaks "upkeep::a_store_that_is_shut_down_refuses";
    subscribed_twice: SubscribedTwice breaks "subscriptions::a_subscriber_subscribes_once"
        "subscriptions::of_many_subscribers_one_subscribes";
    changed_twice: ChangedTwice breaks "subscriptions::of_many_changes_to_one_subscriber_one_is_made"
        "subscriptions::a_change_to_a_taken_subscriber_changes_nothing";
    change_keeps_since: ChangeKeepsSince breaks "subscriptions::a_change_changes_what_it_names";
    outbox_forgotten: OutboxForgotten breaks "outbox::a_post_writes_one_entry";
    outbox_hasty: OutboxHasty breaks "outbox::an_entry_is_due_with_its_first_message";
    leased_twice: LeasedTwice breaks "outbox::workers_share_out_entries"
        "outbox::a_lease_lasts_until_it_runs_out";
    leased_forever: LeasedForever breaks "outbox::a_lease_lasts_until_it_runs_out";
    purge_takes_outbox: PurgeTakesOutbox breaks "outbox::entries_outlive_messages";
    news_lost: NewsLost breaks "news::a_slow_listener_holds_up_nobody";
    numbers_rounded: NumbersRounded breaks "heads::generations_of_any_size_come_back"
        "queues::generations_of_any_size_come_back"
        "subscriptions::what_was_subscribed_comes_back";
    row_lost: RowLost breaks "queues::create_keeps_the_row";
    row_overwritten: RowOverwritten breaks "queues::create_leaves_a_row_that_is_there";
    racing_replaces: RacingReplaces breaks "queues::of_many_replacers_one_replaces";
    replace_creates: ReplaceCreates breaks "queues::replace_changes_nothing_without_a_row";
    remove_forgotten: RemoveForgotten breaks "queues::a_removed_row_can_be_created_again";
    rows_reversed: RowsReversed breaks "queues::list_is_ascending_by_byte";
    metadata_sorted: MetadataSorted breaks "queues::metadata_comes_back_as_it_was";
    any_generation: AnyGeneration breaks "queues::replace_needs_the_generation"
        "queues::remove_needs_the_incarnation" "heads::advance_needs_the_incarnation"
        "heads::close_needs_the_incarnation" "subscriptions::subscribe_needs_the_generation"
        "claims::a_claim_with_another_generation_is_stale"
        "listing::a_marker_of_another_life_begins_at_the_head";
    generation_forgotten: GenerationForgotten breaks "heads::open_makes_an_empty_head";
    open_overwrites: OpenOverwrites breaks "heads::open_leaves_a_head_that_is_there"
        "heads::of_many_openers_one_opens";
    advance_lowers: AdvanceLowers breaks "heads::advance_never_lowers_the_version";
    close_asks_version: CloseAsksVersion breaks "heads::close_does_not_ask_for_the_version";
    opens_by_itself: OpensByItself breaks "messages::a_post_without_a_head_is_absent"
        "claims::a_claim_without_a_head_is_absent" "stats::stats_of_nothing";
    nothing_fails: NothingFails breaks "popping::pop_of_nothing" "purging::purge_of_nothing"
        "messages::delete_of_what_is_gone" "messages::delete_many_of_nothing";
    racing_posts: RacingPosts breaks "concurrency::readers_see_each_message_once";
    endless_listing: EndlessListing breaks "listing::an_empty_queue_has_an_empty_page"
        "listing::no_head_has_an_empty_page";
    last_page_ends: LastPageEnds breaks "listing::the_last_page_says_where_to_go_on";
    time_rounded: TimeRounded breaks "messages::what_was_posted_comes_back"
        "claims::claim_get_shows_what_is_held" "stats::stats_show_the_ends";
    delete_forgotten: DeleteForgotten breaks "messages::delete_removes_a_free_one"
        "subscriptions::unsubscribe_removes_one";
    subscriptions_reversed: SubscriptionsReversed breaks
        "subscriptions::subscriptions_are_listed_by_id";
    outbox_always: OutboxAlways breaks "outbox::a_post_without_subscribers_writes_none";
    due_queues_stuck: DueQueuesStuck breaks "outbox::every_due_queue_appears";
    ends_twice: EndsTwice breaks "upkeep::shutting_down_twice_is_once";
    subscribed_late: SubscribedLate breaks "following::a_subscriber_learns_where_to_begin";
    follow_forgotten: FollowForgotten breaks "following::a_post_can_be_followed"
        "following::workers_take_nothing_from_who_follows";
    followed_is_due: FollowedIsDue breaks "following::a_post_can_be_followed";
    follow_restarts: FollowRestarts breaks "following::who_follows_goes_on_behind_what_was_shown";
    settled_hidden: SettledHidden breaks "following::workers_take_nothing_from_who_follows";
    lease_forever: LeaseForever breaks "leases::subscriptions_go_with_their_lease"
        "leases::an_ended_lease_takes_its_own_with_it"
        "leases::nothing_hangs_on_a_lease_that_was_never_kept"
        "leases::a_lease_with_much_on_it_ends_in_pieces";
    lease_revived: LeaseRevived breaks "leases::a_lease_that_is_over_stays_over";
    pop_takes_unreadable: PopTakesUnreadable breaks "popping::pop_leaves_what_its_caller_cannot_open"
        "popping::a_pop_past_many_unreadable_messages_goes_on";
    lost_lease_continues: LostLeaseContinues breaks "leases::a_renewal_says_what_became_of_the_lease";
    leased_of_others: LeasedOfOthers breaks "subscriptions::those_on_a_lease_are_listed_alone";
    positions_ignore_clock: PositionsIgnoreClock breaks "messages::positions_follow_the_clock";
    entries_outlive_readers: EntriesOutliveReaders breaks "outbox::entries_end_with_their_messages"
        "outbox::entries_end_with_the_last_subscription";
    time_ahead_kept: TimeAheadKept breaks "messages::a_time_far_ahead_is_repaired";
}

/// Behaviours that a fault breaks beyond which it says nothing on any single one of them.
const TOO_MANY: usize = 40;

/// How often a behaviour is tried on a store whose fault is one of timing.
const ROUNDS: usize = 100;

/// Every behaviour can fail, and not only where everything does.
#[test]
fn no_behaviour_passes_whatever_the_store_does() {
    let mut untouched: BTreeSet<_> = names().collect();
    let faults: Vec<_> =
        Fault::ALL.into_iter().filter(|fault| broken_by(*fault).len() < TOO_MANY).collect();
    for fault in &faults {
        untouched.retain(|name| !broken_by(*fault).contains(name));
    }
    // What only a race breaks is not broken every time.
    for _ in 0..ROUNDS {
        untouched.retain(|name| !faults.iter().any(|fault| breaks(*fault, name)));
    }
    assert_eq!(untouched, BTreeSet::new());
}

/// Whether one behaviour fails on a store with this fault, this time.
fn breaks(fault: Fault, name: &'static str) -> bool {
    let tried = runtime().block_on(async move {
        tokio::spawn(async move { check(Memories::with_fault(fault), name).await }).await
    });
    tried.is_err()
}
