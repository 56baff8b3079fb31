//! The store of stores on real servers: two Redis servers, a server that speaks MongoDB's protocol,
//! and an embedded store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crossing;
mod history;
mod kit;
mod mortal;
mod moves;
mod servers;
mod stores;
