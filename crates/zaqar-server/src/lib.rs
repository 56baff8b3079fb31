#![doc = include_str!("../README.md")]

mod access;
mod admin;
mod announce;
mod arguments;
mod commands;
pub mod config;
mod definitions;
mod drivers;
mod error;
mod health;
pub mod import;
mod journal;
mod left_out;
mod logs;
mod manage;
mod memory;
mod metrics;
mod notify;
mod offline;
mod policy_program;
mod pools;
mod preflight;
mod program;
mod queue_move;
mod registry;
mod reload;
mod report;
mod run;
mod runtime;
mod service_manager;
mod signals;
mod status;
mod store;
mod supervisor;
mod traces;
mod transport;
mod trusts;
mod varz;

pub use error::{StartError, with_causes};
pub use program::main;
pub use registry::Registry;
pub use run::run;
pub use store::{
    Figure, FigureKind, Figures, OpenedStore, Presence, StoreContext, StoreDriver, StoreLocation,
    StoreRole, Stores,
};
pub use transport::{Binding, Transport, TransportDriver};
pub use zaqar_transport_http::ConnectionCounts;
