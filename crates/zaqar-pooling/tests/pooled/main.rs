//! The store of stores: the behaviour kit, and pools that are added, removed and fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead_letters;
mod deleted;
mod kit;
mod moves;
mod registry;
mod support;
mod trouble;
