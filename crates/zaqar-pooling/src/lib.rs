#![doc = include_str!("../README.md")]

mod catalogue;
mod connector;
mod dead_letters;
mod deliveries;
mod flavors;
mod leases;
mod member;
mod members;
mod news;
mod pooled;
mod pools;
mod registry;
mod rows;
mod status;
mod transfers;

pub use connector::{Connector, Refusal};
pub use pooled::{Options, Pooled};
pub use registry::Registry;
