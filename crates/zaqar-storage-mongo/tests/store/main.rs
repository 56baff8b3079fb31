//! The store on a MongoDB server, or on a compatible one: see the crate's README.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod history;
mod kit;
mod leases;
mod news;
mod support;
