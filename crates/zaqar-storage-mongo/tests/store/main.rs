//! The store on a MongoDB server, or on a compatible one: see the crate's README.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod clocks;
mod faults;
mod garbage;
mod history;
mod kit;
mod leases;
mod news;
mod scene;
mod sharding;
mod support;
mod waits;
