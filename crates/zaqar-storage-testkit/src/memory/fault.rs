//! Faults that can be injected into [`super::Memory`].

/// A violation of one rule by a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A claim gets messages that another live claim holds.
    DoubleClaim,
    /// A claim chooses its messages in one step and claims them in another.
    RacingClaims,
    /// A pop chooses its messages in one step and removes them in another.
    RacingPops,
    /// A pop removes messages that its caller cannot open.
    PopRemovesUnreadable,
    /// A claim takes messages that its caller cannot open.
    ClaimTakesUnreadable,
    /// A lease that the store has lost is reported as continued.
    LostLeaseContinues,
    /// The next position follows the last one, even if the clock is ahead.
    PositionsIgnoreClock,
    /// Outbox entries stay due after their messages expired and their subscribers left.
    EntriesOutliveReaders,
    /// The list of subscriptions on a lease contains those on other leases.
    LeaseListsOthers,
    /// A delete checks its message in one step and removes it in another.
    RacingDeletes,
    /// Two concurrent callers both create a row.
    TwoCreators,
    /// A batch is stored in reverse.
    LostOrder,
    /// A queue is found by kind and name alone.
    ProjectLeak,
    /// A queue is found by project and name alone.
    KindLeak,
    /// A message is still returned at the exact time of its expiry.
    ExpiredShown,
    /// A claim still holds its messages at the exact time of its expiry.
    ExpiredClaimHolds,
    /// A marker whose message is gone skips the message after it.
    MarkerSkips,
    /// A marker whose message is gone begins at the start of the queue.
    MarkerRestarts,
    /// A page is cut to its limit before it is filtered, and an empty page ends the listing.
    PageCutBeforeFilter,
    /// Half of a batch is visible before the other half.
    HalfBatch,
    /// A post does not compare the generation's version.
    StalePost,
    /// The next position follows the last existing message instead of the last assigned position.
    PositionReused,
    /// A message with a delay is claimed before it is due.
    DelayIgnored,
    /// Claims are not counted.
    ClaimNotCounted,
    /// A claim does not extend the ttl of its messages.
    TtlNotExtended,
    /// A renewed claim keeps its expiry.
    RenewIgnored,
    /// A dead letter is removed from its queue and not stored in the dead-letter queue.
    DeadLetterLost,
    /// A dead letter keeps its claim count.
    DeadLetterCounted,
    /// A message is returned without the client that posted it.
    ClientLost,
    /// A released message moves to the end of the queue.
    ReleasedToEnd,
    /// A purge does not remove claimed messages.
    PurgeLeavesClaimed,
    /// A purge does not remove claims.
    PurgeLeavesClaims,
    /// A queue that is closed and opened again has its old contents.
    CloseKeepsContents,
    /// A delete that names any claim deletes a claimed message.
    AnyClaimDeletes,
    /// Stats count expired messages, even after a sweep.
    StatsStale,
    /// A sweep reports more work when there is none.
    SweepNeverEnds,
    /// A sweep panics.
    SweepPanics,
    /// A store that was shut down still serves calls.
    ServesAfterShutDown,
    /// A subscriber is subscribed a second time.
    SubscribedTwice,
    /// A subscription is changed to the subscriber of another.
    ChangedToTakenSubscriber,
    /// A new ttl of a subscription counts from its creation.
    ChangeKeepsSince,
    /// A post to a queue with subscribers writes no outbox entry.
    OutboxNotWritten,
    /// An outbox entry is due before its messages are.
    OutboxDueEarly,
    /// A lease on an outbox entry is ignored.
    EntryLeaseIgnored,
    /// A lease on an outbox entry never expires.
    EntryLeaseNeverExpires,
    /// A purge clears the outbox.
    PurgeClearsOutbox,
    /// A listener that lags by more than 1000 posts gets none of them.
    NewsLost,
    /// Versions and long ttls are rounded to floating-point numbers.
    NumbersRounded,
    /// A created row is not stored.
    RowLost,
    /// A row that is created again is overwritten.
    RowOverwritten,
    /// A replacement compares in one step and changes in another.
    RacingReplaces,
    /// A replacement creates a missing row.
    ReplaceCreates,
    /// A row is not removed.
    RemoveIgnored,
    /// Rows are listed in reverse.
    RowsReversed,
    /// Metadata is returned in another order.
    MetadataSorted,
    /// The generation that a caller assumes is not compared.
    AnyGeneration,
    /// The generation of a head is not returned.
    GenerationLost,
    /// Opening an existing head replaces it.
    OpenOverwrites,
    /// Advancing a head can lower its version.
    AdvanceLowers,
    /// A head can be closed only in its first version.
    CloseChecksVersion,
    /// A post, a claim or a read opens a missing head.
    OpensMissingHead,
    /// Calls for a queue without a head fail.
    MissingHeadFails,
    /// A post assigns its positions in one step and stores its messages in another.
    RacingPosts,
    /// The page of an empty queue has a marker.
    EndlessListing,
    /// A full page that ends with the last message has no marker.
    LastPageHasNoMarker,
    /// Times are stored in whole seconds.
    TimeRounded,
    /// Deleted messages and removed subscriptions stay.
    DeleteIgnored,
    /// Subscriptions are listed in reverse.
    SubscriptionsReversed,
    /// A post writes an outbox entry even without subscribers.
    OutboxAlwaysWritten,
    /// The list of due queues never changes.
    DueQueuesStuck,
    /// A second shutdown fails.
    SecondShutDownFails,
    /// The start position of a subscriber is not before the next post.
    StartPositionTooLate,
    /// A post to a queue with subscribers on leases writes no entry to follow.
    FollowersIgnored,
    /// An entry that is only for followers is leased to workers.
    FollowedIsDue,
    /// A follower gets the oldest entry each time.
    FollowRestarts,
    /// A settled entry cannot be followed.
    SettledHidden,
    /// Subscriptions on expired leases are not removed.
    LeaseNeverExpires,
    /// An expired lease can be renewed.
    LeaseRevived,
    /// The list of recipients contains subscriptions on leases.
    RecipientsOnLeases,
    /// The list of recipients contains unconfirmed subscriptions, whatever was asked for.
    RecipientsUnconfirmed,
    /// A claim does not compare the generation's version.
    StaleClaim,
    /// An expired claim can be renewed.
    LostClaimRenews,
    /// A delete of what claims hold deletes what they have lost too.
    LostClaimDeletes,
    /// A listing leaves out claimed messages, whatever was asked for.
    ListHidesClaimed,
    /// A message that is read by its id is removed.
    GetRemoves,
    /// A leased entry has the time of its lease.
    EntryCreatedWhenLeased,
    /// An entry cannot be settled.
    SettleIgnored,
    /// A latest time far in the future is not reset.
    TimeAheadKept,
    /// A frozen head serves.
    FreezeIgnored,
    /// A head that thaws stays frozen.
    ThawIgnored,
    /// A move loses claims.
    MoveLosesClaims,
    /// A repeated import counts as a claim of each message.
    ImportRepeated,
    /// The move that a call names is not compared.
    AnyMove,
    /// The first head is not listed.
    HeadUnlisted,
    /// An entry is leased although an older one is.
    LeaseOvertakes,
    /// A lease takes all entries, whatever its bounds.
    LeaseUnbounded,
    /// Of entries that are settled together, only the first is.
    SettlesOne,
    /// Messages that are to be claimed each on its own share the first claim.
    ClaimShared,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 98] = [
        Self::DoubleClaim,
        Self::RacingClaims,
        Self::RacingPops,
        Self::RacingDeletes,
        Self::TwoCreators,
        Self::LostOrder,
        Self::ProjectLeak,
        Self::KindLeak,
        Self::ExpiredShown,
        Self::ExpiredClaimHolds,
        Self::MarkerSkips,
        Self::MarkerRestarts,
        Self::PageCutBeforeFilter,
        Self::HalfBatch,
        Self::StalePost,
        Self::PositionReused,
        Self::DelayIgnored,
        Self::ClaimNotCounted,
        Self::TtlNotExtended,
        Self::RenewIgnored,
        Self::DeadLetterLost,
        Self::DeadLetterCounted,
        Self::ClientLost,
        Self::ReleasedToEnd,
        Self::PurgeLeavesClaimed,
        Self::PurgeLeavesClaims,
        Self::CloseKeepsContents,
        Self::AnyClaimDeletes,
        Self::StatsStale,
        Self::SweepNeverEnds,
        Self::SweepPanics,
        Self::ServesAfterShutDown,
        Self::SubscribedTwice,
        Self::ChangedToTakenSubscriber,
        Self::ChangeKeepsSince,
        Self::OutboxNotWritten,
        Self::OutboxDueEarly,
        Self::EntryLeaseIgnored,
        Self::EntryLeaseNeverExpires,
        Self::PurgeClearsOutbox,
        Self::NewsLost,
        Self::NumbersRounded,
        Self::RowLost,
        Self::RowOverwritten,
        Self::RacingReplaces,
        Self::ReplaceCreates,
        Self::RemoveIgnored,
        Self::RowsReversed,
        Self::MetadataSorted,
        Self::AnyGeneration,
        Self::GenerationLost,
        Self::OpenOverwrites,
        Self::AdvanceLowers,
        Self::CloseChecksVersion,
        Self::OpensMissingHead,
        Self::MissingHeadFails,
        Self::RacingPosts,
        Self::EndlessListing,
        Self::LastPageHasNoMarker,
        Self::TimeRounded,
        Self::DeleteIgnored,
        Self::SubscriptionsReversed,
        Self::OutboxAlwaysWritten,
        Self::DueQueuesStuck,
        Self::SecondShutDownFails,
        Self::StartPositionTooLate,
        Self::FollowersIgnored,
        Self::FollowedIsDue,
        Self::FollowRestarts,
        Self::SettledHidden,
        Self::LeaseNeverExpires,
        Self::LeaseRevived,
        Self::PopRemovesUnreadable,
        Self::ClaimTakesUnreadable,
        Self::LostLeaseContinues,
        Self::LeaseListsOthers,
        Self::PositionsIgnoreClock,
        Self::EntriesOutliveReaders,
        Self::TimeAheadKept,
        Self::StaleClaim,
        Self::LostClaimRenews,
        Self::LostClaimDeletes,
        Self::ListHidesClaimed,
        Self::GetRemoves,
        Self::EntryCreatedWhenLeased,
        Self::SettleIgnored,
        Self::RecipientsOnLeases,
        Self::RecipientsUnconfirmed,
        Self::FreezeIgnored,
        Self::ThawIgnored,
        Self::MoveLosesClaims,
        Self::ImportRepeated,
        Self::AnyMove,
        Self::HeadUnlisted,
        Self::LeaseOvertakes,
        Self::LeaseUnbounded,
        Self::SettlesOne,
        Self::ClaimShared,
    ];
}
