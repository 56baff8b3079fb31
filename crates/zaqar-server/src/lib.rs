#![doc = include_str!("../README.md")]

mod arguments;
pub mod config;
mod drivers;
pub mod logs;
mod program;
mod registry;
mod run;

pub use program::main;
pub use registry::{Registry, StartError, StoreDriver, Stores, Transport, TransportDriver};
pub use run::{run, with_causes};
