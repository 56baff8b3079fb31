#![doc = include_str!("../README.md")]

mod catalogue;
mod connector;
mod dead_letters;
mod deliveries;
mod drain_pauses;
mod drains;
mod flavors;
mod interval_task;
mod leases;
mod member;
mod members;
mod messages;
mod mover;
mod moves;
mod news;
mod openings;
mod outage;
mod place;
mod pooled;
mod pools;
mod reach;
mod registry;
mod resumes;
mod rows;
mod shares;
mod status;
mod subscriptions;
mod transfers;

pub use connector::{Connector, Purpose, Refusal};
pub use pooled::{Options, Pooled};
pub use registry::Registry;
