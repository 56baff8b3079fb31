//! Log levels.

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The most detailed.
    Trace,
    /// For debugging.
    Debug,
    /// Normal events.
    Info,
    /// Problems without harm so far. Also `WARNING`.
    Warn,
    /// Failures. Also `CRITICAL`.
    Error,
}

/// A level by its name in Python or in this server.
pub(super) fn level_of(name: &str) -> Option<Level> {
    Some(match name.trim().to_ascii_uppercase().as_str() {
        "TRACE" => Level::Trace,
        "DEBUG" => Level::Debug,
        "INFO" => Level::Info,
        "WARN" | "WARNING" => Level::Warn,
        "ERROR" | "CRITICAL" => Level::Error,
        _ => return None,
    })
}
