#![doc = include_str!("../README.md")]

pub mod config;
mod drivers;
pub mod logs;
mod registry;
mod run;

pub use registry::{Registry, StartError, StoreDriver, Stores, Transport, TransportDriver};
pub use run::{run, with_causes};
