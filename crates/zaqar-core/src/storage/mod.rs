//! What a store does: the traits that a driver implements, one a resource.
//!
//! Two roles, which may be two different backends: a [`ManagementStore`] keeps queue rows, a
//! [`MessageStore`] keeps heads and what is in queues.
//!
//! | trait | what it keeps |
//! |---|---|
//! | [`Queues`] | rows: metadata by queue |
//! | [`Heads`] | that a queue is there, and in which generation: nothing of what follows is kept for a queue without a head |
//! | [`Messages`], [`Claims`] | messages in order, who holds them, dead letters |
//! | [`Subscriptions`], [`Leases`] | who hears of posts, and whose end ends that |
//! | [`Outbox`], [`News`] | what subscribers are yet to hear, and that there is something to hear |
//! | [`Upkeep`] | both roles: health, cleaning, the end |
//!
//! Of every method it holds that
//! - it is one atomic step: it happens whole or not at all, and once it has answered `Ok` what it
//!   did is durable to the degree that the driver is configured for;
//! - any number of tasks and processes may call it at once;
//! - a queue without a head holds nothing: what reads it finds nothing, what removes from it does
//!   nothing, neither is an error, and only [`Heads::open`] gives it a head;
//! - `now` never runs backwards for a queue: a store that sees an earlier `now` than before acts at
//!   the later one, unless that one lies further ahead of real time than clocks may differ
//!   ([`MAX_CLOCK_SKEW`] where nothing else is configured): then it is repaired to `now`;
//! - a store that several servers share compares `now` with a clock of its own in the same step,
//!   and answers [`Error::ClockSkew`], having done nothing, where they differ by more than the
//!   bound.

mod claims;
mod error;
mod heads;
mod leases;
mod messages;
mod news;
mod outbox;
mod queues;
mod subscriptions;
mod upkeep;

pub use claims::{Claim, ClaimRequest, Claimed, Claims, DeadLetters};
pub use error::Error;
pub use heads::{Guarded, Heads};
pub use leases::{Leases, Renewal};
pub use messages::{
    Batch, Deletable, Deleted, Endpoint, ListQuery, Message, MessagePage, Messages, NewMessage,
    PopPage, PopQuery, Stats, Volume,
};
pub use news::{News, NewsStream, Posted};
pub use outbox::{FOLLOWED_FOR, Outbox, OutboxEntry, OutboxMessage};
pub use queues::{QueueRow, Queues};
pub use subscriptions::{
    Changed, NewSubscription, Subscribed, Subscription, SubscriptionChange, Subscriptions,
};
pub use upkeep::{Swept, Upkeep};

/// How far a server's clock may be from that of a store, or of the other servers, where nothing
/// else is configured.
pub const MAX_CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(30);

/// Keeps what is known of queues: implemented by every type that has its parts.
pub trait ManagementStore: Queues + Upkeep {}

impl<T: Queues + Upkeep> ManagementStore for T {}

/// Keeps what is in queues: implemented by every type that has its parts.
pub trait MessageStore:
    Heads + Messages + Claims + Subscriptions + Leases + Outbox + News + Upkeep
{
}

impl<T: Heads + Messages + Claims + Subscriptions + Leases + Outbox + News + Upkeep> MessageStore
    for T
{
}
