#![doc = include_str!("../README.md")]

mod answer_sizes;
mod broadcaster;
mod claims;
mod clients;
mod cluster;
mod config;
mod dead_letters;
mod direct;
mod driver;
mod envelope;
mod error;
mod fair_limiter;
#[cfg(test)]
mod fake_node;
mod groups;
mod heads;
mod health;
mod keys;
mod layout;
mod leases;
mod messages;
mod moves;
mod news;
mod outbox;
mod parts;
mod peer;
mod pool;
mod posts;
mod queues;
mod reads;
mod record;
mod reply;
mod schedule;
mod scripts;
mod sentinel;
mod server;
mod startup;
mod subscriptions;
mod upkeep;
mod uri;
mod walk;

pub use config::Options;
pub use driver::Redis;
pub use error::Error;
pub use uri::{Host, Servers, Tls, Uri, User};
