//! The store against real servers, which the tests start: one alone, one behind Sentinels, and a Cluster.

mod cluster;
mod failover;
mod hearing;
mod keeping;
mod proxy;
mod sentinel;
mod servers;
mod single;
mod support;
mod trouble;
