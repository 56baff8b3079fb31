//! Logs: to standard error or a file, as lines or as JSON.

use std::fs::OpenOptions;
use std::io;
use std::sync::Mutex;

use tracing::Level as TracingLevel;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Level, Logging};
use crate::registry::StartError;

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging, once a process.
///
/// # Errors
/// A log file that cannot be opened; a second start.
pub fn start(logging: &Logging) -> Result<(), StartError> {
    let mut outputs: Vec<Output> = Vec::new();
    if let Some(path) = &logging.file {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file =
            file.map_err(|error| format!("cannot open the log file {}: {error}", path.display()))?;
        outputs.push(output(logging, Mutex::new(file)));
    }
    if logging.file.is_none() || logging.stderr {
        outputs.push(output(logging, io::stderr));
    }
    tracing_subscriber::registry().with(outputs).try_init()?;
    Ok(())
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
