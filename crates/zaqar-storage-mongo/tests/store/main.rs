//! Tests of the store on a MongoDB server or a compatible one: see the crate's README.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod clocks;
mod concerns;
mod faults;
mod foreign_documents;
mod history;
mod kit;
mod leases;
mod news;
mod partial;
mod random_faults;
mod scene;
mod sharding;
mod startup;
mod support;
mod waits;
