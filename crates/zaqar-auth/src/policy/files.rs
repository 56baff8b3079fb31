//! Policy files, and their reload.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::problems::Problem;
use super::rules::Rules;

/// Bytes of one policy file, at most.
const MAX_BYTES: u64 = 1024 * 1024;
/// Policy files, at most.
const MAX_FILES: usize = 1000;

/// Where the rules are, and how they are read (`[oslo_policy]`).
#[derive(Debug, Clone)]
pub struct Files {
    /// `policy_file`; it may be missing from the start, as the original's.
    pub file: Option<PathBuf>,
    /// `policy_dirs`. Each file in them overrides the ones before it, by name; dot files and
    /// missing directories are skipped.
    pub dirs: Vec<PathBuf>,
    /// `policy_default_rule`.
    pub default_rule: String,
    /// `enforce_scope`.
    pub enforce_scope: bool,
    /// `enforce_new_defaults`.
    pub enforce_new_defaults: bool,
}

/// Rules as they were read from the files.
#[derive(Debug)]
pub struct Loaded {
    /// The rules.
    pub rules: Rules,
    /// Problems for the operator.
    pub problems: Vec<Problem>,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    fingerprint: Fingerprint,
}

/// Why the files could not be read. The previous rules stay in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An existing file or directory cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `policy_file`, or a directory of policies, was there before and is missing now.
    #[error("{} is missing, which had rules; a restart does without them", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is too large.
    #[error("{} has more than {MAX_BYTES} bytes, the most that a policy file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There are too many files.
    #[error("the policy directories have more than {MAX_FILES} files")]
    TooMany,
    /// A file is not a YAML or JSON document that maps names to rules.
    #[error("{} is no YAML or JSON object of rules", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The position and the cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Modification times and sizes of the files, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fingerprint(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Files {
    /// Reads the rules. Cost: reads every file.
    ///
    /// # Errors
    /// [`LoadError`]: nothing was loaded.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let (files, fingerprint) = self.look()?;
        let mut builder = Rules::builder()
            .default_rule(&self.default_rule)
            .enforce_scope(self.enforce_scope)
            .enforce_new_defaults(self.enforce_new_defaults);
        for path in &files {
            for (name, rule) in read(path)? {
                builder = builder.override_with(&name, rule);
            }
        }
        let (rules, problems) = builder.build();
        Ok(Loaded { rules, problems, files, fingerprint })
    }

    /// Reads the rules if a file was added, removed or changed since `loaded`. Cost when nothing
    /// changed: the modification time and size of each file.
    ///
    /// # Errors
    /// As [`Files::load`]; [`LoadError::Missing`], as nobody takes rules back by removing
    /// `policy_file` or a whole directory under a running server, and without them more is allowed.
    pub fn load_if_changed(&self, loaded: &Loaded) -> Result<Option<Loaded>, LoadError> {
        let (_, fingerprint) = self.look()?;
        if fingerprint == loaded.fingerprint {
            return Ok(None);
        }
        let file = self.file.iter().filter(|path| loaded.files.contains(path));
        let had_files =
            |dir: &&PathBuf| loaded.files.iter().any(|file| file.parent() == Some(dir.as_path()));
        let dirs = self.dirs.iter().filter(had_files);
        match file.chain(dirs).find(|path| !path.exists()) {
            Some(path) => Err(LoadError::Missing { path: path.clone() }),
            None => self.load().map(Some),
        }
    }

    /// The files that exist, in the order in which they override each other.
    fn look(&self) -> Result<(Vec<PathBuf>, Fingerprint), LoadError> {
        let mut files: Vec<PathBuf> = self.file.iter().cloned().collect();
        for dir in &self.dirs {
            files.extend(files_in(dir)?);
            if files.len() > MAX_FILES {
                return Err(LoadError::TooMany);
            }
        }
        let mut stamps = Vec::new();
        for path in &files {
            let fingerprint = match fs::metadata(path) {
                Ok(metadata) => {
                    Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => return Err(LoadError::Unreadable { path: path.clone(), source }),
            };
            stamps.push((path.clone(), fingerprint));
        }
        let there = stamps.iter().filter(|(_, fingerprint)| fingerprint.is_some());
        let there = there.map(|(path, _)| path.clone()).collect();
        Ok((there, Fingerprint(stamps)))
    }
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    let malformed = |source: serde_saphyr::Error| LoadError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    };
    // A file of comments only is a file without rules.
    let rules: Option<BTreeMap<String, Value>> =
        serde_saphyr::from_str(&text).map_err(malformed)?;
    Ok(rules.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Credentials, Target};
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn files(&self) -> Files {
            Files {
                file: Some(self.0.path().join("policy.yaml")),
                dirs: vec![self.0.path().join("policy.d"), self.0.path().join("none")],
                default_rule: "default".to_owned(),
                enforce_scope: true,
                enforce_new_defaults: true,
            }
        }
    }

    fn allows(loaded: &Loaded, rule: &str, role: &str) -> bool {
        let caller = Credentials::new(json!({"roles": [role]}));
        loaded.rules.allows(rule, &Target::default(), &caller)
    }

    #[test]
    fn files_override_defaults_and_each_other() {
        let dir = Dir::new();
        dir.write(
            "policy.yaml",
            "# rules\n\"queues:get\": \"role:a\"\n\"queues:create\": \"role:a\"\n",
        );
        dir.write("policy.d/2.json", "{\"queues:create\": \"role:c\", \"x\": [[\"role:c\"]]}");
        dir.write("policy.d/1.yaml", "queues:create: role:b\nqueues:update: '!'\n");
        dir.write("policy.d/.hidden", "queues:get: '!'\n");
        let loaded = dir.files().load().unwrap();
        let unknown = Problem::Unknown { rule: "x".to_owned(), nearest: None };
        assert_eq!(loaded.problems, [unknown]);
        assert_eq!(loaded.files.len(), 3);
        assert!(allows(&loaded, "queues:get", "a") && !allows(&loaded, "queues:get", "b"));
        assert!(allows(&loaded, "queues:create", "c") && !allows(&loaded, "queues:create", "b"));
        assert!(!allows(&loaded, "queues:update", "a"));
        assert!(allows(&loaded, "x", "c"));
        assert!(allows(&loaded, "queues:delete", "anybody"), "a default");
    }

    #[test]
    fn nothing_is_there_or_nothing_is_in_it() {
        let dir = Dir::new();
        assert_eq!(dir.files().load().unwrap().files, Vec::<PathBuf>::new());
        for empty in ["", "# only a comment\n", "{}", "---\n"] {
            dir.write("policy.yaml", empty);
            let loaded = dir.files().load().unwrap();
            assert!(allows(&loaded, "queues:get", "anybody"), "{empty:?}");
        }
    }

    #[test]
    fn a_change_is_noticed_and_a_broken_file_is_an_error() {
        let dir = Dir::new();
        let files = dir.files();
        let loaded = files.load().unwrap();
        assert!(files.load_if_changed(&loaded).unwrap().is_none());
        dir.write("policy.yaml", "queues:get: role:a\n");
        let loaded = files.load_if_changed(&loaded).unwrap().unwrap();
        assert!(!allows(&loaded, "queues:get", "b"));
        assert!(files.load_if_changed(&loaded).unwrap().is_none());
        for broken in ["queues:get: [", "- a list\n", "just text", "{\"a\": \"b\""] {
            dir.write("policy.yaml", broken);
            let error = files.load_if_changed(&loaded).unwrap_err();
            assert!(matches!(error, LoadError::Malformed { .. }), "{broken}: {error:?}");
        }
        fs::remove_file(dir.0.path().join("policy.yaml")).unwrap();
        let error = files.load_if_changed(&loaded).unwrap_err();
        assert!(matches!(error, LoadError::Missing { .. }), "{error:?}");
        dir.write("policy.yaml", "");
        let loaded = files.load_if_changed(&loaded).unwrap().unwrap();
        assert!(allows(&loaded, "queues:get", "b"));
        dir.write("policy.d/new.yaml", "queues:get: role:a\n");
        let loaded = files.load_if_changed(&loaded).unwrap().unwrap();
        dir.write("policy.d/other.yaml", "");
        fs::remove_file(dir.0.path().join("policy.d/new.yaml")).unwrap();
        let loaded = files.load_if_changed(&loaded).unwrap().unwrap();
        fs::remove_dir_all(dir.0.path().join("policy.d")).unwrap();
        let error = files.load_if_changed(&loaded).unwrap_err();
        assert!(matches!(error, LoadError::Missing { .. }), "{error:?}");
    }

    #[test]
    fn a_file_is_bounded() {
        let dir = Dir::new();
        dir.write("policy.yaml", &format!("# {}\n", "x".repeat(1024 * 1024)));
        assert!(matches!(dir.files().load(), Err(LoadError::TooLarge { .. })));
    }
}
