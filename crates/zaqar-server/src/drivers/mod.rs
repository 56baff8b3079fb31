//! The drivers that come with the server, each made from its section of the settings.

pub(crate) mod embedded;
#[cfg(feature = "mongodb")]
pub(crate) mod mongodb;
pub(crate) mod redis;
pub(crate) mod websocket;
pub(crate) mod wsgi;
