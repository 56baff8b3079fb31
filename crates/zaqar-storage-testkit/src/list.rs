//! The list of behaviours, and the macro that makes tests of them.

/// Writes the list of behaviours into a macro. What is listed here is tested; what is not is dead
/// code.
#[doc(hidden)]
#[macro_export]
macro_rules! __behaviours {
    ($($then:tt)*) => {
        $($then)*! {
            queues {
                create_keeps_the_row
                create_leaves_a_row_that_is_there
                of_many_creators_one_creates
                get_shows_the_last_finished_change
                metadata_comes_back_as_it_was
                generations_of_any_size_come_back
                replace_needs_the_generation
                replace_changes_nothing_without_a_row
                of_many_replacers_one_replaces
                remove_needs_the_incarnation
                a_removed_row_can_be_created_again
                list_is_ascending_by_byte
                list_begins_behind_any_name
                list_pages_are_full_until_the_end
                list_shows_one_project_and_kind
                count_is_what_list_shows
            }
            heads {
                open_makes_an_empty_head
                open_leaves_a_head_that_is_there
                of_many_openers_one_opens
                generation_of_nothing_is_none
                generations_of_any_size_come_back
                advance_raises_the_version
                advance_never_lowers_the_version
                advance_needs_the_incarnation
                close_hides_everything
                close_needs_the_incarnation
                close_does_not_ask_for_the_version
                a_new_life_shows_nothing_of_the_old
            }
            messages {
                a_batch_keeps_its_order
                batches_follow_each_other
                a_large_batch_is_stored_whole
                what_was_posted_comes_back
                payloads_of_any_bytes_come_back
                a_post_without_a_head_is_absent
                a_post_with_another_generation_is_stale
                no_position_twice_after_deletes
                no_position_twice_after_a_purge
                no_position_twice_after_expiry
                positions_follow_the_clock
                a_message_lives_until_its_ttl_is_over
                messages_expire_one_by_one
                time_does_not_go_back
                a_time_far_ahead_is_repaired
                get_is_in_order_and_once
                get_shows_claimed_and_delayed
                get_leaves_out_what_is_not_there
                delete_removes_a_free_one
                delete_removes_a_delayed_one
                delete_leaves_a_claimed_one
                delete_with_its_claim
                delete_with_a_claim_of_nothing
                delete_with_the_wrong_claim
                delete_of_what_is_gone
                delete_many_of_any
                delete_many_of_held_ones
                delete_many_asks_for_live_claims
                delete_many_of_nothing
            }
            popping {
                pop_takes_the_first
                pop_passes_over_what_is_not_free
                pop_takes_what_a_claim_left
                pop_of_nothing
                pop_leaves_what_its_caller_cannot_open
                a_pop_past_many_unreadable_messages_goes_on
            }
            purging {
                purge_removes_everything
                purge_ends_claims
                markers_outlive_a_purge
                a_purged_queue_goes_on
                purge_of_nothing
            }
            stats {
                stats_count_by_state
                stats_show_the_ends
                stats_follow_every_change
                stats_are_exact_after_a_sweep
                stats_are_never_off_by_more_than_what_waits
                stats_of_nothing
                volume_is_the_sum_of_all
            }
            listing {
                an_empty_queue_has_an_empty_page
                no_head_has_an_empty_page
                pages_follow_each_other
                the_last_page_says_where_to_go_on
                a_marker_need_not_exist
                a_marker_may_have_expired
                a_marker_of_another_life_begins_at_the_head
                a_marker_beyond_the_end_ends
                claimed_ones_are_shown_on_request
                delayed_ones_are_shown_on_request
                hidden_clients_do_not_shorten_pages
                hidden_claims_do_not_shorten_pages
                a_long_hidden_run_is_passed
            }
            delays {
                a_delayed_message_waits_until_it_is_due
                a_due_message_has_its_old_place
                a_delay_does_not_lengthen_a_life
                delays_of_one_batch_differ
            }
            claims {
                a_claim_takes_the_first
                a_claim_with_nothing_to_take_is_none
                a_claim_without_a_head_is_absent
                a_claim_with_another_generation_is_stale
                a_message_is_held_by_one_claim
                claims_pass_over_what_is_not_free
                a_claim_is_filled_from_behind_what_it_passes_over
                claims_are_counted
                a_claim_lengthens_lives
                a_claim_never_shortens_lives
                a_lengthened_life_is_shown_in_whole_seconds
                a_longer_life_outlives_its_claim
                a_claim_lives_until_its_ttl_is_over
                an_expired_claim_leaves_old_places
                claim_get_shows_what_is_held
                claim_get_of_nothing
                a_claim_outlives_its_messages
                renew_starts_again
                renew_can_shorten_a_claim
                renew_lengthens_lives
                renew_of_nothing
                release_leaves_old_places
                release_of_nothing
            }
            dead_letters {
                a_message_claimed_often_enough_moves
                a_letter_keeps_payload_and_client
                a_letter_starts_anew
                a_letter_lives_as_long_as_the_rule_says
                a_letter_without_a_rule_lives_out_its_life
                letters_keep_their_order
                a_claim_is_filled_from_behind_letters
                many_letters_do_not_hide_the_rest
                only_claims_with_a_rule_move_messages
                a_changed_target_stops_the_claim
                a_changed_target_matters_only_to_letters
                a_queue_can_be_its_own_target
            }
            isolation {
                projects_share_nothing
                kinds_share_nothing
                names_share_nothing
                joined_names_share_nothing
                rows_of_odd_keys_share_nothing
                ids_of_another_queue_find_nothing
                claims_of_another_queue_find_nothing
            }
            concurrency {
                claimers_share_out_messages
                poppers_share_out_messages
                claimers_and_poppers_share_out_messages
                a_claim_or_a_deletion_gets_a_message
                claimers_share_out_what_an_expired_claim_held
                claimers_move_each_letter_once
                posters_keep_their_orders
                readers_see_each_message_once
                readers_see_whole_batches
                claims_and_pops_see_whole_batches
                a_close_takes_racing_posts_along
                a_sweep_takes_nothing_from_claimers
            }
            upkeep {
                ping_answers
                a_store_that_is_shut_down_refuses
                shutting_down_twice_is_once
                sweeping_ends_and_leaves_nothing
                a_sweep_is_bounded
                a_sweep_leaves_what_is_not_due
                a_sweep_after_purge_and_close_leaves_the_rest
                management_sweeps_end
            }
            subscriptions {
                what_was_subscribed_comes_back
                a_subscriber_subscribes_once
                of_many_subscribers_one_subscribes
                subscribe_needs_the_generation
                a_subscription_lives_until_its_ttl_is_over
                one_that_is_over_is_no_obstacle
                a_subscription_is_of_one_queue
                subscriptions_are_listed_by_id
                those_on_a_lease_are_listed_alone
                a_change_changes_what_it_names
                a_change_to_a_taken_subscriber_changes_nothing
                of_many_changes_to_one_subscriber_one_is_made
                unsubscribe_removes_one
                unsubscribe_all_removes_all
                closing_ends_subscriptions
            }
            outbox {
                a_post_writes_one_entry
                a_post_without_subscribers_writes_none
                a_post_that_notifies_nobody_writes_none
                every_live_subscription_counts
                a_dead_letter_writes_none
                entries_are_leased_oldest_first
                a_lease_lasts_until_it_runs_out
                workers_share_out_entries
                an_entry_is_due_with_its_first_message
                entries_outlive_messages
                entries_end_with_their_messages
                entries_end_with_the_last_subscription
                closing_ends_entries
                settling_nothing_is_no_error
                due_queues_come_longest_due_first
                every_due_queue_appears
                a_due_queue_is_named_until_it_is_settled
                no_racing_post_is_missed
            }
            leases {
                subscriptions_go_with_their_lease
                a_lease_can_be_kept_longer
                a_lease_that_is_over_stays_over
                a_renewal_says_what_became_of_the_lease
                an_ended_lease_takes_its_own_with_it
                nothing_hangs_on_a_lease_that_was_never_kept
                a_lease_with_much_on_it_ends_in_pieces
            }
            following {
                a_post_can_be_followed
                what_nobody_follows_is_not_kept
                who_follows_goes_on_behind_what_was_shown
                workers_take_nothing_from_who_follows
                what_is_open_outlasts_who_follows
                entries_outlast_their_messages
                a_subscriber_learns_where_to_begin
                no_racing_post_is_missed
            }
            news {
                every_post_is_named
                news_name_what_is_posted
                every_listener_hears
                a_slow_listener_holds_up_nobody
                news_end_with_the_store
            }
            restart {
                rows_are_kept
                messages_are_kept
                claims_are_kept
                subscriptions_and_outbox_are_kept
                what_was_removed_stays_removed
                no_position_twice_after_a_restart
            }
        }
    };
}

/// Tests every behaviour of a driver: expands to one `#[test]` each, in modules named after what
/// they are about.
///
/// The expression makes a [`Factory`](crate::Factory); it runs once for each test, inside a runtime
/// with two worker threads.
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
