#![doc = include_str!("../README.md")]

mod authenticator;
pub mod keystone;
mod permissions;
pub mod policy;
pub mod quotas;

pub use authenticator::Keystone;
pub use permissions::Permissions;
pub use quotas::Quotas;
