#![doc = include_str!("../README.md")]

mod authenticator;
pub mod keystone;
mod permissions;
pub mod policy;

pub use authenticator::Keystone;
pub use permissions::Permissions;
