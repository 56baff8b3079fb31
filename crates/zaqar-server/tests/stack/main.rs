//! Both wires over one stack: every operation passes the same layers with the same facts.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

mod layers;
mod quotas;
mod refusals;
mod support;
