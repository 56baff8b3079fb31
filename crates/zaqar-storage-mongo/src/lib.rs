#![doc = include_str!("../README.md")]

// The tests' support names this crate as everybody does.
#[cfg(test)]
extern crate self as zaqar_storage_mongo;

mod claims;
mod config;
mod connect;
#[cfg(test)]
mod crashes;
mod driver;
mod error;
mod foreign;
mod heads;
mod leases;
mod letters;
mod listing;
mod messages;
mod news;
mod outbox;
mod posting;
mod query;
mod queues;
mod schema;
mod steps;
mod stored;
mod subscriptions;
mod sweeping;
mod upkeep;
mod view;

pub use config::{Options, Tls};
pub use driver::Mongo;
pub use error::Error;
