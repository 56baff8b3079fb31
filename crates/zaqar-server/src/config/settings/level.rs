//! Levels of logs.

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The finest.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not happen, and does no harm yet. Also `WARNING`.
    Warn,
    /// What went wrong. Also `CRITICAL`.
    Error,
}

/// A level by the name that Python or this server gives it.
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
