//! Errors and warnings about a configuration.
//!
//! No text here contains the value of a secret option: it is masked before an error is created.

use std::fmt;
use std::io;

use super::origin::Origin;

/// One error in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A named or found file or directory cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Its path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A line is not valid INI or not UTF-8.
    #[error("{}{what}", Place(origin))]
    Syntax {
        /// The line.
        origin: Origin,
        /// The reason.
        what: &'static str,
    },
    /// A value is not valid for its option.
    #[error("{}[{section}] {option} = {value}: must be {allowed}", Place(origin))]
    Value {
        /// Where the value is set.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
        /// The value in quotes, or stars if it is secret.
        value: Box<str>,
        /// What is valid: type, range or choices.
        allowed: Box<str>,
    },
    /// A required option without a default is not set.
    #[error("{}[{section}] {option} must be set", Place(origin))]
    Missing {
        /// Where the section begins, or the store is named.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
    },
    /// A `$` reference in a value cannot be resolved.
    #[error("{}[{section}] {option}: ${{{reference}}} {what}", Place(origin))]
    Reference {
        /// Where the value is set.
        origin: Origin,
        /// The section.
        section: Box<str>,
        /// The option.
        option: Box<str>,
        /// The text after the dollar sign.
        reference: Box<str>,
        /// The reason.
        what: &'static str,
    },
    /// The original has this store, but this server does not.
    #[error(
        "{}[drivers] {option} = {value}: this store is not supported; use {instead}",
        Place(origin)
    )]
    Unsupported {
        /// Where the value is set.
        origin: Origin,
        /// `message_store` or `management_store`.
        option: &'static str,
        /// The store's name.
        value: Box<str>,
        /// What to use.
        instead: Box<str>,
    },
    /// A store is configured that no driver has, and `[drivers]` names no other.
    #[error(
        "{}[{section}] configures a store that this server does not have: its name must be {offered}",
        Place(origin)
    )]
    UnknownStore {
        /// Where its section begins.
        origin: Origin,
        /// Its section.
        section: Box<str>,
        /// The names that there are.
        offered: Box<str>,
    },
    /// A store is configured, but `[drivers]` does not name it.
    #[error(
        "{}{what}, but [drivers] names no {missing}; add to [drivers]:\n  message_store = {message_store}\n  management_store = {management_store}",
        Place(origin)
    )]
    Unnamed {
        /// The section or option that configures a store.
        origin: Origin,
        /// That section or option, as text.
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
    /// Where the error is; `None` for a file that cannot be read.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Syntax { origin, .. }
            | Self::Value { origin, .. }
            | Self::Missing { origin, .. }
            | Self::Reference { origin, .. }
            | Self::Unsupported { origin, .. }
            | Self::UnknownStore { origin, .. }
            | Self::Unnamed { origin, .. } => Some(origin),
        }
    }
}

/// All errors in a configuration, in the order of the files; printed one per line.
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

/// A warning about a configuration that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A section that nothing reads.
    UnknownSection {
        /// Where it begins.
        origin: Origin,
        /// Its name.
        section: String,
        /// The most similar known name, if one is similar.
        nearest: Option<String>,
    },
    /// An environment variable that nearly names a known section.
    UnknownVariable {
        /// The variable.
        origin: Origin,
        /// The most similar variable that would be read.
        nearest: String,
    },
    /// An option that nothing reads.
    UnknownOption {
        /// Where it is set.
        origin: Origin,
        /// Its section.
        section: String,
        /// Its name.
        option: String,
        /// The most similar known option, if one is similar: `name`, or `[section] name` for
        /// another section.
        nearest: Option<String>,
    },
    /// An option of the original that has no effect here.
    WithoutEffect {
        /// Where it is set.
        origin: Origin,
        /// Its section.
        section: String,
        /// Its name.
        option: String,
        /// Why it has none.
        why: &'static str,
    },
    /// An option under a deprecated name; it counts.
    OldName {
        /// Where it is set.
        origin: Origin,
        /// Its section.
        section: String,
        /// The deprecated name.
        option: String,
        /// The current name.
        name: &'static str,
    },
    /// Two values that contradict each other.
    Conflict {
        /// Where the first one is set.
        origin: Origin,
        /// The contradiction.
        what: String,
    },
}

impl Warning {
    /// Where the setting is.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::UnknownSection { origin, .. }
            | Self::UnknownVariable { origin, .. }
            | Self::UnknownOption { origin, .. }
            | Self::WithoutEffect { origin, .. }
            | Self::OldName { origin, .. }
            | Self::Conflict { origin, .. } => origin,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Place(self.origin()))?;
        match self {
            Self::UnknownSection { section, nearest, .. } => {
                write!(f, "[{section}] is no section of this server")?;
                did_you_mean(f, nearest.as_ref().map(|name| format!("[{name}]")))
            }
            Self::UnknownVariable { nearest, .. } => {
                f.write_str("names no section of this server and is ignored")?;
                did_you_mean(f, Some(nearest.clone()))
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

/// A prefix that says where something is set; nothing where it is not.
struct Place<'a>(&'a Origin);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Origin::Default => Ok(()),
            origin @ (Origin::File { .. } | Origin::Environment(_) | Origin::CommandLine(_)) => {
                write!(f, "{origin}: ")
            }
        }
    }
}

fn did_you_mean(f: &mut fmt::Formatter<'_>, nearest: Option<String>) -> fmt::Result {
    nearest.map_or(Ok(()), |name| write!(f, "; did you mean {name}?"))
}
