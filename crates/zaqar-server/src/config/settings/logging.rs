//! The options of oslo.log that the server supports.

use std::path::{Path, PathBuf};

use super::level::{Level, level_of};
use super::log_config;
use crate::config::reader::Options;

/// The name of the log file if only a directory is set.
const FILE: &str = "zaqar-server.log";

/// Levels, destinations and format of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// `debug`: logs from debug instead of from info.
    pub debug: bool,
    /// `log_file` within `log_dir`; `None` logs to standard error.
    pub file: Option<PathBuf>,
    /// `use_json`: one JSON object per line.
    pub json: bool,
    /// `use_stderr`: also to standard error, beside the file.
    pub stderr: bool,
    /// To standard output, which only the file of `log_config_append` can set.
    pub stdout: bool,
    /// The level of everything else.
    pub least: Level,
    /// `default_log_levels`: levels of single log targets.
    pub levels: Vec<(String, Level)>,
}

impl Logging {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        let logging = Self::of_options(options);
        let Some(path) = options.optional_text("log_config_append") else { return logging };
        let Some(config) = log_config::read(Path::new(&path)) else {
            options.warn("log_config_append", UNREADABLE);
            return logging;
        };
        if config.is_odd {
            options.warn("log_config_append", ODD);
        }
        Self {
            debug: false,
            file: config.file,
            json: config.json,
            stderr: config.stderr,
            stdout: config.stdout,
            least: config.least.unwrap_or(logging.least),
            levels: config.levels,
        }
    }

    fn of_options(options: &mut Options<'_>) -> Self {
        let debug = options.boolean("debug");
        Self {
            debug,
            stdout: false,
            least: if debug { Level::Debug } else { Level::Info },
            file: file(options.optional_text("log_dir"), options.optional_text("log_file")),
            json: options.boolean("use_json"),
            stderr: options.boolean("use_stderr"),
            levels: levels(options),
        }
    }
}

const UNREADABLE: &str =
    "the file cannot be read: the other options of [DEFAULT] decide where logs go";
const ODD: &str = "only handlers that write to a file or a stream are supported: what others \
                   would log goes to standard error";

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
    Some((target.trim().to_owned(), level_of(name)?))
}
