//! Both wires over one stack: every operation passes the same layers with the same facts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod layers;
mod quotas;
mod refusals;
mod support;
