#![doc = include_str!("../README.md")]

pub mod address;
mod announce;
mod ask;
mod ask_recovery;
mod attempt;
mod audiences;
mod channel;
mod confirmation;
mod context;
mod deliveries;
pub mod delivery_options;
pub mod destination;
mod destinations;
mod dispatch;
mod events;
mod expand;
pub mod fairness;
pub mod filter;
pub mod http;
mod in_service;
mod log;
mod log_store;
pub mod mail;
mod memory;
pub mod outcome;
mod rates;
mod read_subject;
mod recovery;
pub mod retry;
mod row;
mod secrets;
mod serve;
pub mod signature;
mod subject;
mod subjects;
pub mod target;
pub mod trust;
mod turns;
mod unfinished;
pub mod webhook;
mod workers;

pub use channel::{Channel, Outgoing, OutgoingMessage, Webhooks};
pub use context::{Cipher, Counts, Directory, Options, Parts, PlainBodies, PublicUrls};
pub use events::EventSink;
pub use row::Content;
pub use workers::{Handle, Workers};

#[cfg(test)]
mod tests;
