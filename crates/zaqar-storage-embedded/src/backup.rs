//! Backups: copy a store while it is open, check a copy, and restore it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::directory;
use crate::error::{Error, Sql};
use crate::recovery::clear_mark;
use crate::schema::{self, file, open_reader};

/// Problems that a check reports; a damaged file may have millions.
const MAX_PROBLEMS: u32 = 100;

/// The content of a file that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of the file.
    pub bytes: u64,
    /// Its format number.
    pub format: i32,
    /// Queues and topics of clients, and internal queues of deliveries.
    pub queues: u64,
    /// Messages in all of them.
    pub messages: u64,
}

/// Copies the store in a directory into a new file, consistent as of one moment, whether or not a
/// server has it open. The file gets its name only when it is complete and safe from a power cut,
/// and only its owner can read it.
///
/// Cost: it reads the whole store once and writes its live data. Requests are served in the
/// meantime, and the store's log grows by what they write.
///
/// # Errors
/// [`Error::Exists`] if the file exists, [`Error::Open`] if the store cannot be read,
/// [`Error::Copy`] if the copy cannot be written.
pub fn back_up(store: &Path, target: &Path) -> Result<Checked, Error> {
    refuse_existing(target)?;
    let failed = |source| Error::Copy { path: target.to_path_buf(), source };
    let partial = with_suffix(target, ".partial");
    fs::remove_file(&partial).or_else(passed_over).map_err(|error| failed(error.into()))?;
    // Created before SQLite opens it, so that only its owner can read the bodies.
    directory::private(&partial).map_err(|error| failed(error.into()))?;
    let copied = copy(store, &partial).and_then(|()| {
        let checked = check_file(&partial)?;
        let renamed = File::open(&partial)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&partial, target))
            .and_then(|()| directory::sync(parent(target)));
        renamed.map_err(|error| failed(error.into()))?;
        Ok(checked)
    });
    if copied.is_err() {
        // An incomplete copy is of no use. A failure to remove it must not hide the first error.
        let _ = fs::remove_file(&partial);
    }
    copied
}

/// Whether a directory has the file of a store. An empty file is left by a process that was killed
/// while it created the store, and counts as none. One that cannot be examined counts as there, so
/// that opening it says why.
pub fn has_file(store: &Path) -> bool {
    match file(store).metadata() {
        Ok(metadata) => metadata.len() > 0,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Restores a copy into a directory without a store or, with `replace`, in place of the store
/// there. What is there of a store is kept with the suffix `.replaced`, or `.replaced-2` and so on.
/// The store must not be open.
///
/// # Errors
/// [`Error::InUse`]; [`Error::Exists`] if there is a store and `replace` is off;
/// [`Error::Damaged`], [`Error::Foreign`], [`Error::Newer`] if the copy is not valid, with nothing
/// changed.
pub fn restore(copy: &Path, store: &Path, replace: bool) -> Result<Checked, Error> {
    let checked = check_file(copy)?;
    let target = file(store);
    let has_store = target.metadata().is_ok_and(|metadata| metadata.len() > 0);
    if has_store && !replace {
        return Err(Error::Exists { path: target });
    }
    let _owner = directory::acquire(store, &target, || false)?;
    let failed = |source: io::Error| Error::Copy { path: target.clone(), source: source.into() };
    let partial = schema::partial(store);
    directory::private(&partial).map_err(failed)?;
    let copied = fs::copy(copy, &partial).and_then(|_| File::open(&partial)?.sync_all());
    if copied.is_err() {
        // Nothing has changed. A failure to remove it must not hide the first error.
        let _ = fs::remove_file(&partial);
    }
    // Also the log of a file that is gone: SQLite would apply it to the copy.
    copied
        .and_then(|()| put_away(store))
        .and_then(|()| fs::rename(&partial, &target))
        .and_then(|()| directory::sync(store))
        .map_err(failed)?;
    Ok(checked)
}

/// Checks every page of the store in a directory, even while a server has it open.
///
/// Cost: it reads the whole store.
///
/// # Errors
/// [`Error::Damaged`] with the first 100 problems; [`Error::Open`] if it cannot be read.
pub fn check(store: &Path) -> Result<Checked, Error> {
    let path = file(store);
    let failed =
        |source: rusqlite::Error| Error::Open { path: path.clone(), source: source.into() };
    let conn = open_reader(store).map_err(failed)?;
    check_connection(&conn, &path)
}

fn copy(store: &Path, target: &Path) -> Result<(), Error> {
    let path = file(store);
    let source = open_reader(store)
        .map_err(|source| Error::Open { path: path.clone(), source: source.into() })?;
    let format = schema::check_format(&source, &path)?;
    let failed =
        |source: rusqlite::Error| Error::Copy { path: target.to_path_buf(), source: source.into() };
    let name =
        target.to_str().ok_or_else(|| failed(rusqlite::Error::InvalidPath(target.into())))?;
    source.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
    if format < schema::MARKED_SINCE {
        return Ok(());
    }
    // The copy was never open, so it has no log that could be missing.
    let copied = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE);
    copied.and_then(|copied| clear_mark(&copied)).map_err(failed)
}

/// Checks a copy without changing it or creating files beside it.
fn check_file(path: &Path) -> Result<Checked, Error> {
    let failed =
        |source: rusqlite::Error| Error::Open { path: path.to_path_buf(), source: source.into() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    check_connection(&conn, path)
}

fn check_connection(conn: &Connection, path: &Path) -> Result<Checked, Error> {
    let failed =
        |source: rusqlite::Error| Error::Open { path: path.to_path_buf(), source: source.into() };
    let format = schema::check_format(conn, path)?;
    let problems = problems(conn).map_err(failed)?;
    if problems != ["ok"] {
        return Err(Error::Damaged { path: path.to_path_buf(), problems: problems.join("; ") });
    }
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let queues = count("SELECT count(*) FROM heads")?;
    let messages = count(
        "SELECT (SELECT count(*) FROM free) + (SELECT count(*) FROM held) + (SELECT count(*) FROM delayed)",
    )?;
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    let unsigned = |count: i64| u64::try_from(count).unwrap_or_default();
    Ok(Checked { bytes, format, queues: unsigned(queues), messages: unsigned(messages) })
}

fn problems(conn: &Connection) -> Sql<Vec<String>> {
    let mut statement = conn.prepare(&format!("PRAGMA integrity_check({MAX_PROBLEMS})"))?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Renames the files of a store to names that none of them has yet: `.replaced`, `.replaced-2`, …
fn put_away(store: &Path) -> io::Result<()> {
    let files = [file(store), schema::log(store), schema::log_index(store)];
    let numbered = (2_u32..).map(|number| format!(".replaced-{number}"));
    let is_free = |suffix: &String| !files.iter().any(|path| with_suffix(path, suffix).exists());
    let suffix = std::iter::once(".replaced".to_owned()).chain(numbered).find(is_free);
    let suffix = suffix.unwrap_or_default();
    // The lock has made an empty file where there was none.
    let has_content = |path: &&PathBuf| path.metadata().is_ok_and(|found| found.len() > 0);
    for path in files.iter().filter(has_content) {
        fs::rename(path, with_suffix(path, &suffix)).or_else(passed_over)?;
    }
    Ok(())
}

/// A missing file is not an error.
fn passed_over(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn refuse_existing(path: &Path) -> Result<(), Error> {
    if path.exists() { Err(Error::Exists { path: path.to_path_buf() }) } else { Ok(()) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}
