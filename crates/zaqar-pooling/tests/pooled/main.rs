//! The store of stores: the behaviour kit, and what it does where pools come, go and fail.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

mod dead_letters;
mod kit;
mod registry;
mod support;
mod trouble;
