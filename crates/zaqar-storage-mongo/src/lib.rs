#![doc = include_str!("../README.md")]

// The tests' support code refers to this crate by its name.
#[cfg(test)]
extern crate self as zaqar_storage_mongo;

mod applied;
mod background;
mod broadcaster;
mod claims;
mod config;
mod connect;
mod counts;
#[cfg(test)]
mod crashes;
mod dead_letters;
mod draft;
mod driver;
mod elections;
mod entries;
mod error;
mod first_free;
mod heads;
mod holding;
mod intents;
mod leases;
mod listing;
mod messages;
mod moves;
mod news;
mod original_data;
mod outbox;
mod pending_posts;
mod posting;
mod query;
mod queue_locks;
mod queues;
mod schema;
mod stored;
mod subscriptions;
mod sweeping;
mod upkeep;
mod view;
mod volume;

pub use config::{Options, Tls};
pub use driver::Mongo;
pub use error::Error;
