//! The client against the real server, and against one with scripted answers.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

mod claims;
mod keystone;
mod resources;
mod retries;
mod scripted;
mod tls;
mod websocket;
