#![doc = include_str!("../README.md")]

mod arrival;
mod arrived;
mod backup;
mod checkpoint;
mod claims;
mod config;
mod deleted_bodies;
mod directory;
mod driver;
mod due;
mod error;
mod expiry_rows;
mod fair_queue;
mod first_free;
mod heads;
mod health;
mod hidden;
mod keys;
mod leases;
mod listing;
mod log_sync;
mod messages;
mod moves;
mod news;
mod outbox;
#[cfg(test)]
mod pages_written;
mod posting;
mod queues;
mod read_limiter;
mod reader;
mod recovery;
mod reserve;
mod rows;
mod schema;
mod sequence;
mod statements;
mod subscriptions;
#[cfg(test)]
mod testing;
mod times;
mod upkeep;
mod writer;
mod writer_state;

pub use backup::{Checked, back_up, check, has_file, restore};
pub use config::{Options, Sync};
pub use driver::Embedded;
pub use error::Error;
pub use health::Facts;
