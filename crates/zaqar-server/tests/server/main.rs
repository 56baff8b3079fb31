//! The server with drivers and transports from outside the crate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stores;
mod supervision;
mod support;
