//! Mistakes that [`super::Memory`] makes on request.

/// One mistake of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A claim takes messages that a live claim holds.
    DoubleClaim,
    /// A claim chooses its messages in one step and takes them in another.
    RacingClaims,
    /// A pop chooses its messages in one step and takes them in another.
    RacingPops,
    /// A pop takes messages that its caller cannot open.
    PopTakesUnreadable,
    /// A lease that the store has lost is renewed as if nothing had happened.
    LostLeaseContinues,
    /// The next position is the one after the last, however far the clock has gone.
    PositionsIgnoreClock,
    /// Outbox entries stay due after their messages expired and their subscribers left.
    EntriesOutliveReaders,
    /// The subscriptions on a lease are answered with those on others.
    LeasedOfOthers,
    /// A deletion looks at its message in one step and removes it in another.
    RacingDeletes,
    /// Two callers at once both create a row.
    TwoCreators,
    /// A batch is stored in reverse.
    LostOrder,
    /// A queue is found by kind and name alone.
    ProjectLeak,
    /// A queue is found by project and name alone.
    KindLeak,
    /// A message is still shown at the very moment its life ends.
    ExpiredShown,
    /// A claim still holds its messages at the very moment its life ends.
    ExpiredClaimHolds,
    /// A marker whose message is gone skips the message behind it.
    MarkerSkips,
    /// A marker whose message is gone begins at the head.
    MarkerRestarts,
    /// A page is cut first and filtered then, and an empty rest ends the listing.
    PageCutFirst,
    /// Half of a batch is seen before the other half.
    HalfBatch,
    /// A post does not look at the generation's version.
    StalePost,
    /// The next position follows the last message there is, not the last there was.
    PositionTwice,
    /// A message with a delay is claimed before it is due.
    DelayIgnored,
    /// Claims are not counted.
    ClaimNotCounted,
    /// A claim leaves the lives of its messages as they are.
    LifeNotExtended,
    /// A renewed claim still ends when it would have.
    RenewForgotten,
    /// A message leaves for the dead-letter queue and never arrives.
    DeadLetterLost,
    /// A message goes to the dead-letter queue with its count of claims.
    DeadLetterCounted,
    /// A message is shown without who posted it.
    ClientForgotten,
    /// A released message goes to the end.
    ReleasedToEnd,
    /// A purge leaves messages that a claim holds.
    PurgeLeavesClaimed,
    /// A claim outlives the purge of its queue.
    PurgeLeavesClaims,
    /// A queue that is closed and opened again shows what it held.
    CloseForgotten,
    /// Any claim named deletes a claimed message.
    AnyClaimDeletes,
    /// Stats count what has expired, also after a sweep.
    StatsStale,
    /// A sweep says that it has more to do when it has not.
    SweepNeverEnds,
    /// A sweep panics.
    SweepPanics,
    /// A store that was closed goes on answering.
    ClosedAnswers,
    /// A subscriber is subscribed a second time.
    SubscribedTwice,
    /// A subscription is changed to the subscriber of another.
    ChangedTwice,
    /// A new ttl of a subscription counts from when it was made.
    ChangeKeepsSince,
    /// A post to a queue with subscribers writes no outbox entry.
    OutboxForgotten,
    /// An outbox entry is due before its messages are.
    OutboxHasty,
    /// A lease holds nobody off.
    LeasedTwice,
    /// A lease that has run out holds others off.
    LeasedForever,
    /// A purge takes what the outbox holds.
    PurgeTakesOutbox,
    /// A listener that is more than 1000 posts behind misses them all.
    NewsLost,
    /// Versions and long lives go through a floating-point number.
    NumbersRounded,
    /// A created row is not kept.
    RowLost,
    /// A row that is created again is overwritten.
    RowOverwritten,
    /// A replacement compares in one step and changes in another.
    RacingReplaces,
    /// A replacement makes the row that is missing.
    ReplaceCreates,
    /// A removed row stays.
    RemoveForgotten,
    /// Rows are listed backwards.
    RowsReversed,
    /// Metadata comes back in another order.
    MetadataSorted,
    /// A step does not look at the generation that its caller assumes.
    AnyGeneration,
    /// A head does not know its generation.
    GenerationForgotten,
    /// A head that is opened again is new.
    OpenOverwrites,
    /// A head takes any version that it is told.
    AdvanceLowers,
    /// A head is closed only in its first version.
    CloseAsksVersion,
    /// A post, a claim or a question opens the head that is missing.
    OpensByItself,
    /// A queue without a head fails instead of being empty.
    NothingFails,
    /// A post takes its places in one step and fills them in another.
    RacingPosts,
    /// The page of a queue that never had a message has a next one.
    EndlessListing,
    /// A full page with the last message has no next one.
    LastPageEnds,
    /// Time is kept in whole seconds.
    TimeRounded,
    /// What is deleted or unsubscribed stays.
    DeleteForgotten,
    /// Subscriptions are listed backwards.
    SubscriptionsReversed,
    /// A post writes an outbox entry for nobody.
    OutboxAlways,
    /// The queues that are due are always the same.
    DueQueuesStuck,
    /// A store that is shut down again fails.
    EndsTwice,
    /// A subscriber is told a place behind which the next post does not lie.
    SubscribedLate,
    /// A post to a queue with subscribers on leases writes nothing to follow.
    FollowForgotten,
    /// What is only there to be followed is handed to workers.
    FollowedIsDue,
    /// Who follows begins with the oldest entry each time.
    FollowRestarts,
    /// A settled entry cannot be followed.
    SettledHidden,
    /// A lease never ends for what hangs on it.
    LeaseForever,
    /// A lease that is over is kept again.
    LeaseRevived,
    /// A time far ahead of the present holds until the present reaches it.
    TimeAheadKept,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 78] = [
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
        Self::PageCutFirst,
        Self::HalfBatch,
        Self::StalePost,
        Self::PositionTwice,
        Self::DelayIgnored,
        Self::ClaimNotCounted,
        Self::LifeNotExtended,
        Self::RenewForgotten,
        Self::DeadLetterLost,
        Self::DeadLetterCounted,
        Self::ClientForgotten,
        Self::ReleasedToEnd,
        Self::PurgeLeavesClaimed,
        Self::PurgeLeavesClaims,
        Self::CloseForgotten,
        Self::AnyClaimDeletes,
        Self::StatsStale,
        Self::SweepNeverEnds,
        Self::SweepPanics,
        Self::ClosedAnswers,
        Self::SubscribedTwice,
        Self::ChangedTwice,
        Self::ChangeKeepsSince,
        Self::OutboxForgotten,
        Self::OutboxHasty,
        Self::LeasedTwice,
        Self::LeasedForever,
        Self::PurgeTakesOutbox,
        Self::NewsLost,
        Self::NumbersRounded,
        Self::RowLost,
        Self::RowOverwritten,
        Self::RacingReplaces,
        Self::ReplaceCreates,
        Self::RemoveForgotten,
        Self::RowsReversed,
        Self::MetadataSorted,
        Self::AnyGeneration,
        Self::GenerationForgotten,
        Self::OpenOverwrites,
        Self::AdvanceLowers,
        Self::CloseAsksVersion,
        Self::OpensByItself,
        Self::NothingFails,
        Self::RacingPosts,
        Self::EndlessListing,
        Self::LastPageEnds,
        Self::TimeRounded,
        Self::DeleteForgotten,
        Self::SubscriptionsReversed,
        Self::OutboxAlways,
        Self::DueQueuesStuck,
        Self::EndsTwice,
        Self::SubscribedLate,
        Self::FollowForgotten,
        Self::FollowedIsDue,
        Self::FollowRestarts,
        Self::SettledHidden,
        Self::LeaseForever,
        Self::LeaseRevived,
        Self::PopTakesUnreadable,
        Self::LostLeaseContinues,
        Self::LeasedOfOthers,
        Self::PositionsIgnoreClock,
        Self::EntriesOutliveReaders,
        Self::TimeAheadKept,
    ];
}
