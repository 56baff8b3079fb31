//! The driver alone, so that a binary of anybody's can register it.

mod driver;
mod messages;
mod queue;
mod rows;
mod store;
mod subscribers;

pub use driver::MemoryDriver;
pub use store::MemoryStore;

/// The name that a configuration picks it by.
pub const NAME: &str = "memory";
