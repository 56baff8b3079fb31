#![doc = include_str!("../README.md")]

mod checkpoint;
mod claims;
mod config;
mod directory;
mod driver;
mod due;
mod error;
mod heads;
mod leases;
mod ledger;
mod listing;
mod loose;
mod messages;
mod news;
mod outbox;
mod queues;
mod reader;
mod room;
mod rows;
mod schema;
mod statements;
mod subscriptions;
mod sync;
mod taking;
#[cfg(test)]
mod testing;
mod upkeep;
mod writer;

pub use config::{Options, Sync};
pub use driver::Embedded;
pub use error::Error;
