//! The driver alone, so that a binary of anybody's can register it.

mod driver;

pub use driver::MemoryDriver;

/// The name that a configuration picks it by.
pub const NAME: &str = "memory";
