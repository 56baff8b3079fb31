//! The file of `log_config_append`, in the format of Python's `logging.config.fileConfig`. Only
//! what this server supports is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::level::{Level, level_of};
use crate::config::ini;

/// Bytes of the file, at most.
const MAX_BYTES: u64 = 1024 * 1024;

/// The contents of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogConfig {
    /// The level of the root logger, for everything without a logger of its own.
    pub(super) least: Option<Level>,
    /// The levels of named loggers; our own is `zaqar`.
    pub(super) levels: Vec<(String, Level)>,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) file: Option<PathBuf>,
    pub(super) json: bool,
    /// Whether it names handlers that this server does not have; it then writes to standard error
    /// instead.
    pub(super) is_odd: bool,
}

/// Options by section and name, both in lower case.
type Sections = HashMap<String, HashMap<String, String>>;

/// Reads the file; `None` if it cannot be read.
pub(super) fn read(path: &Path) -> Option<LogConfig> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Option<LogConfig> {
    let document = ini::parse(&Arc::from(path.to_string_lossy().as_ref()), bytes).ok()?;
    let mut sections = Sections::new();
    for entry in document.entries {
        let section = sections.entry(entry.section.to_ascii_lowercase()).or_default();
        section.insert(entry.option.to_ascii_lowercase(), entry.value);
    }
    let get = |section: &str, option: &str| {
        sections.get(section).and_then(|options| options.get(option)).map(String::as_str)
    };
    let root = get("logger_root", "level").unwrap_or("WARNING");
    // NOTSET logs everything; the finest level of libraries is useful to nobody.
    let root = level_of(root).unwrap_or(Level::Debug);
    let mut config = LogConfig { least: Some(root), ..LogConfig::default() };
    let mut handlers = words(get("logger_root", "handlers"));
    for name in words(get("loggers", "keys")).iter().filter(|name| *name != "root") {
        let section = format!("logger_{}", name.to_ascii_lowercase());
        let target = get(&section, "qualname").unwrap_or(name);
        if let Some(level) = get(&section, "level").and_then(level_of) {
            config.levels.push((target.to_owned(), level));
        }
        if target == "zaqar" {
            let own = words(get(&section, "handlers"));
            let propagates = get(&section, "propagate").is_none_or(|value| value.trim() != "0");
            handlers = if propagates { [own, handlers].concat() } else { own };
        }
    }
    for handler in handlers {
        let section = format!("handler_{}", handler.to_ascii_lowercase());
        let class = get(&section, "class").unwrap_or_default();
        let args = get(&section, "args").unwrap_or_default();
        config.add_handler(class.rsplit('.').next().unwrap_or_default(), args);
        let formatter = get(&section, "formatter").unwrap_or_default().to_ascii_lowercase();
        let class = get(&format!("formatter_{formatter}"), "class").unwrap_or_default();
        config.json |= class.ends_with("JSONFormatter") || class.ends_with("FluentFormatter");
    }
    // A server without logs cannot be operated.
    config.stderr |= !config.stdout && config.file.is_none();
    Some(config)
}

impl LogConfig {
    fn add_handler(&mut self, class: &str, args: &str) {
        match class {
            "NullHandler" => {}
            "StreamHandler" if args.contains("stdout") => self.stdout = true,
            "StreamHandler" => self.stderr = true,
            "FileHandler"
            | "WatchedFileHandler"
            | "RotatingFileHandler"
            | "TimedRotatingFileHandler" => match quoted(args) {
                Some(path) => self.file = Some(PathBuf::from(path)),
                None => self.is_odd = true,
            },
            _ => (self.is_odd, self.stderr) = (true, true),
        }
    }
}

fn words(text: Option<&str>) -> Vec<String> {
    let words = text.unwrap_or_default().split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The first quoted text in Python's arguments.
fn quoted(args: &str) -> Option<&str> {
    let at = args.find(['\'', '"'])?;
    let quote = args[at..].chars().next()?;
    args[at + 1..].split(quote).next().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> LogConfig {
        parse(Path::new("logging.conf"), text.as_bytes()).unwrap()
    }

    /// As openstack-helm's chart writes it.
    const CHART: &str = "\
[loggers]
keys = root,zaqar
[handlers]
keys = stdout,stderr,null
[formatters]
keys = context,default
[logger_root]
level = WARNING
handlers = null
[logger_zaqar]
level = INFO
handlers = stdout
qualname = zaqar
[logger_amqp]
level = WARNING
handlers = stderr
qualname = amqp
[handler_null]
class = logging.NullHandler
formatter = default
args = ()
[handler_stdout]
class = StreamHandler
args = (sys.stdout,)
formatter = context
[handler_stderr]
class = StreamHandler
args = (sys.stderr,)
formatter = context
[formatter_context]
class = oslo_log.formatters.ContextFormatter
[formatter_default]
format = %(message)s
";

    #[test]
    fn the_file_of_the_chart_logs_to_standard_output() {
        let expected = LogConfig {
            least: Some(Level::Warn),
            levels: vec![("zaqar".to_owned(), Level::Info)],
            stdout: true,
            ..LogConfig::default()
        };
        assert_eq!(of(CHART), expected);
    }

    #[test]
    fn handlers_are_files_json_or_unsupported() {
        let json = CHART.replace("ContextFormatter", "JSONFormatter");
        assert!(of(&json).json);
        let file = CHART.replace(
            "class = StreamHandler\nargs = (sys.stdout,)",
            "class = handlers.WatchedFileHandler\nargs = ('/var/log/zaqar.log', 'a')",
        );
        assert_eq!(of(&file).file.as_deref(), Some(Path::new("/var/log/zaqar.log")));
        assert!(!of(&file).stderr);
        let syslog = CHART.replace(
            "class = StreamHandler\nargs = (sys.stdout,)",
            "class = handlers.SysLogHandler\nargs = ('/dev/log',)",
        );
        assert!(of(&syslog).is_odd && of(&syslog).stderr);
        let own = CHART.replace("handlers = null", "handlers = stderr");
        assert!(of(&own).stdout && of(&own).stderr, "our logger has the root's handlers");
        let alone = own.replace("qualname = zaqar", "qualname = zaqar\npropagate = 0");
        assert!(of(&alone).stdout && !of(&alone).stderr);
    }

    #[test]
    fn nothing_at_all_is_standard_error() {
        assert!(of("").stderr);
        assert_eq!(of("").least, Some(Level::Warn));
        let silent = CHART.replace("handlers = stdout", "handlers = null");
        assert!(of(&silent).stderr);
    }
}
