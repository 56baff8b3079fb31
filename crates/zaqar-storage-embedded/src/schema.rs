//! The schema of the file, its format number, and the settings of connections to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Sql};
use crate::{Options, Sync, directory};

/// `ZQAR`, which identifies the file, also to `file`.
const APPLICATION_ID: i32 = 0x5a51_4152;
/// The format of this release.
pub(crate) const FORMAT: i32 = 6;

/// The format since which an open store is marked: see [`crate::recovery`].
pub(crate) const MARKED_SINCE: i32 = 3;

/// Bytes of a page of a new file, as small as a disk's own: each page that a transaction changes is
/// written whole. Before, pages of new files had 8192.
const PAGE_SIZE: u32 = 4096;
/// The log is truncated to this size when it is restarted after a burst.
const LOG_BYTES: u32 = 64 << 20;
/// Small, because a reader must drop cached pages that others have changed.
const READER_CACHE_KIB: u32 = 1024;
/// Long enough for an operator's `sqlite3` to finish a statement.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// Used while another process is known to hold a lock, so that requests do not wait for long.
pub(crate) const BUSY_AGAIN: Duration = Duration::from_millis(50);

/// When an outbox entry ends: a settled one when it can no longer be followed, any other with its
/// messages.
macro_rules! entry_end {
    () => {
        "CASE WHEN ready = 2 THEN followed ELSE expires END"
    };
}
pub(crate) use entry_end;

/// The next negative position that no queue has reserved.
macro_rules! arrivals {
    () => {
        "CREATE TABLE arrivals (id INTEGER PRIMARY KEY CHECK (id = 1), next INTEGER NOT NULL);
INSERT INTO arrivals VALUES (1, -9223372036854775807);
"
    };
}

/// - A queue's head has numbers, by which its rows are found, and a message has a `position`; both
///   come from `sequence` and are never reused. `number` is for messages and claims, and changes
///   with a purge; `audience` is for subscriptions, and changes when all are removed; `life` is for
///   the outbox.
/// - The messages of a queue from `hidden_from` to `hidden_until` are not shown: see
///   [`crate::hidden`].
/// - `frozen` is the move that has frozen a head; it `leaves`, or arrives. What has arrived is at
///   negative positions, which `arrival` says: see [`crate::arrival`].
/// - `messages` never change. Their states are in three small tables, one per state, ordered by
///   number and position. Their `number` is that of their head when they were posted, for the case
///   that their row of `expiry` is missing.
/// - `expiry`, `claims_due` and `delayed_due` have the next due work of all queues. Messages from
///   `sequence.indexed` on may have no row in `expiry`: see [`crate::expiry_rows`].
/// - `position` and `seen` of `sequence` are reserved ones: see [`crate::sequence`].
/// - `ready` of an outbox entry is 1 while it may be leased, 0 while it waits for its due time, 3
///   while a lease on it lasts, and 2 once it is settled: then it is kept until `followed`. Its
///   messages have the positions from `first` on. `next_due` of a head is when its first entry is
///   due. Entries of a `life` in `unwanted` with positions below `before` have no subscriber left.
/// - A subscription may depend on a row of `leases`.
/// - `open_mark` has a row while the store is open: see [`crate::recovery`].
/// - `garbage` has the numbers of rows that no head refers to, for the sweep.
/// - Times are milliseconds since 1970; `ttl` is in seconds.
const TABLES: &str = concat!("
CREATE TABLE sequence (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL, number INTEGER NOT NULL, seen INTEGER NOT NULL,
    indexed INTEGER NOT NULL
);
INSERT INTO sequence VALUES (1, 1, 1, 0, 1);
CREATE TABLE queues (
    project TEXT NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL,
    incarnation INTEGER NOT NULL, version INTEGER NOT NULL, metadata TEXT NOT NULL,
    PRIMARY KEY (project, kind, name)
) WITHOUT ROWID;
CREATE TABLE queue_counts (
    project TEXT NOT NULL, kind INTEGER NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (project, kind)
) WITHOUT ROWID;
CREATE TABLE heads (
    number INTEGER PRIMARY KEY,
    project TEXT NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL,
    incarnation INTEGER NOT NULL, version INTEGER NOT NULL,
    free INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0,
    audience INTEGER NOT NULL, life INTEGER NOT NULL UNIQUE, next_due INTEGER,
    hidden_from INTEGER, hidden_until INTEGER,
    frozen INTEGER, leaves INTEGER, arrival BLOB,
    UNIQUE (project, kind, name)
);
CREATE INDEX heads_next_due ON heads (next_due) WHERE next_due IS NOT NULL;
CREATE UNIQUE INDEX heads_audience ON heads (audience);
CREATE INDEX heads_hidden ON heads (number) WHERE hidden_from IS NOT NULL;
CREATE TABLE messages (
    position INTEGER PRIMARY KEY, created INTEGER NOT NULL, number INTEGER, client TEXT NOT NULL,
    sealed TEXT, checksum BLOB, body BLOB NOT NULL
);
CREATE TABLE free (
    number INTEGER NOT NULL, position INTEGER NOT NULL, expires INTEGER NOT NULL, claims INTEGER NOT NULL,
    PRIMARY KEY (number, position)
) WITHOUT ROWID;
CREATE TABLE held (
    number INTEGER NOT NULL, position INTEGER NOT NULL, expires INTEGER NOT NULL, claims INTEGER NOT NULL,
    claim BLOB NOT NULL,
    PRIMARY KEY (number, position)
) WITHOUT ROWID;
CREATE TABLE delayed (
    number INTEGER NOT NULL, position INTEGER NOT NULL, expires INTEGER NOT NULL, claims INTEGER NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (number, position)
) WITHOUT ROWID;
CREATE INDEX delayed_due ON delayed (due);
CREATE TABLE claims (
    number INTEGER NOT NULL, id BLOB NOT NULL,
    ttl INTEGER NOT NULL, since INTEGER NOT NULL, expires INTEGER NOT NULL, positions BLOB NOT NULL,
    PRIMARY KEY (number, id)
) WITHOUT ROWID;
CREATE INDEX claims_due ON claims (expires);
CREATE TABLE expiry (
    at INTEGER NOT NULL, position INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (at, position)
) WITHOUT ROWID;
CREATE TABLE subscriptions (
    audience INTEGER NOT NULL, id BLOB NOT NULL, subscriber TEXT NOT NULL,
    ttl INTEGER NOT NULL, since INTEGER NOT NULL, expires INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, options TEXT NOT NULL, lease BLOB,
    PRIMARY KEY (audience, id), UNIQUE (audience, subscriber)
) WITHOUT ROWID;
CREATE INDEX subscriptions_lives ON subscriptions (audience, (lease IS NULL), expires);
CREATE INDEX subscriptions_leased ON subscriptions (lease, audience, id, expires) WHERE lease IS NOT NULL;
CREATE INDEX subscriptions_due ON subscriptions (expires);
CREATE TABLE outbox (
    first INTEGER PRIMARY KEY, life INTEGER NOT NULL, count INTEGER NOT NULL, created INTEGER NOT NULL,
    due INTEGER NOT NULL, ready INTEGER NOT NULL, followed INTEGER NOT NULL, expires INTEGER NOT NULL
);
CREATE INDEX outbox_order ON outbox (life, first);
"
,"CREATE INDEX outbox_ends ON outbox (", entry_end!(), ");"
,"
CREATE INDEX outbox_due ON outbox (life, ready, due);
CREATE INDEX outbox_ready ON outbox (life, first) WHERE ready = 1;
CREATE TABLE outbox_messages (
    position INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, due INTEGER NOT NULL,
    sealed TEXT, checksum BLOB, body BLOB NOT NULL
);
CREATE TABLE leases (id BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX leases_due ON leases (until);
CREATE TABLE unwanted (life INTEGER PRIMARY KEY, before INTEGER NOT NULL);
CREATE TABLE garbage (number INTEGER PRIMARY KEY);
CREATE TABLE open_mark (id INTEGER PRIMARY KEY CHECK (id = 1), mode INTEGER NOT NULL);
",
arrivals!());

/// From format 1 to 2: outbox entries end with their messages, and subscriptions are indexed by
/// lease.
const FROM_1: &str = concat!(
    "
DROP INDEX heads_agenda;
ALTER TABLE heads RENAME COLUMN agenda TO next_due;
CREATE INDEX heads_next_due ON heads (next_due) WHERE next_due IS NOT NULL;
CREATE UNIQUE INDEX heads_audience ON heads (audience);
DROP INDEX outbox_settled;
ALTER TABLE outbox ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
UPDATE outbox SET expires = created + 1000 * coalesce(
    (SELECT max(iif(ttl BETWEEN 0 AND 9000000000000, ttl, 9000000000000)) FROM outbox_messages
     WHERE position >= first AND position < first + count), 0);
CREATE INDEX outbox_ends ON outbox (",
    entry_end!(),
    ");
DROP INDEX subscriptions_leased;
CREATE INDEX subscriptions_leased ON subscriptions (lease, audience, id, expires) WHERE lease IS NOT NULL;
CREATE TABLE unwanted (life INTEGER PRIMARY KEY, before INTEGER NOT NULL);
"
);

/// From format 2 to 3: the mark of an open store.
const FROM_2: &str =
    "CREATE TABLE open_mark (id INTEGER PRIMARY KEY CHECK (id = 1), mode INTEGER NOT NULL);";

/// From format 3 to 4: hidden messages.
const FROM_3: &str = "
ALTER TABLE heads ADD COLUMN hidden_from INTEGER;
ALTER TABLE heads ADD COLUMN hidden_until INTEGER;
CREATE INDEX heads_hidden ON heads (number) WHERE hidden_from IS NOT NULL;
";

/// From format 4 to 5: moves to other stores and from them.
const FROM_4: &str = concat!(
    "
ALTER TABLE heads ADD COLUMN frozen INTEGER;
ALTER TABLE heads ADD COLUMN leaves INTEGER;
ALTER TABLE heads ADD COLUMN arrival BLOB;
",
    arrivals!()
);

/// Bytes of a page of a file: an existing one keeps the size that it was created with.
pub(crate) fn page_size(conn: &Connection) -> Sql<u32> {
    conn.query_row("PRAGMA page_size", [], |row| row.get(0))
}

/// Bytes that a page takes in the log.
pub(crate) const fn frame_bytes(page_size: u32) -> u64 {
    page_size as u64 + 24
}

/// From format 5 to 6: rows of `expiry` are written later. Columns are added behind the others, so
/// statements name them.
const FROM_5: &str = "
ALTER TABLE sequence ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;
UPDATE sequence SET indexed = position;
ALTER TABLE messages ADD COLUMN number INTEGER;
";

/// The migrations from each format to the next, beginning with format 1.
const MIGRATIONS: [&str; FORMAT as usize - 1] = [FROM_1, FROM_2, FROM_3, FROM_4, FROM_5];

/// The name of a store's file.
pub(crate) const FILE: &str = "zaqar.db";

/// The file of a store.
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// A copy that is being restored. From when the store is put away until the copy has its name, it
/// alone says that this is not the directory of a new store.
pub(crate) fn partial(directory: &Path) -> PathBuf {
    directory.join("zaqar.db.partial")
}

/// Its log.
pub(crate) fn log(directory: &Path) -> PathBuf {
    directory.join("zaqar.db-wal")
}

/// The index of its log in shared memory.
pub(crate) fn log_index(directory: &Path) -> PathBuf {
    directory.join("zaqar.db-shm")
}

/// Opens the writer's connection; creates the file if it is new. `before_writing` is called once
/// the file is known to be a store of ours, before anything is written to it.
pub(crate) fn open_writer(
    options: &Options,
    before_writing: impl FnOnce(&Connection) -> Result<(), Error>,
) -> Result<Connection, Error> {
    let path = file(&options.path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite gives its other files the mode of this one, so that only the owner can read bodies.
    directory::private(&path)
        .map_err(|source| Error::Open { path: path.clone(), source: source.into() })?;
    let failed =
        |source: rusqlite::Error| Error::Open { path: path.clone(), source: source.into() };
    let conn = Connection::open_with_flags(&path, flags).map_err(failed)?;
    set_up_writer(&conn, options).map_err(failed)?;
    let (application, format) = marks(&conn).map_err(failed)?;
    if application == APPLICATION_ID {
        before_writing(&conn)?;
    }
    match (application, format) {
        (0, 0) if is_empty(&conn).map_err(failed)? => create(&conn).map_err(failed)?,
        (APPLICATION_ID, FORMAT) => {}
        (APPLICATION_ID, earlier @ 1..FORMAT) => migrate(&conn, earlier).map_err(failed)?,
        (APPLICATION_ID, found) => return Err(Error::Newer { path, found, supported: FORMAT }),
        _ => return Err(Error::Foreign { path }),
    }
    // This writes to the file, so it comes after the check that the file is a store.
    use_log(&conn).map_err(failed)?;
    Ok(conn)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(directory: &Path) -> Sql<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file(directory), flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    keep_plans(&conn)?;
    conn.execute_batch(&format!(
        "PRAGMA cache_size = -{READER_CACHE_KIB}; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;"
    ))?;
    Ok(conn)
}

/// Opens a connection that copies the log into the file.
pub(crate) fn open_checkpointer(directory: &Path, sync: Sync) -> Sql<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file(directory), flags)?;
    conn.busy_timeout(Duration::ZERO)?;
    conn.execute_batch(&format!(
        "PRAGMA synchronous = {}; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {LOG_BYTES};",
        synchronous(sync)
    ))?;
    Ok(conn)
}

const fn synchronous(sync: Sync) -> &'static str {
    match sync {
        Sync::Always => "FULL",
        Sync::Interval(_) => "NORMAL",
        Sync::Never => "OFF",
    }
}

fn set_up_writer(conn: &Connection, options: &Options) -> Sql<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    keep_plans(conn)?;
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if pages == 0 {
        // Setting these would write to an existing file.
        conn.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_SIZE}; PRAGMA auto_vacuum = INCREMENTAL"
        ))?;
    }
    conn.execute_batch(&format!(
        "PRAGMA cache_size = -{}; PRAGMA temp_store = MEMORY; \
         PRAGMA trusted_schema = OFF; PRAGMA synchronous = {}; PRAGMA wal_autocheckpoint = 0; \
         PRAGMA journal_size_limit = {LOG_BYTES};",
        options.page_cache >> 10,
        synchronous(options.sync),
    ))
}

/// Keeps a statement's plan independent of its parameters. Otherwise SQLite prepares a statement
/// again when a bound limit has changed, which costs as much as running it.
fn keep_plans(conn: &Connection) -> Sql<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// The format number of a file, which must be a store of this or an earlier release.
pub(crate) fn check_format(conn: &Connection, path: &Path) -> Result<i32, Error> {
    let path = path.to_path_buf();
    match marks(conn) {
        Ok((APPLICATION_ID, found)) if (1..=FORMAT).contains(&found) => Ok(found),
        Ok((APPLICATION_ID, found)) => Err(Error::Newer { path, found, supported: FORMAT }),
        Ok(_) => Err(Error::Foreign { path }),
        Err(source) => Err(Error::Open { path, source: source.into() }),
    }
}

fn marks(conn: &Connection) -> Sql<(i32, i32)> {
    let application = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let format = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok((application, format))
}

fn is_empty(conn: &Connection) -> Sql<bool> {
    conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

fn create(conn: &Connection) -> Sql<()> {
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; \
         PRAGMA user_version = {FORMAT}; COMMIT;"
    ))
}

/// Migrates a file of an earlier format in one transaction.
fn migrate(conn: &Connection, format: i32) -> Sql<()> {
    let first = usize::try_from(format - 1).unwrap_or(0);
    let steps = MIGRATIONS[first..].concat();
    conn.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {FORMAT}; COMMIT;"))
}

fn use_log(conn: &Connection) -> Sql<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    // A file system without shared memory, such as some network file systems, keeps the old mode.
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
        Some(format!("the file system allows no write-ahead log (journal mode {mode})")),
    ))
}
