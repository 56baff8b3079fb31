//! `zaqar.conf`: finding, merging, checking and typing it.
//!
//! [`load`] does all of it, in these steps: `locate` finds files, `ini` parses them, `environment`
//! adds variables, [`Raw`] holds the merged texts, `reference` resolves `$name`, [`Section`] types
//! single options, [`known`] lists all options, and [`Settings`] is the result. Errors are
//! collected and reported together.

mod check;
mod environment;
mod error;
mod ini;
pub mod known;
mod layer;
mod locate;
mod origin;
mod raw;
mod reader;
mod reference;
pub(crate) mod sample;
mod section;
mod settings;
mod source;
mod value;

use std::sync::Arc;

pub use error::{Error, Errors, Warning};
pub use layer::Layer;
pub use origin::Origin;
pub use raw::{Raw, Shown, Value};
pub use section::Section;
pub(crate) use settings::NOTIFIER;
pub use settings::{
    Access, Admin, AuthStrategy, Cors, Drivers, Level, Logging, MailTemplate, Mailer, Notification,
    Otlp, Overload, Pipelines, Profiler, ProfilerTarget, Registered, Settings, SmtpSecurity,
    Traces, Websocket, Wsgi,
};
pub use source::{Environment, Flag, Sources};

use reader::Reader;

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Warnings, in the order of the files.
    pub warnings: Vec<Warning>,
}

/// Reads, merges and checks a configuration.
///
/// # Errors
///
/// All errors at once: first files that cannot be read or parsed; if there are none, invalid
/// values.
pub fn load(sources: &Sources, registered: &Registered) -> Result<Loaded, Errors> {
    let raw = Raw::load(sources, registered.known())?;
    type_check(raw, registered)
}

fn type_check(raw: Raw, registered: &Registered) -> Result<Loaded, Errors> {
    let mut reader = Reader::new(Arc::new(raw));
    let settings = Settings::read(&mut reader, registered);
    let Reader { raw, mut problems, mut warnings } = reader;
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.origin().map(|origin| raw.order(origin)));
        return Err(Errors(problems));
    }
    warnings.extend(check::warnings(&raw));
    warnings.extend(settings.pools_from_elsewhere());
    warnings.sort_by_key(|warning| raw.order(warning.origin()));
    Ok(Loaded { settings, warnings })
}

#[cfg(test)]
mod tests;
