//! The merged configuration before its values are typed: sections, options, texts and origins.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::environment;
use super::error::{Error, Errors, Warning};
use super::ini::{self, Document};
use super::known::{Kind, Table};
use super::locate;
use super::origin::Origin;
use super::source::Sources;

/// A value as written.
#[derive(Clone)]
pub struct Value {
    /// The text, with unresolved references.
    pub text: String,
    /// Where it is set.
    pub origin: Origin,
}

/// The merged configuration by section and option. Printing it masks secrets.
#[derive(Clone, Default)]
pub struct Raw {
    sections: BTreeMap<String, Content>,
    files: Vec<Arc<str>>,
    warnings: Vec<Warning>,
    known: Arc<Table>,
}

#[derive(Clone, Default)]
struct Content {
    /// Where the section first begins; `None` if only variables or flags name it.
    origin: Option<Origin>,
    /// All values of each option; the last one counts.
    options: BTreeMap<String, Vec<Value>>,
}

/// One line of a report: see [`Raw::shown`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The section.
    pub section: &'a str,
    /// The option.
    pub option: &'a str,
    /// The value in quotes, or stars if it is secret.
    pub value: String,
    /// Where it is set.
    pub origin: &'a Origin,
}

impl Raw {
    /// Empty, for the options of `known`.
    pub(super) fn new(known: Table) -> Self {
        Self { known: Arc::new(known), ..Self::default() }
    }

    /// Reads and merges files, environment and flags. `known` has the registered drivers' options.
    ///
    /// # Errors
    ///
    /// All files that cannot be read and all syntax errors at once.
    pub(super) fn load(sources: &Sources, known: Table) -> Result<Self, Errors> {
        let paths = locate::files(&sources.files, &sources.dirs, &sources.environment);
        let mut raw = Self::new(known);
        let mut problems = Vec::new();
        match paths {
            Ok(paths) => raw.add_files(&paths, &mut problems),
            Err(more) => problems.extend(more),
        }
        let names = raw.names();
        raw.warnings.extend(environment::misspelt(&sources.environment, &names));
        for found in environment::overrides(&sources.environment, &names) {
            match found.value.to_str() {
                Some(text) => raw.set(found.section, found.option, text, found.origin),
                None => problems.push(Error::Syntax { origin: found.origin, what: "not UTF-8" }),
            }
        }
        for flag in &sources.flags {
            let origin = Origin::CommandLine(Arc::from(flag.flag.as_str()));
            raw.set(flag.section.clone(), flag.option.clone(), &flag.value, origin);
        }
        if problems.is_empty() { Ok(raw) } else { Err(Errors(problems)) }
    }

    /// The files that were read, in order.
    pub fn files(&self) -> &[Arc<str>] {
        &self.files
    }

    /// The names of all sections, sorted.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// Where a section begins, or its first option is set; `None` if there is no such section.
    pub fn section_origin(&self, section: &str) -> Option<&Origin> {
        let content = self.sections.get(section)?;
        let first = || content.options.values().flatten().next().map(|value| &value.origin);
        content.origin.as_ref().or_else(first)
    }

    /// The options that are set in a section, sorted.
    pub fn options(&self, section: &str) -> impl Iterator<Item = &str> {
        self.sections
            .get(section)
            .into_iter()
            .flat_map(|content| content.options.keys())
            .map(String::as_str)
    }

    /// All values of an option, in order; the last one counts if one is needed.
    pub fn values(&self, section: &str, option: &str) -> &[Value] {
        self.sections
            .get(section)
            .and_then(|content| content.options.get(option))
            .map_or(&[], Vec::as_slice)
    }

    /// Where an option is set; [`Origin::Default`] if it is not set.
    pub fn origin(&self, section: &str, option: &str) -> Origin {
        self.values(section, option).last().map_or(Origin::Default, |value| value.origin.clone())
    }

    /// All options that are set, with the values that count and secrets masked: for reports.
    pub fn shown(&self) -> impl Iterator<Item = Shown<'_>> {
        self.sections.iter().flat_map(move |(section, content)| {
            content.options.iter().filter_map(move |(option, values)| {
                let Value { text, origin } = values.last()?;
                Some(Shown { section, option, value: self.quoted(section, option, text), origin })
            })
        })
    }

    /// All options that are set: section, option, and the text of the value that counts, or stars
    /// if it is secret.
    pub fn effective(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.sections.iter().flat_map(move |(section, content)| {
            content.options.iter().filter_map(move |(option, values)| {
                let is_secret = self.known.is_secret(section, option);
                let text = &values.last()?.text;
                let value = if is_secret { "***".to_owned() } else { without_passwords(text) };
                Some((section.as_str(), option.as_str(), value))
            })
        })
    }

    /// The known options.
    pub fn known(&self) -> &Table {
        &self.known
    }

    /// Whether all values of an option count, rather than the last one.
    pub(super) fn is_repeated(&self, section: &str, option: &str) -> bool {
        self.known.find(section, option).is_some_and(|known| known.kind == Kind::Repeated)
    }

    /// A value for a message: in quotes and without the passwords of its URLs, or stars if it is
    /// secret.
    pub(super) fn quoted(&self, section: &str, option: &str, text: &str) -> String {
        let is_secret = self.known.is_secret(section, option);
        if is_secret { "***".to_owned() } else { format!("{:?}", without_passwords(text)) }
    }

    /// What was odd while the sources were merged.
    pub(super) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The rank of an origin: files come before variables, variables before flags.
    pub(super) fn order(&self, origin: &Origin) -> (usize, usize) {
        let files = self.files.len();
        match origin {
            Origin::File { path, line } => {
                (self.files.iter().position(|file| file == path).unwrap_or(files), *line)
            }
            Origin::Environment(_) => (files + 1, 0),
            Origin::CommandLine(_) => (files + 2, 0),
            Origin::Default => (files + 3, 0),
        }
    }

    fn names(&self) -> Vec<String> {
        let known = self.known.sections().map(|section| section.name.to_string());
        let mut names: Vec<_> = known.chain(self.sections.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn add_files(&mut self, paths: &[PathBuf], problems: &mut Vec<Error>) {
        for path in paths {
            let shown: Arc<str> = Arc::from(path.display().to_string());
            match std::fs::read(path) {
                Ok(bytes) => match ini::parse(&shown, &bytes) {
                    Ok(document) => self.add(&shown, document),
                    Err(more) => problems.extend(more),
                },
                Err(source) => {
                    problems.push(Error::Unreadable { path: shown.to_string(), source });
                }
            }
        }
    }

    /// Merges a parsed file; its values override earlier ones.
    pub(super) fn add(&mut self, path: &Arc<str>, document: Document) {
        self.files.push(Arc::clone(path));
        for (section, line) in document.sections {
            let content = self.sections.entry(normalize(&section)).or_default();
            content.origin.get_or_insert_with(|| Origin::file(path, line));
        }
        let mut file: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
        for entry in document.entries {
            let origin = Origin::file(path, entry.line);
            let key = (normalize(&entry.section), entry.option);
            file.entry(key).or_default().push(Value { text: entry.value, origin });
        }
        self.rename(&mut file);
        for ((section, option), values) in file {
            let content = self.sections.entry(section).or_default();
            content.options.entry(option).or_default().extend(values);
        }
    }

    /// Within one file the current name of an option overrides its deprecated names; otherwise the
    /// later file wins.
    fn rename(&mut self, file: &mut BTreeMap<(String, String), Vec<Value>>) {
        let known = Arc::clone(&self.known);
        for section in known.sections() {
            for known in section.options {
                for old in known.old_names {
                    let key = (section.name.to_string(), (*old).to_owned());
                    let Some(values) = file.remove(&key) else { continue };
                    self.warnings.extend(values.last().map(|value| Warning::OldName {
                        origin: value.origin.clone(),
                        section: section.name.to_string(),
                        option: (*old).to_owned(),
                        name: known.name,
                    }));
                    file.entry((key.0, known.name.to_owned())).or_insert(values);
                }
            }
        }
    }

    pub(super) fn set(&mut self, section: String, option: String, text: &str, origin: Origin) {
        let content = self.sections.entry(section).or_default();
        content.options.insert(option, vec![Value { text: text.to_owned(), origin }]);
    }
}

/// Names of sections ignore case, except `DEFAULT`.
/// A text with stars in place of the password of each URL in it, or of a user without a password,
/// which may be a token.
fn without_passwords(text: &str) -> String {
    const BEGIN: &str = "://";
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, url) = rest.split_at(at + BEGIN.len());
        shown.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || "/?#\"'".contains(c));
        let (authority, after) = url.split_at(end.unwrap_or(url.len()));
        match authority.rsplit_once('@') {
            Some((userinfo, host)) => {
                let user = userinfo.split_once(':').map(|(user, _)| user);
                shown.push_str(user.unwrap_or_default());
                shown.push_str(if user.is_some() { ":***@" } else { "***@" });
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = after;
    }
    shown + rest
}

fn normalize(section: &str) -> String {
    if section == "DEFAULT" { section.to_owned() } else { section.to_lowercase() }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("origin", &self.origin).finish_non_exhaustive()
    }
}
