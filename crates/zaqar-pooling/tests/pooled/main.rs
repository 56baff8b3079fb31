//! The store of stores: the behaviour kit, and its behaviour when pools come, go and fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead_letters;
mod kit;
mod moves;
mod registry;
mod support;
mod trouble;
