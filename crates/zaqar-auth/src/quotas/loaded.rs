//! The limits that hold, from the configuration, the file of projects and administrators.

use std::collections::HashMap;
use std::sync::Arc;

use zaqar_core::ProjectId;

use super::limits::{FileError, Limit, Limits, Options, Own};
use super::managed::Managed;

/// The limits of all projects: the file, and over it what administrators have set.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    default: Limits,
    projects: Arc<HashMap<ProjectId, Limits>>,
    managed: Arc<Managed>,
    /// Of projects in `managed`.
    set: HashMap<ProjectId, Limits>,
}

impl Loaded {
    /// Reads the file of projects, if there is one.
    pub(super) fn read(options: &Options) -> Result<Self, FileError> {
        let projects = Arc::new(options.projects()?);
        Ok(Self { default: options.default, projects, ..Self::default() })
    }

    pub(super) fn of(&self, project: &ProjectId) -> &Limits {
        self.set.get(project).unwrap_or_else(|| self.configured(project))
    }

    fn configured(&self, project: &ProjectId) -> &Limits {
        self.projects.get(project).unwrap_or(&self.default)
    }

    pub(super) const fn managed(&self) -> &Arc<Managed> {
        &self.managed
    }

    /// The same, with other quotas that administrators have set.
    pub(super) fn with_managed(&self, managed: Arc<Managed>) -> Self {
        let limits = |(project, own): (&ProjectId, &Own)| {
            let with = |limits: Limits, (limit, value): &(Limit, u64)| limits.with(*limit, *value);
            (project.clone(), own.iter().fold(*self.configured(project), with))
        };
        let set = managed.projects().iter().map(limits).collect();
        Self { default: self.default, projects: Arc::clone(&self.projects), managed, set }
    }

    /// How many projects have limits of their own.
    pub(super) fn projects(&self) -> usize {
        self.projects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Loaded, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quotas.yaml");
        std::fs::write(&path, text).unwrap();
        let default = Limits::default().with(Limit::Queues, 10).with(Limit::Messages, 5);
        let options = Options { default, projects_file: Some(path), is_managed: false };
        Loaded::read(&options).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        })
    }

    #[test]
    fn a_project_has_its_own_limits_and_the_defaults_of_the_others() {
        let loaded =
            load("p1: {max_queues: 3, max_messages: 0}\n\"2\":\n  max_bytes: 7\n").unwrap();
        let of = |project: &str| *loaded.of(&ProjectId::new(project).unwrap());
        assert_eq!(of("p1"), Limits::default().with(Limit::Queues, 3));
        assert_eq!(of("2").get(Limit::Bytes), Some(7));
        assert_eq!(of("2").get(Limit::Messages), Some(5));
        assert_eq!(of("other").get(Limit::Queues), Some(10));
        assert_eq!(load("").unwrap().projects(), 0);
    }

    #[test]
    fn a_file_that_is_wrong_says_what_is_wrong() {
        for (text, part) in [
            ("p: {max_quees: 1}", "max_quees is not a quota; quotas are max_queues,"),
            ("p: {max_queues: -1}", "p: max_queues must be an integer from 0 to 9007199254740992"),
            ("p: {max_queues: many}", "p: max_queues must be an integer from 0 to"),
            ("p: {max_queues: 9007199254740993}", "from 0 to 9007199254740992"),
            ("p: 3", "project p: must be an object of quotas"),
            ("- p", "no YAML or JSON object"),
            ("p: {\n", "no YAML or JSON object"),
            ("p: {max_queues: 1}\np: {max_queues: 2}\n", "line 2: p is there twice"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
