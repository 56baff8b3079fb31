//! Tests against real servers, which the tests start: a single server, one behind Sentinels, and a
//! Cluster.

mod clocks;
mod cluster;
mod expiry;
mod failover;
mod fast_paths;
mod foreign_data;
mod fresh;
mod full;
mod gate;
mod groups;
mod load;
mod logs;
mod news;
mod older_layout;
mod outages;
mod parts;
mod permissions;
mod proxy;
mod repeats;
mod sentinel;
mod servers;
mod single;
mod slot_moves;
mod stored_data;
mod support;
