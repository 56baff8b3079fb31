//! The transport as a client sees it: a real WebSocket client over a stream in memory, or over TCP
//! where TCP matters.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod actions;
mod busy;
mod closing;
mod frames;
mod identity;
mod memory;
mod order;
mod pushes;
mod server;
mod support;
