//! oslo.log's options that the server honours.

use std::path::{Path, PathBuf};

use crate::config::reader::Options;

/// Where logs go when only a directory is named.
const FILE: &str = "zaqar-server.log";

/// What is logged, where to and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// `debug`: from debug on instead of from info on.
    pub debug: bool,
    /// `log_file` within `log_dir`; `None` logs to standard error.
    pub file: Option<PathBuf>,
    /// `use_json`: one JSON object a line.
    pub json: bool,
    /// `use_stderr`: to standard error beside the file.
    pub stderr: bool,
    /// `default_log_levels`: least levels of single log targets.
    pub levels: Vec<(String, Level)>,
}

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

impl Logging {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        Self {
            debug: options.boolean("debug"),
            file: file(options.optional_text("log_dir"), options.optional_text("log_file")),
            json: options.boolean("use_json"),
            stderr: options.boolean("use_stderr"),
            levels: levels(options),
        }
    }
}

fn file(dir: Option<String>, file: Option<String>) -> Option<PathBuf> {
    match (dir, file) {
        (None, None) => None,
        (None, Some(file)) => Some(PathBuf::from(file)),
        (Some(dir), file) => Some(Path::new(&dir).join(file.as_deref().unwrap_or(FILE))),
    }
}

fn levels(options: &mut Options<'_>) -> Vec<(String, Level)> {
    let items = options.list("default_log_levels");
    let levels: Option<_> =
        items.iter().filter(|item| !item.is_empty()).map(|item| level(item)).collect();
    levels.unwrap_or_else(|| {
        options.refuse(
            "default_log_levels",
            "a list of target=LEVEL, with LEVEL one of: TRACE, DEBUG, INFO, WARN, WARNING, ERROR, CRITICAL",
        );
        Vec::new()
    })
}

fn level(item: &str) -> Option<(String, Level)> {
    let (target, name) = item.split_once('=')?;
    let level = match name.trim().to_ascii_uppercase().as_str() {
        "TRACE" => Level::Trace,
        "DEBUG" => Level::Debug,
        "INFO" => Level::Info,
        "WARN" | "WARNING" => Level::Warn,
        "ERROR" | "CRITICAL" => Level::Error,
        _ => return None,
    };
    Some((target.trim().to_owned(), level))
}
