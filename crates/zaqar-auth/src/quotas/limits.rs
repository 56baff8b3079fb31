//! Limits of projects, and the file with the limits of single projects.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use zaqar_core::ProjectId;

/// Bytes of the file of projects, at most.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The greatest limit: JSON numbers are exact up to it.
const MAX_LIMIT: u64 = 1 << 53;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Queues and topics of a project.
    Queues,
    /// Subscriptions of a project, those of connections included.
    Subscriptions,
    /// Messages of one queue or topic, in any state.
    QueueMessages,
    /// Bytes of the messages of one queue or topic.
    QueueBytes,
    /// Messages of a project.
    Messages,
    /// Bytes of a project's messages.
    Bytes,
    /// Requests per second of a project.
    RequestRate,
    /// Bytes per second that a project posts and that are pushed to its connections.
    ByteRate,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Queues,
        Self::Subscriptions,
        Self::QueueMessages,
        Self::QueueBytes,
        Self::Messages,
        Self::Bytes,
        Self::RequestRate,
        Self::ByteRate,
    ];

    /// Its option in `[quotas]`, and its name in the file of projects.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Queues => "max_queues",
            Self::Subscriptions => "max_subscriptions",
            Self::QueueMessages => "max_messages_per_queue",
            Self::QueueBytes => "max_bytes_per_queue",
            Self::Messages => "max_messages",
            Self::Bytes => "max_bytes",
            Self::RequestRate => "max_requests_per_second",
            Self::ByteRate => "max_bytes_per_second",
        }
    }

    /// The unit, for use after a number.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Subscriptions => "subscriptions",
            Self::QueueMessages | Self::Messages => "messages",
            Self::QueueBytes | Self::Bytes => "bytes",
            Self::RequestRate => "requests a second",
            Self::ByteRate => "bytes a second",
        }
    }

    fn of_option(option: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.option() == option)
    }
}

/// Limits that were set for a project.
pub(super) type Own = Vec<(Limit, u64)>;

/// The limits of a project. 0 stands for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits([u64; Limit::ALL.len()]);

impl Limits {
    /// A limit; `None` if there is none.
    pub const fn get(&self, limit: Limit) -> Option<u64> {
        match self.0[limit as usize] {
            0 => None,
            value => Some(value),
        }
    }

    /// The same limits with one changed.
    #[must_use]
    pub const fn with(mut self, limit: Limit, value: u64) -> Self {
        self.0[limit as usize] = value;
        self
    }
}

/// The limits of all projects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// For projects that are not in the file.
    pub default: Limits,
    /// `[quotas] projects_file`.
    pub projects_file: Option<PathBuf>,
    /// `[quotas] managed`: administrators set those of single projects by the API.
    pub is_managed: bool,
}

/// Why the file of projects could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("{} has more than {MAX_BYTES} bytes, the most that a file of quotas may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not a document that maps projects to limits.
    #[error("{} is no YAML or JSON object of projects, each an object of options and integers", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The position and the cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A project or one of its limits is not valid.
    #[error("{}: project {project}: {reason}", path.display())]
    Project {
        /// The file.
        path: PathBuf,
        /// The project as written in the file.
        project: String,
        /// What is wrong.
        reason: String,
    },
}

impl Options {
    /// Checks the file of projects, if there is one.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn check(&self) -> Result<(), FileError> {
        self.projects().map(drop)
    }

    /// Reads the file of projects, if there is one.
    pub(super) fn projects(&self) -> Result<HashMap<ProjectId, Limits>, FileError> {
        match &self.projects_file {
            Some(path) => self.projects_in(path),
            None => Ok(HashMap::new()),
        }
    }

    fn projects_in(&self, path: &Path) -> Result<HashMap<ProjectId, Limits>, FileError> {
        let text = read(path)?;
        let malformed =
            |reason: String| FileError::Malformed { path: path.to_owned(), source: reason.into() };
        let document = match serde_saphyr::from_str(&text) {
            Ok(Value::Object(document)) => document,
            // An empty file has no exceptions.
            Ok(Value::Null) => Map::new(),
            Ok(_) => return Err(malformed("it names no projects".to_owned())),
            Err(error) => return Err(malformed(reason(&error))),
        };
        let mut projects = HashMap::new();
        for (project, options) in document {
            let limits = self.limits(&options);
            let id = ProjectId::new(&project).map_err(|error| error.to_string());
            let (id, limits) = id
                .and_then(|id| Ok((id, limits?)))
                .map_err(|reason| FileError::Project { path: path.to_owned(), project, reason })?;
            projects.insert(id, limits);
        }
        Ok(projects)
    }

    /// The limits of one project: those it does not name are the configured defaults.
    fn limits(&self, options: &Value) -> Result<Limits, String> {
        let options = options.as_object().ok_or("must be an object of quotas: {max_queues: 10}")?;
        let own = read_document(options)?;
        Ok(own.iter().fold(self.default, |limits, (limit, value)| limits.with(*limit, *value)))
    }
}

/// What a parser found, without the hints that it has for programmers.
fn reason(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    match (error, error.location()) {
        (serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. }, Some(at)) => {
            format!("line {}: {key} is there twice", at.line())
        }
        _ => error.to_string(),
    }
}

fn known(option: &str) -> Result<Limit, String> {
    Limit::of_option(option).ok_or_else(|| {
        let known = Limit::ALL.map(Limit::option).join(", ");
        format!("{option} is not a quota; quotas are {known}")
    })
}

/// The limits that a document sets.
pub(super) fn read_document(document: &Map<String, Value>) -> Result<Own, String> {
    let read = |(option, value): (&String, &Value)| {
        let limit = known(option)?;
        let value = value.as_u64().filter(|value| *value <= MAX_LIMIT);
        let wrong = || format!("{option} must be an integer from 0 to {MAX_LIMIT}");
        Ok((limit, value.ok_or_else(wrong)?))
    };
    document.iter().map(read).collect()
}

/// A document of limits, 0 where there is none.
pub(super) fn document(limits: &Limits) -> Map<String, Value> {
    let value = |limit: Limit| limits.get(limit).unwrap_or_default().into();
    Limit::ALL.into_iter().map(|limit| (limit.option().to_owned(), value(limit))).collect()
}

fn read(path: &Path) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}
