//! Logs: to standard error or a file, as lines or as JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Level as TracingLevel;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Level, Logging};
use crate::registry::StartError;

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// The log file, which can be opened again after it was renamed.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    /// # Errors
    /// The system's, with the path.
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(open(path)?)) })
    }

    /// Opens the path anew: what is logged from now on goes to the file that is there then.
    ///
    /// # Errors
    /// The system's; logs go on into the file that was open.
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

/// Starts logging, once a process; answers the log file, where there is one.
///
/// # Errors
/// A log file that cannot be opened; a second start.
pub fn start(logging: &Logging) -> Result<Option<LogFile>, StartError> {
    let mut outputs: Vec<Output> = Vec::new();
    let file = logging.file.as_deref().map(log_file).transpose()?;
    if let Some(file) = file.clone() {
        outputs.push(output(logging, Arc::new(file)));
    }
    if file.is_none() || logging.stderr {
        outputs.push(output(logging, io::stderr));
    }
    tracing_subscriber::registry().with(outputs).try_init()?;
    Ok(file)
}

fn log_file(path: &Path) -> Result<LogFile, String> {
    let file = LogFile::open(path);
    file.map_err(|error| format!("[DEFAULT] log_file: cannot open {}: {error}", path.display()))
}

fn output<W>(logging: &Logging, writer: W) -> Output
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let targets = targets(logging);
    if logging.json {
        lines.json().flatten_event(true).with_filter(targets).boxed()
    } else {
        lines.with_filter(targets).boxed()
    }
}

fn targets(logging: &Logging) -> Targets {
    let least = if logging.debug { TracingLevel::DEBUG } else { TracingLevel::INFO };
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
