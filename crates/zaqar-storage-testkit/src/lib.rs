#![doc = include_str!("../README.md")]

mod behaviour;
mod factory;
mod kit;
#[macro_use]
mod list;
mod memory;
pub mod model;
mod port;
mod queue;
mod run;
mod subscriber;

pub use factory::{About, Factory, Stores};
pub use kit::sweep;
pub use memory::{Fault, Memories, Memory};
pub use port::free_port;
pub use run::{Outcome, block_on, check, names, run_all};
