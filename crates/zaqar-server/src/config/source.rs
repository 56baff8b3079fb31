//! The sources of a configuration: files, directories, environment and flags.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The sources of a configuration.
///
/// ```
/// use zaqar_server::config::{Environment, Sources};
///
/// let sources = Sources {
///     files: vec!["/etc/zaqar/zaqar.conf".into()],
///     environment: Environment::of_process(),
///     ..Sources::default()
/// }
/// .flag("--debug", "DEFAULT", "debug", "true");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Files (`--config-file`); later ones win. If there are none, the default search is used.
    pub files: Vec<PathBuf>,
    /// Directories (`--config-dir`); their `*.conf` files are read after the files, sorted by name.
    pub dirs: Vec<PathBuf>,
    /// The environment: option overrides, and `HOME` for the default search.
    pub environment: Environment,
    /// Command line flags that set an option; they override everything else.
    pub flags: Vec<Flag>,
}

/// A command line flag that sets an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as written, for messages.
    pub flag: String,
    /// The option's section.
    pub section: String,
    /// The option.
    pub option: String,
    /// The value, as written in a file.
    pub value: String,
}

/// A set of environment variables. Its `Debug` output has no values.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Sources {
    /// Adds a command line flag that sets an option.
    #[must_use]
    pub fn flag(mut self, flag: &str, section: &str, option: &str, value: &str) -> Self {
        self.flags.push(Flag {
            flag: flag.to_owned(),
            section: section.to_owned(),
            option: option.to_owned(),
            value: value.to_owned(),
        });
        self
    }
}

impl Environment {
    /// A set of variables.
    pub fn new<N, V>(variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The variables of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// All variables whose names are UTF-8, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.0.iter().filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())))
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
