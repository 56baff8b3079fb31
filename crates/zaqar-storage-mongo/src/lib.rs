#![doc = include_str!("../README.md")]

// The tests' support names this crate as everybody does.
#[cfg(test)]
extern crate self as zaqar_storage_mongo;

mod background;
mod carried;
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
mod foreign;
mod gates;
mod heads;
mod holding;
mod leases;
mod listing;
mod messages;
mod news;
mod news_hub;
mod outbox;
mod placing;
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
mod volume;

pub use config::{Options, Tls};
pub use driver::Mongo;
pub use error::Error;
