//! What can go wrong in a measurement.

use std::path::PathBuf;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{url}: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("no connection to {address}")]
    Connect { address: String, source: std::io::Error },
    #[error("the connection failed")]
    Connection { source: std::io::Error },
    #[error("the server closed the connection within an answer")]
    Truncated,
    #[error("an answer that cannot be read: {reason}")]
    Answer { reason: String },
    #[error("{what} was answered {status}: {body}")]
    Refused { what: &'static str, status: u16, body: String },
    #[error("{url} gave no good answer within {seconds} s")]
    NotReady { url: String, seconds: u64 },
    #[error("nothing was measured: {reason}")]
    Nothing { reason: &'static str },
    #[error("process {pid} cannot be read")]
    Process { pid: u32, source: std::io::Error },
    #[error("{program} failed: {reason}")]
    Program { program: &'static str, reason: String },
    #[error("{path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the server could not be set up")]
    Serve { source: std::io::Error },
}
