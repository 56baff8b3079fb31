//! The traits that a storage driver implements, one per resource.
//!
//! There are two roles, which may be two different backends: a [`ManagementStore`] keeps queue
//! rows, a [`MessageStore`] keeps heads and the contents of queues.
//!
//! | trait | what it stores |
//! |---|---|
//! | [`Queues`] | rows: metadata by queue |
//! | [`Heads`] | that a queue exists, and its generation: nothing below is stored for a queue without a head |
//! | [`Messages`], [`Claims`] | messages in order, the claims that hold them, dead letters |
//! | [`Subscriptions`], [`Leases`] | who is notified of posts, and the leases that subscriptions depend on |
//! | [`Outbox`], [`News`] | posts that subscribers have not been notified of yet, and hints that there are some |
//! | [`Moves`] | for a queue on its way to another store; not every store has it: [`Movable`] |
//! | [`Upkeep`] | both roles: health checks, sweeps, shutdown |
//!
//! The following holds for every method:
//! - It is one atomic step: all or nothing. Once it has returned `Ok`, its effect is as durable as
//!   the driver is configured to make it.
//! - Any number of tasks and processes may call it concurrently.
//! - A queue without a head is empty: reads find nothing and removals do nothing, without an error.
//!   Only [`Heads::open`] creates a head.
//! - Time never goes backwards for a queue: a store that gets an earlier `now` than before uses the
//!   later one, unless that is further ahead of real time than clocks may differ
//!   ([`MAX_CLOCK_SKEW`] by default). In that case the stored time is reset to `now`. See
//!   [`effective_time`].
//! - What has expired is hidden at once, and deleted by [`Upkeep::sweep`]: the `now` of any other
//!   call may turn out to be wrong, so it deletes nothing. A store that compares `now` with a clock
//!   of its own may delete sooner.
//! - A store that several servers share compares `now` with its own clock in the same step. If they
//!   differ by more than the bound, it returns [`Error::ClockSkew`] and does nothing.
//!
//! # What a driver need not write
//!
//! A method that follows from others has a default, which states what it costs: a store overrides
//! it where it can do better. A rule about a value is a method of that value: [`effective_time`],
//! [`Guarded::check`], [`crate::Position::next_at`], [`Deleted::answer`], [`ListQuery::includes`],
//! and those of [`MessageRow`], [`ClaimRow`], [`EntryRow`] and [`Subscription`], which are rows
//! that a store can keep as they are. The `Default` of an answer is that of a queue without a head.
//! A store that no other process posts to has its [`News`] from a [`Broadcaster`].
//!
//! A store that wraps another one must forward every method, also those with a default; the lint
//! `clippy::missing_trait_methods` checks it.

mod broadcaster;
mod choices;
mod claims;
mod error;
mod heads;
mod leases;
mod messages;
mod move_id;
mod moves;
mod news;
mod outbox;
mod queues;
mod rows;
mod subscriptions;
mod time;
mod upkeep;

pub use broadcaster::Broadcaster;
pub use choices::{Chosen, Skipping};
pub use claims::{Claim, ClaimRequest, Claimed, Claims, DeadLetters};
pub use error::Error;
pub use heads::{Guarded, Heads};
pub use leases::{Leases, Renewal};
pub use messages::{
    Batch, Deletable, Deleted, Endpoint, ListQuery, Message, MessagePage, Messages, NewMessage,
    PopPage, PopQuery, Skipped, Stats, Volume,
};
pub use move_id::{MoveEnd, MoveId};
pub use moves::{Contents, ContentsMark, Exported, FrozenHead, Movable, Moves};
pub use news::{News, NewsStream, Posted};
pub use outbox::{DueQueue, FOLLOWED_FOR, LeaseRequest, Outbox, OutboxEntry, OutboxMessage};
pub use queues::{QueueRow, Queues};
pub use rows::{ClaimRow, EntryRow, MessageRow, MessageState};
pub use subscriptions::{
    Changed, NewSubscription, RecipientQuery, Subscribed, Subscription, SubscriptionChange,
    Subscriptions,
};
pub use time::{MAX_CLOCK_SKEW, effective_time};
pub use upkeep::{Swept, Upkeep};

/// What a call to a store returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A store of queue rows. Every type that implements the parts implements it.
pub trait ManagementStore: Queues + Upkeep {}

impl<T: Queues + Upkeep> ManagementStore for T {}

/// A store of the contents of queues. Every type that implements the parts implements it.
pub trait MessageStore:
    Heads + Messages + Claims + Subscriptions + Leases + Outbox + News + Movable + Upkeep
{
}

impl<T: Heads + Messages + Claims + Subscriptions + Leases + Outbox + News + Movable + Upkeep>
    MessageStore for T
{
}
