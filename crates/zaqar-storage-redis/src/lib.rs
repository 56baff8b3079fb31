#![doc = include_str!("../README.md")]

mod agenda;
mod claims;
mod clients;
mod config;
mod connection;
mod driver;
mod error;
mod foreign;
mod heads;
mod keys;
mod leases;
mod letters;
mod messages;
mod news;
mod outbox;
mod queues;
mod record;
mod reply;
mod scripts;
mod subscriptions;
mod upkeep;
mod uri;

pub use config::Options;
pub use driver::Redis;
pub use error::Error;
pub use uri::{Host, Servers, Tls, Uri, User};
