//! The list of behaviours, and the macro that turns them into tests.

/// Passes the list of behaviours to a macro. Only listed behaviours are tested; others are dead
/// code.
#[doc(hidden)]
#[macro_export]
macro_rules! __behaviours {
    ($($then:tt)*) => {
        $($then)*! {
            queues {
                create_stores_the_row
                create_does_not_change_an_existing_row
                one_of_many_creators_creates
                get_returns_the_last_finished_change
                metadata_round_trips
                generations_of_any_size_round_trip
                replace_needs_the_generation
                replace_changes_nothing_without_a_row
                one_of_many_replacers_replaces
                remove_needs_the_incarnation
                a_removed_row_can_be_created_again
                list_is_ascending_by_byte
                list_begins_after_any_name
                list_pages_are_full_until_the_end
                list_is_of_one_project_and_kind
                count_equals_the_list
            }
            heads {
                open_creates_an_empty_head
                open_does_not_change_an_existing_head
                one_of_many_openers_opens
                generation_without_a_head_is_none
                generations_of_any_size_round_trip
                advance_raises_the_version
                advance_never_lowers_the_version
                advance_needs_the_incarnation
                close_hides_everything
                close_needs_the_incarnation
                close_ignores_the_version
                a_new_incarnation_shows_nothing_of_the_old
            }
            messages {
                a_batch_keeps_its_order
                batches_follow_each_other
                a_large_batch_is_stored_whole
                a_large_batch_has_delays_and_ttls
                a_large_batch_is_claimed_and_popped_in_order
                messages_round_trip
                payloads_of_any_bytes_round_trip
                a_post_without_a_head_is_absent
                a_post_with_another_generation_is_stale
                positions_are_not_reused_after_deletes
                positions_are_not_reused_after_a_purge
                positions_are_not_reused_after_expiry
                positions_follow_the_clock
                a_message_expires_with_its_ttl
                messages_expire_individually
                time_does_not_go_back
                a_time_far_ahead_is_reset
                get_is_in_order_and_once
                get_includes_claimed_and_delayed
                get_removes_nothing
                get_ignores_missing_ids
                delete_removes_a_free_one
                delete_removes_a_delayed_one
                delete_without_a_claim_keeps_a_claimed_one
                delete_with_its_claim
                delete_of_an_unclaimed_one_with_a_claim
                delete_with_the_wrong_claim
                delete_of_a_missing_message
                delete_many_of_any
                delete_many_of_claimed_ones
                delete_many_needs_live_claims
                delete_many_ignores_missing_ids
            }
            popping {
                pop_removes_the_first
                pop_skips_messages_that_are_not_free
                pop_removes_released_messages
                pop_of_an_empty_queue
                pop_skips_messages_that_the_caller_cannot_open
                a_pop_continues_after_many_unreadable_messages
            }
            purging {
                purge_removes_everything
                purge_ends_claims
                markers_stay_valid_after_a_purge
                a_purged_queue_can_be_used
                purge_of_an_empty_queue
            }
            stats {
                stats_count_by_state
                stats_include_the_first_and_the_last
                stats_follow_every_change
                stats_are_exact_after_a_sweep
                stats_are_off_by_unswept_messages_at_most
                stats_without_a_head_are_none
                volume_is_the_sum_of_all
            }
            listing {
                an_empty_queue_has_an_empty_page
                no_head_has_an_empty_page
                pages_follow_each_other
                the_last_page_has_a_marker
                a_marker_need_not_exist
                a_marker_may_have_expired
                a_marker_of_another_incarnation_begins_at_the_start
                a_marker_after_the_end_gives_an_empty_page
                claimed_messages_are_listed_on_request
                delayed_messages_are_listed_on_request
                excluded_clients_do_not_shorten_pages
                excluded_claims_do_not_shorten_pages
                a_long_excluded_run_is_skipped
            }
            delays {
                a_delayed_message_waits_until_it_is_due
                a_due_message_keeps_its_position
                a_delay_does_not_extend_the_ttl
                delays_of_one_batch_differ
            }
            claims {
                a_claim_gets_the_first_messages
                a_claim_without_messages_is_not_made
                a_claim_without_a_head_is_absent
                a_claim_with_another_generation_is_stale
                a_message_is_held_by_one_claim
                claims_skip_messages_that_are_not_free
                claims_skip_messages_that_the_caller_cannot_open
                skipped_messages_stay_free_among_others
                a_claim_continues_after_many_unreadable_messages
                a_claim_is_filled_past_skipped_messages
                claims_are_counted
                a_claim_extends_ttls
                a_claim_never_shortens_ttls
                an_extended_ttl_is_rounded_to_seconds
                an_extended_ttl_stays_after_the_claim
                a_claim_expires_with_its_ttl
                an_expired_claim_frees_messages_in_place
                claim_get_returns_the_held_messages
                claim_get_without_a_live_claim
                a_claim_outlives_its_messages
                renew_restarts_the_ttl
                renew_can_shorten_a_claim
                renew_extends_ttls
                renew_without_a_live_claim
                release_frees_messages_in_place
                release_without_a_live_claim
                each_message_has_a_claim_of_its_own
                claims_of_their_own_need_the_generation
                claims_of_their_own_take_messages_of_any_key
            }
            dead_letters {
                a_message_at_the_maximum_claim_count_moves
                a_dead_letter_keeps_payload_and_client
                a_dead_letter_is_stored_as_new
                a_dead_letter_has_the_ttl_of_the_rule
                a_dead_letter_without_a_ttl_keeps_its_expiry
                dead_letters_keep_their_order
                a_claim_is_filled_past_dead_letters
                many_dead_letters_do_not_hide_the_rest
                messages_that_the_caller_cannot_open_do_not_move
                only_claims_with_a_rule_move_messages
                a_changed_target_stops_the_claim
                a_changed_target_matters_only_to_dead_letters
                a_queue_can_be_its_own_target
            }
            isolation {
                projects_share_nothing
                kinds_share_nothing
                names_share_nothing
                concatenated_names_share_nothing
                rows_of_odd_keys_share_nothing
                ids_of_another_queue_find_nothing
                claims_of_another_queue_find_nothing
            }
            concurrency {
                concurrent_claims_are_disjoint
                concurrent_pops_are_disjoint
                concurrent_claims_and_pops_are_disjoint
                a_claim_or_a_delete_gets_a_message
                concurrent_claims_after_an_expired_one_are_disjoint
                concurrent_claims_move_each_dead_letter_once
                concurrent_posts_keep_their_order
                readers_see_each_message_once
                readers_see_whole_batches
                claims_and_pops_see_whole_batches
                readers_see_large_batches_whole
                large_batches_keep_their_order
                a_close_discards_racing_posts
                a_close_discards_a_racing_large_batch
                a_purge_of_a_racing_large_batch_is_whole
                a_sweep_does_not_disturb_claims
            }
            moving {
                a_frozen_head_rejects_every_call
                a_head_that_thaws_serves_as_before
                everything_arrives
                a_leased_entry_blocks_others_after_a_move
                a_repeated_import_changes_nothing
                a_call_of_another_move_does_nothing
                a_head_that_is_discarded_is_gone
                every_head_is_listed
            }
            upkeep {
                ping_answers
                a_store_that_is_shut_down_rejects_calls
                shutting_down_twice_is_harmless
                repeated_sweeps_end_and_leave_nothing
                sweeps_count_messages_that_expired
                a_sweep_is_bounded
                a_sweep_keeps_what_is_not_due
                messages_of_mixed_lives_expire_in_time
                a_sweep_after_purge_and_close_keeps_the_rest
                management_sweeps_end
            }
            subscriptions {
                subscriptions_round_trip
                a_subscriber_subscribes_once
                one_of_many_subscribers_subscribes
                subscribe_needs_the_generation
                a_subscription_expires_with_its_ttl
                an_expired_subscription_is_ignored
                a_subscription_is_of_one_queue
                subscriptions_are_listed_by_id
                subscriptions_on_a_lease_are_listed_separately
                recipients_have_an_address
                recipients_may_have_to_be_confirmed
                a_change_sets_only_its_fields
                a_change_to_a_taken_subscriber_changes_nothing
                one_of_many_changes_to_a_subscriber_succeeds
                unsubscribe_removes_one
                unsubscribe_all_removes_all
                closing_removes_subscriptions
            }
            outbox {
                a_post_writes_one_entry
                a_post_without_subscribers_writes_none
                a_post_that_notifies_nobody_writes_none
                every_live_subscription_counts
                a_dead_letter_writes_none
                entries_are_leased_oldest_first
                a_lease_is_bounded
                a_leased_entry_blocks_those_after_it
                entries_are_settled_together
                a_lease_holds_until_it_expires
                a_settled_entry_is_never_due_again
                concurrent_leases_are_disjoint
                an_entry_is_due_with_its_first_message
                entries_outlive_messages
                entries_expire_with_their_messages
                entries_end_with_the_last_subscription
                closing_discards_entries
                settling_a_missing_entry_is_not_an_error
                due_queues_come_longest_due_first
                every_due_queue_appears
                a_due_queue_is_listed_until_settled
                no_racing_post_is_missed
            }
            leases {
                subscriptions_are_removed_with_their_lease
                a_lease_can_be_extended
                an_expired_lease_stays_expired
                a_renewal_reports_the_state_of_the_lease
                ending_a_lease_removes_only_its_subscriptions
                subscriptions_on_an_unknown_lease_are_removed
                a_lease_with_many_subscriptions_is_swept_in_batches
            }
            following {
                a_post_can_be_followed
                a_large_batch_is_followed_whole
                a_post_without_followers_cannot_be_followed
                a_follower_continues_after_the_last_entry
                leasing_and_settling_do_not_hide_entries
                open_entries_outlive_following
                followed_entries_outlive_their_messages
                a_subscriber_gets_its_start_position
                no_racing_post_is_missed
            }
            news {
                every_post_is_reported
                news_report_only_posted_messages
                every_listener_gets_news
                a_slow_listener_blocks_nobody
                news_end_with_the_store
            }
            restart {
                rows_are_kept
                messages_are_kept
                claims_are_kept
                subscriptions_and_outbox_are_kept
                what_was_removed_stays_removed
                positions_are_not_reused_after_a_restart
            }
        }
    };
}

/// Tests every behaviour of a driver: expands to one `#[test]` each, in modules named after their
/// subjects.
///
/// The expression creates a [`Factory`](crate::Factory); it is evaluated once for each test, inside
/// a runtime with two worker threads.
///
/// ```
/// zaqar_storage_testkit::behaviour!(zaqar_storage_testkit::Memories::new());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! behaviour {
    ($factory:expr) => {
        fn __kit_factory() -> impl $crate::Factory {
            $factory
        }
        $crate::__behaviours!($crate::__tests);
        mod model {
            #[test]
            fn random_operations_agree_with_the_oracle() {
                $crate::model::run(super::__kit_factory, $crate::model::CASES);
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($($module:ident { $($test:ident)* })*) => {
        $(mod $module {
            $(#[test]
            fn $test() {
                $crate::block_on(async {
                    let name = concat!(stringify!($module), "::", stringify!($test));
                    $crate::check(super::__kit_factory(), name).await;
                });
            })*
        })*
    };
}
