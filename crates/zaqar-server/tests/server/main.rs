//! The server with drivers and transports from outside of the crate.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

mod stores;
mod supervision;
mod support;
