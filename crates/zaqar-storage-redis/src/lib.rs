#![doc = include_str!("../README.md")]

mod claims;
mod clients;
mod cluster;
mod condition;
mod config;
mod dead_letters;
mod driver;
mod envelope;
mod error;
#[cfg(test)]
mod fake_node;
mod foreign;
mod groups;
mod heads;
mod hub;
mod keys;
mod layout;
mod leases;
mod messages;
mod news;
mod outbox;
mod peer;
mod pool;
mod posts;
mod queues;
mod record;
mod reply;
mod schedule;
mod scripts;
mod sentinel;
mod server;
mod subscriptions;
mod turns;
mod upkeep;
mod uri;

pub use config::Options;
pub use driver::Redis;
pub use error::Error;
pub use uri::{Host, Servers, Tls, Uri, User};
