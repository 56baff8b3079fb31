//! The drivers that come with the server, each made from its section of the settings.

pub(crate) mod embedded;
pub(crate) mod redis;
pub(crate) mod wsgi;
