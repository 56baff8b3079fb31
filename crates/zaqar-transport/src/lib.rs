#![doc = include_str!("../README.md")]

mod accept;
mod counts;
mod io_timeout;
mod linger;
mod stream;
mod tls;
mod turns;

pub use accept::{AcceptOptions, Connection, Protocol, ServeError, serve};
pub use counts::ConnectionCounts;
pub use io_timeout::IoTimeout;
pub use linger::linger;
pub use stream::{Listener, Stream};
pub use tls::{Tls, TlsError, TlsFiles};
pub use turns::{Turn, Turns};
