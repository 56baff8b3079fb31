//! Finds the configuration files: those given, or those that the original would find.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::source::Environment;

/// Names of files and directories that are searched for, without extension.
const NAMES: [&str; 2] = ["zaqar", "zaqar-server"];

/// All files to read; later ones win.
pub(super) fn files(
    given_files: &[PathBuf],
    given_dirs: &[PathBuf],
    environment: &Environment,
) -> Result<Vec<PathBuf>, Vec<Error>> {
    let places = places(environment);
    let mut files = Vec::new();
    let mut problems = Vec::new();
    if given_files.is_empty() {
        files.extend(search(&places, ".conf"));
    }
    let default_dirs = if given_dirs.is_empty() { search(&places, ".conf.d") } else { Vec::new() };
    add_dirs(&default_dirs, &mut files, &mut problems);
    files.extend(given_files.iter().map(|path| expand(path, environment)));
    let given_dirs: Vec<_> = given_dirs.iter().map(|path| expand(path, environment)).collect();
    add_dirs(&given_dirs, &mut files, &mut problems);
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// The directories that the original searches; the first match wins.
fn places(environment: &Environment) -> Vec<PathBuf> {
    let from = |variable: &str| environment.get(variable).filter(|value| !value.is_empty());
    let home = from("HOME").map(PathBuf::from);
    let snap = |variable: &str| from(variable).map(|root| Path::new(root).join("etc/zaqar"));
    [
        home.as_ref().map(|home| home.join(".zaqar")),
        home,
        Some(PathBuf::from("/etc/zaqar")),
        Some(PathBuf::from("/etc")),
        snap("SNAP_COMMON"),
        snap("SNAP"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The first match for each name.
fn search(places: &[PathBuf], extension: &str) -> Vec<PathBuf> {
    NAMES
        .iter()
        .filter_map(|name| {
            let file = format!("{name}{extension}");
            places.iter().map(|place| place.join(&file)).find(|path| path.exists())
        })
        .collect()
}

fn add_dirs(dirs: &[PathBuf], files: &mut Vec<PathBuf>, problems: &mut Vec<Error>) {
    for dir in dirs {
        match list(dir) {
            Ok(found) => files.extend(found),
            Err(source) => {
                problems.push(Error::Unreadable { path: dir.display().to_string(), source });
            }
        }
    }
}

/// The directory's `*.conf` files, sorted, without hidden ones, as a shell's pattern matches.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<OsString>>>()?;
    names.retain(|name| {
        let name = name.as_encoded_bytes();
        name.ends_with(b".conf") && !name.starts_with(b".")
    });
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Expands `~/` to the home directory, for values that no shell has expanded.
fn expand(path: &Path, environment: &Environment) -> PathBuf {
    match (path.strip_prefix("~"), environment.get("HOME")) {
        (Ok(rest), Some(home)) => Path::new(home).join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Environment, files, search};

    #[test]
    fn each_file_name_is_read_from_the_first_directory_that_has_it() {
        let root = tempfile::tempdir().unwrap();
        let places = [root.path().join("near"), root.path().join("far")];
        for place in &places {
            fs::create_dir(place).unwrap();
        }
        fs::write(places[1].join("zaqar.conf"), "").unwrap();
        fs::write(places[1].join("zaqar-server.conf"), "").unwrap();
        fs::write(places[0].join("zaqar-server.conf"), "").unwrap();
        assert_eq!(
            search(&places, ".conf"),
            [places[1].join("zaqar.conf"), places[0].join("zaqar-server.conf")]
        );
    }

    #[test]
    fn the_home_directory_is_searched_and_directories_follow_files() {
        let home = tempfile::tempdir().unwrap();
        let dot = home.path().join(".zaqar");
        fs::create_dir_all(dot.join("zaqar.conf.d")).unwrap();
        for name in ["zaqar.conf", "zaqar-server.conf", "zaqar.conf.d/b.conf"] {
            fs::write(dot.join(name), "").unwrap();
        }
        for name in ["a.conf", ".hidden.conf", "a.conf~"] {
            fs::write(dot.join("zaqar.conf.d").join(name), "").unwrap();
        }
        fs::create_dir_all(home.path().join("zaqar-server.conf.d")).unwrap();
        let environment = Environment::new([("HOME", home.path())]);

        let found = files(&[], &[], &environment).unwrap();
        let expected =
            ["zaqar.conf", "zaqar-server.conf", "zaqar.conf.d/a.conf", "zaqar.conf.d/b.conf"];
        assert_eq!(found, expected.map(|name| dot.join(name)));

        let found = files(&["~/x.conf".into()], &["~/.zaqar/zaqar.conf.d".into()], &environment);
        let expected = [
            home.path().join("x.conf"),
            dot.join("zaqar.conf.d/a.conf"),
            dot.join("zaqar.conf.d/b.conf"),
        ];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let problems = files(&[], &["/nowhere/at/all".into()], &Environment::default());
        assert!(
            problems.unwrap_err()[0].to_string().starts_with("/nowhere/at/all: cannot be read: ")
        );
    }
}
