//! Ports for servers that tests start.

use std::net::{Ipv4Addr, TcpListener};

/// A port of the loopback address that nothing listens on, at random from 15 000 to 21 999. Systems
/// give higher ports to connections: one that waits for the server could get that port for its own
/// side, and be connected to itself.
///
/// # Panics
/// If 10 000 tries find none.
pub fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| rand::random_range(15_000..22_000));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.take(10_000).find(is_free).expect("a free port")
}
