//! The store against real servers, which the tests start: one alone, one behind Sentinels, and a
//! Cluster.

mod clocks;
mod cluster;
mod failover;
mod full;
mod garbage;
mod groups;
mod hearing;
mod keeping;
mod late;
mod least;
mod load;
mod logs;
mod moves;
mod proxy;
mod sentinel;
mod servers;
mod single;
mod support;
mod trouble;
