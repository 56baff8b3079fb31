//! The store of stores on real ones: two Redis servers, a server that speaks MongoDB's protocol,
//! and an embedded store.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

mod crossing;
mod kit;
mod servers;
mod stores;
