//! The client against receivers that are slow, broken or hostile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod receiver;
mod refusals;
mod requests;
mod secure;
