//! Logging to standard error or a file, as lines or as JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{Level as TracingLevel, error, info};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Level, Logging};
use crate::error::StartError;
use crate::journal::{Journal, is_journal};
use crate::report::RecentErrors;

type Output = Box<dyn Layer<Registry> + Send + Sync>;
type Filter = reload::Layer<Targets, Registry>;

/// The process's logs, once they are started.
pub(crate) struct Logs {
    file: Option<LogFile>,
    levels: Vec<reload::Handle<Targets, Registry>>,
}

impl Logs {
    /// Reopens the log file, if there is one: log rotation renames it and sends SIGHUP.
    pub(crate) fn reopen(&self) {
        match self.file.as_ref().map(LogFile::reopen) {
            None => {}
            Some(Ok(())) => info!("log file reopened"),
            Some(Err(error)) => error!(%error, "the log file cannot be reopened"),
        }
    }

    /// Applies the log levels of these settings. Destinations stay.
    ///
    /// # Errors
    /// If logging has ended.
    pub(crate) fn set_levels(&self, logging: &Logging) -> Result<(), reload::Error> {
        self.levels.iter().try_for_each(|handle| handle.reload(targets(logging)))
    }

    /// A filter with these levels, which [`Logs::set_levels`] can change.
    fn filter(&mut self, logging: &Logging) -> Filter {
        let (filter, handle) = reload::Layer::new(targets(logging));
        self.levels.push(handle);
        filter
    }
}

/// A log file that can be reopened after it was renamed.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    /// # Errors
    /// The system's error, with the path.
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(open(path)?)) })
    }

    /// Reopens the path: later lines go to the file that is there then.
    ///
    /// # Errors
    /// The system's error; logs still go to the file that was open.
    pub fn reopen(&self) -> io::Result<()> {
        let file = open(&self.path)?;
        *self.lock() = file;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Starts logging, once per process. The last warnings and errors are also kept in `recent`.
///
/// # Errors
/// If the log file cannot be opened, or logging was started before.
pub(crate) fn start(logging: &Logging, recent: RecentErrors) -> Result<Logs, StartError> {
    let file = logging.file.as_deref().map(log_file).transpose()?;
    let mut logs = Logs { file: file.clone(), levels: Vec::new() };
    let mut outputs: Vec<Output> = vec![recent.with_filter(logs.filter(logging)).boxed()];
    let has_file = file.is_some();
    if let Some(file) = file {
        outputs.push(output(logging, Arc::new(file), logs.filter(logging)));
    }
    if logging.stdout {
        outputs.push(output(logging, io::stdout, logs.filter(logging)));
    }
    if !(has_file || logging.stdout) || logging.stderr {
        let filter = logs.filter(logging);
        outputs.push(match is_journal() {
            true => output(logging, Journal, filter),
            false => output(logging, io::stderr, filter),
        });
    }
    tracing_subscriber::registry().with(outputs).try_init()?;
    Ok(logs)
}

/// Checks that the log file can be opened, but creates none.
///
/// # Errors
/// Why not, with the path.
pub(crate) fn check(logging: &Logging) -> Result<(), StartError> {
    let Some(path) = &logging.file else { return Ok(()) };
    let opened = match OpenOptions::new().append(true).open(path) {
        // It would be created, in a directory that must be there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|place| !place.as_os_str().is_empty());
            std::fs::metadata(directory.unwrap_or(Path::new("."))).and_then(|found| {
                if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
            })
        }
        opened => opened.map(drop),
    };
    Ok(opened.map_err(|error| cannot_open(path, &error))?)
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    format!("[DEFAULT] log_file: cannot open {}: {error}", path.display())
}

fn log_file(path: &Path) -> Result<LogFile, String> {
    let file = LogFile::open(path);
    file.map_err(|error| cannot_open(path, &error))
}

fn output<W>(logging: &Logging, writer: W, filter: Filter) -> Output
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    if logging.json {
        lines.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        lines.with_filter(filter).boxed()
    }
}

fn targets(logging: &Logging) -> Targets {
    let least = tracing(logging.least);
    let single = logging.levels.iter().map(|(target, level)| (target.clone(), tracing(*level)));
    Targets::new().with_default(least).with_targets(single)
}

const fn tracing(level: Level) -> TracingLevel {
    match level {
        Level::Trace => TracingLevel::TRACE,
        Level::Debug => TracingLevel::DEBUG,
        Level::Info => TracingLevel::INFO,
        Level::Warn => TracingLevel::WARN,
        Level::Error => TracingLevel::ERROR,
    }
}
