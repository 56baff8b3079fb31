//! What can be wrong with a configuration, and what is odd about it.
//!
//! No text here ever holds the value of a secret option: whoever builds an error masks it first.

use std::fmt;
use std::io;

use super::origin::Origin;

/// One thing that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory that was named, or found, cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not of the INI form, or not UTF-8.
    #[error("{origin}: {what}")]
    Syntax {
        /// The line.
        origin: Origin,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A value is not one that its option takes.
    #[error("{origin}: [{section}] {option} = {value}: must be {allowed}")]
    Value {
        /// Where the value stands.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
        /// The value in quotes, or stars.
        value: Box<str>,
        /// What the option takes: type, range or choices.
        allowed: Box<str>,
    },
    /// An option that is needed and has no default.
    #[error("{origin}: [{section}] {option} must be set")]
    Missing {
        /// Where the section begins, or the store is named.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
    },
    /// A `$` reference in a value cannot be followed.
    #[error("{origin}: [{section}] {option}: ${{{reference}}} {what}")]
    Reference {
        /// Where the value stands.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
        /// What stands after the dollar sign.
        reference: Box<str>,
        /// Why it cannot be followed.
        what: &'static str,
    },
    /// A store of the original that this server does not have.
    #[error("{origin}: [drivers] {option} = {value}: this store is not supported; use {instead}")]
    Unsupported {
        /// Where the value stands.
        origin: Origin,
        /// `message_store` or `management_store`.
        option: &'static str,
        /// The store's name.
        value: Box<str>,
        /// What to use.
        instead: Box<str>,
    },
    /// A store is configured, but `[drivers]` does not say that it is to be used.
    #[error(
        "{origin}: {what}, but [drivers] names no {missing}; add to [drivers]:\n  message_store = {message_store}\n  management_store = {management_store}"
    )]
    Unnamed {
        /// The section or option that configures a store.
        origin: Origin,
        /// That section or option, in words.
        what: Box<str>,
        /// The option that is missing.
        missing: &'static str,
        /// What to write for the message store.
        message_store: Box<str>,
        /// What to write for the management store.
        management_store: Box<str>,
    },
}

impl Error {
    /// Where the wrong thing stands; `None` for a file that cannot be read.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Syntax { origin, .. }
            | Self::Value { origin, .. }
            | Self::Missing { origin, .. }
            | Self::Reference { origin, .. }
            | Self::Unsupported { origin, .. }
            | Self::Unnamed { origin, .. } => Some(origin),
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the files; prints one problem a
/// line.
#[derive(Debug)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// One thing that is odd about a configuration that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A section that nothing reads.
    UnknownSection {
        /// Where it begins.
        origin: Origin,
        /// Its name.
        section: String,
        /// The known name that is nearest, when one is near.
        nearest: Option<String>,
    },
    /// An option that nothing reads.
    UnknownOption {
        /// Where it stands.
        origin: Origin,
        /// Its section.
        section: String,
        /// Its name.
        option: String,
        /// The known option that is nearest, when one is near: `name`, or `[section] name` of
        /// another section.
        nearest: Option<String>,
    },
    /// An option of the original that changes nothing here.
    WithoutEffect {
        /// Where it stands.
        origin: Origin,
        /// Its section.
        section: String,
        /// Its name.
        option: String,
        /// Why it has none.
        why: &'static str,
    },
    /// An option under a name that it had in the past; it counts.
    OldName {
        /// Where it stands.
        origin: Origin,
        /// Its section.
        section: String,
        /// The name it had.
        option: String,
        /// The name it has.
        name: &'static str,
    },
    /// Two values that do not go together.
    Conflict {
        /// Where the first stands.
        origin: Origin,
        /// What does not go together.
        what: String,
    },
}

impl Warning {
    /// Where the odd thing stands.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::UnknownSection { origin, .. }
            | Self::UnknownOption { origin, .. }
            | Self::WithoutEffect { origin, .. }
            | Self::OldName { origin, .. }
            | Self::Conflict { origin, .. } => origin,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin())?;
        match self {
            Self::UnknownSection { section, nearest, .. } => {
                write!(f, "[{section}] is no section of this server")?;
                did_you_mean(f, nearest.as_ref().map(|name| format!("[{name}]")))
            }
            Self::UnknownOption { section, option, nearest, .. } => {
                write!(f, "[{section}] {option} is no option of this server")?;
                did_you_mean(f, nearest.clone())
            }
            Self::WithoutEffect { section, option, why, .. } => {
                write!(f, "[{section}] {option} has no effect: {why}")
            }
            Self::OldName { section, option, name, .. } => {
                write!(f, "[{section}] {option} is an old name; write {name}")
            }
            Self::Conflict { what, .. } => f.write_str(what),
        }
    }
}

fn did_you_mean(f: &mut fmt::Formatter<'_>, nearest: Option<String>) -> fmt::Result {
    nearest.map_or(Ok(()), |name| write!(f, "; did you mean {name}?"))
}
