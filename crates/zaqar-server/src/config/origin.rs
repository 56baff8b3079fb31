//! Where a value is set.

use std::fmt;
use std::sync::Arc;

/// Where a value is set: printed as `zaqar.conf:3`, `environment variable OS_…` or `command line
/// --debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file's path as it was found or given.
        path: Arc<str>,
        /// The line number, from 1; the first line of a continued value.
        line: usize,
    },
    /// An environment variable of this name.
    Environment(Arc<str>),
    /// A flag of the command line.
    CommandLine(Arc<str>),
    /// It is not set: a default.
    Default,
}

impl Origin {
    /// A line of a file.
    pub fn file(path: &Arc<str>, line: usize) -> Self {
        Self::File { path: Arc::clone(path), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine(flag) => write!(f, "command line {flag}"),
            Self::Default => f.write_str("default"),
        }
    }
}
