//! The store of stores on real servers: two Redis servers, a server that speaks MongoDB's protocol,
//! and an embedded store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crossing;
mod dying;
mod history;
mod kit;
mod moves;
mod servers;
mod stores;
