//! Recovery of a store that was not closed, and detection of lost changes.
//!
//! SQLite treats a log that is missing, or whose beginning is damaged, as an empty one, so changes
//! that are only in the log would be lost silently. Therefore the file has a mark while the store
//! is open. The mark is committed, and copied into the file, before the first request; it is
//! cleared as the last change before the store is closed.
//!
//! A kill or a power cut while the mark is in the file can leave, with `Sync::Always`:
//!
//! - A log with a valid header and any number of valid frames, including none: once everything is
//!   in the file, the log is restarted with a new header, and the frames after it are from its last
//!   round.
//! - After the last valid frame, parts of the transaction that was being written, and of earlier
//!   transactions whose sync failed: SQLite rolls these back and overwrites them with the next one,
//!   so the end of a longer one remains. The checksum of each frame continues that of the frame
//!   before it. A transaction that continues another one was written after the sync of that one had
//!   succeeded; the remains here continue nothing.
//! - An empty log, none, or one that was being created and has no complete header, with everything
//!   in the file: another program, such as `sqlite3` or litestream, has copied and truncated the
//!   log, or this store has, under litestream. A copy made by `VACUUM INTO` has no log either.
//!
//! So these indicate a loss: a log with frames and a damaged header; after a damaged frame, a
//! commit of the same round that another transaction continues; and, after a kill, fewer frames
//! than the log's index in shared memory (`-shm`) counts, unless they are in the file already.
//! After a restart of the system that index may have any content, and is ignored. If it is not
//! available, a missing or empty log is only logged.
//!
//! A store that was open once has a file with content, so a directory without one is not that of a
//! new store if it has what an open store leaves there: a `lock` that names a boot, or a `reserve`.
//! Both are written after the mark, and a process that is killed before has acknowledged nothing.
//!
//! This requires that whatever a transaction continues is durable. What a process left may not be
//! durable, if its sync failed or it died before the sync. Therefore recovered data are written and
//! synced again before anything is written after them: see [`make_durable`].

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::checkpoint::begin_log;
use crate::error::{Error, Sql};
use crate::{Options, Sync, log_sync, schema};

/// Bytes of the log's header, and of the header of each frame.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Bytes of the log's index that are read: two copies of its header, and how far the log was
/// copied.
const INDEX_HEADER: usize = 100;
/// The first word of a log with little-endian checksums; with big-endian ones it is one more.
const MAGIC: u32 = 0x377f_0682;

/// The content of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Log {
    pub(crate) bytes: u64,
    pub(crate) has_valid_header: bool,
    /// Identifies the frames of this round.
    pub(crate) salts: [u8; 8],
    /// Frames before the first damaged one.
    pub(crate) valid_frames: u64,
    /// Transactions that SQLite recovers, and their frames.
    pub(crate) commits: u64,
    pub(crate) frames: u64,
    /// Transactions of this round after the first damaged frame that another one continues, so
    /// their sync had succeeded.
    pub(crate) durable_commits_lost: u64,
    page_size: usize,
}

impl Log {
    /// Bytes of the header and the frames that SQLite recovers.
    fn recovered_bytes(&self) -> u64 {
        HEADER as u64 + self.frames * (FRAME_HEADER + self.page_size) as u64
    }
}

/// What is known of the store's past, without its file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// The system was not restarted since the store was open.
    pub(crate) is_same_boot: bool,
    /// A store was open in the directory before.
    pub(crate) was_open: bool,
}

/// Checks the directory before SQLite opens it, and rejects a store that has lost acknowledged
/// changes. Returns how many bytes of the log will be recovered.
pub(crate) fn check(options: &Options, past: Past) -> Result<u64, Error> {
    let (file, path) = (schema::file(&options.path), schema::log(&options.path));
    let failed = |source: io::Error| Error::Open { path: path.clone(), source: source.into() };
    let file_bytes = size(&file).map_err(failed)?;
    let log = read_log(&path).map_err(failed)?;
    let lost = if file_bytes == 0 {
        if log.bytes > 0 {
            Some("the file is missing or empty, and its log is not")
        } else if schema::partial(&options.path).exists() {
            Some("the file is missing or empty, and a restore was interrupted")
        } else {
            past.was_open.then_some("the file is missing or empty, and there was a store before")
        }
    } else {
        let index = if past.is_same_boot {
            Index::read(&schema::log_index(&options.path)).map_err(failed)?
        } else {
            None
        };
        mark(&file).and_then(|sync| detect_loss(sync, index, &log))
    };
    if let Some(what) = lost {
        if !options.accept_loss {
            return Err(Error::Lost { path: file, what });
        }
        tracing::warn!(file = %file.display(), "the loss is accepted: {what}");
        if file_bytes == 0 || !log.has_valid_header {
            set_aside(&path).map_err(failed)?;
            return Ok(0);
        }
    }
    if log.frames == 0 {
        return Ok(0);
    }
    let Log { commits, frames, bytes, .. } = log;
    tracing::info!(commits, frames, bytes, "the store was not closed: its log is recovered");
    Ok(log.recovered_bytes())
}

/// Writes the recovered part of the log again and syncs it, before anything is written after it.
/// The process that wrote it may have died before its sync, or the sync may have failed, and then
/// the system may consider pages clean that are not on disk.
pub(crate) fn make_durable(conn: &Connection, options: &Options, bytes: u64) -> Result<(), Error> {
    if bytes == 0 {
        return Ok(());
    }
    let path = schema::log(&options.path);
    let failed = |source: Box<dyn std::error::Error + Send + std::marker::Sync>| Error::Open {
        path: path.clone(),
        source,
    };
    // No other program may write to the log in the meantime.
    conn.execute_batch("BEGIN IMMEDIATE").map_err(|error| failed(error.into()))?;
    let outcome = log_sync::rewrite(&path, bytes);
    conn.execute_batch("ROLLBACK").map_err(|error| failed(error.into()))?;
    outcome.map_err(|error| failed(error.into()))
}

/// The sync mode of the store that is marked as open; `None` without a mark.
fn mark(file: &Path) -> Option<Sync> {
    // Reads the file without its log. An unreadable file is left to SQLite to report.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(immutable_uri(file), flags).ok()?;
    let mode: i64 =
        conn.query_row("SELECT mode FROM open_mark", [], |row| row.get(0)).optional().ok()??;
    match mode {
        MARK_ALWAYS => Some(Sync::Always),
        MARK_INTERVAL => Some(Sync::Interval(std::time::Duration::ZERO)),
        MARK_NEVER => Some(Sync::Never),
        other => {
            tracing::warn!(mode = other, "the mark of an open store has an unknown mode");
            None
        }
    }
}

const MARK_ALWAYS: i64 = 1;
const MARK_INTERVAL: i64 = 2;
const MARK_NEVER: i64 = 3;

/// Marks the store as open in the file itself.
pub(crate) fn set_mark(conn: &Connection, sync: Sync) -> Sql<()> {
    let mode = match sync {
        Sync::Always => MARK_ALWAYS,
        Sync::Interval(_) => MARK_INTERVAL,
        Sync::Never => MARK_NEVER,
    };
    conn.execute("INSERT OR REPLACE INTO open_mark VALUES (1, ?1)", [mode])?;
    conn.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
    begin_log(conn)?;
    // The next commit restarts the log, so frames of an earlier process are from another round. An
    // update without an effect would write nothing, so the row is deleted and inserted.
    conn.execute_batch(&format!(
        "BEGIN; DELETE FROM open_mark; INSERT INTO open_mark VALUES (1, {mode}); COMMIT"
    ))
}

/// Marks the store as closed.
pub(crate) fn clear_mark(conn: &Connection) -> Sql<()> {
    conn.execute("DELETE FROM open_mark", []).map(|_| ())
}

fn detect_loss(sync: Sync, index: Option<Index>, log: &Log) -> Option<&'static str> {
    if index.is_some_and(|index| index.misses_some_of(log)) {
        return Some("the store was not closed, and changes are missing in its log");
    }
    if log.bytes <= HEADER as u64 && !log.has_valid_header {
        if index.is_none() {
            tracing::warn!(
                "the store was not closed, and its log is missing: that is expected for a copy made by \
                 VACUUM INTO, and after another program has opened the file; otherwise the latest \
                 changes are lost"
            );
        }
        return None;
    }
    let is_in_order = match sync {
        Sync::Always => true,
        Sync::Interval(_) => false,
        // The system writes in any order, so nothing can be concluded.
        Sync::Never => return None,
    };
    if !log.has_valid_header {
        return Some("the store was not closed, and the beginning of its log is damaged");
    }
    if log.durable_commits_lost > 0 && is_in_order {
        return Some("the store was not closed, and its log is damaged before its end");
    }
    None
}

/// The log's index in shared memory, which is valid only if the system was not restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Index {
    /// Committed frames of the log, and how many of them are in the file.
    frames: u32,
    in_file: u32,
    salts: [u8; 8],
}

impl Index {
    /// Reads the index; `None` if it is missing or invalid.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = [0; INDEX_HEADER];
        Ok(read_whole(&mut file, &mut bytes)?.then(|| Self::of(&bytes)).flatten())
    }

    fn of(bytes: &[u8; INDEX_HEADER]) -> Option<Self> {
        let (one, other) = (&bytes[..48], &bytes[48..96]);
        let native = |at: usize| bytes[at..].first_chunk().map_or(0, |it| u32::from_ne_bytes(*it));
        let mut sums = Checksum { is_big_endian: cfg!(target_endian = "big"), first: 0, second: 0 };
        sums.add(&one[..40]);
        if one != other || native(0) == 0 || !sums.are(native(40), native(44)) {
            return None;
        }
        let salts = *bytes[32..].first_chunk()?;
        Some(Self { frames: native(16), in_file: native(96), salts })
    }

    fn misses_some_of(&self, log: &Log) -> bool {
        // Other salts mean that the index is older than the log, after a power cut.
        let is_of_this_log = !log.has_valid_header || log.salts == self.salts;
        is_of_this_log && log.valid_frames < u64::from(self.frames) && self.in_file < self.frames
    }
}

/// The size of a file; 0 if it does not exist.
fn size(path: &Path) -> io::Result<u64> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Keeps a log that SQLite would delete, for later examination.
fn set_aside(log: &Path) -> io::Result<()> {
    if !log.exists() {
        return Ok(());
    }
    let mut number = 1;
    let aside = loop {
        let aside = log.with_extension(format!("db-wal.lost-{number}"));
        if !aside.exists() {
            break aside;
        }
        number += 1;
    };
    tracing::warn!(log = %aside.display(), "the damaged log is kept");
    std::fs::rename(log, aside)
}

/// A URI that makes SQLite open a file as immutable.
fn immutable_uri(file: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'?' | b'#' | b'%' => uri.push_str(&format!("%{byte:02x}")),
            byte if byte.is_ascii() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?immutable=1"
}

/// Reads what SQLite would recover from a log, and what follows it.
pub(crate) fn read_log(path: &Path) -> io::Result<Log> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Log::default()),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    scan(&mut BufReader::with_capacity(1 << 20, file)).map(|log| Log { bytes, ..log })
}

fn scan(log: &mut impl Read) -> io::Result<Log> {
    let mut found = Log::default();
    let mut header = [0; HEADER];
    if !read_whole(log, &mut header)? {
        return Ok(found);
    }
    // The checksum that is stored in the previous frame, whether or not that frame is valid.
    let Some((mut stored, page_size)) = Checksum::of_header(&header) else { return Ok(found) };
    found.has_valid_header = true;
    found.page_size = page_size;
    let salts = &header[16..24];
    found.salts.copy_from_slice(salts);
    let mut frame = vec![0; FRAME_HEADER + page_size];
    let mut is_valid = true;
    // The previous frame is after the first damaged one, is itself undamaged, and ends a
    // transaction.
    let mut follows_commit = false;
    while read_whole(log, &mut frame)? {
        let continues =
            &frame[8..16] == salts && stored.after(&frame) == Checksum::of(&frame, &stored);
        let is_commit = continues && word(&frame, 4) != 0;
        is_valid &= continues;
        if is_valid {
            found.valid_frames += 1;
            if is_commit {
                (found.commits, found.frames) = (found.commits + 1, found.valid_frames);
            }
        } else {
            found.durable_commits_lost += u64::from(follows_commit && continues);
            follows_commit = is_commit;
        }
        stored = Checksum::of(&frame, &stored);
    }
    Ok(found)
}

/// Fills a buffer; `false` at the end of the file, even within a frame.
fn read_whole(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The running checksum of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checksum {
    is_big_endian: bool,
    first: u32,
    second: u32,
}

impl Checksum {
    /// Reads a log's header, and the size of its pages; `None` if it is damaged.
    fn of_header(header: &[u8; HEADER]) -> Option<(Self, usize)> {
        let magic = word(header, 0);
        let page_size = word(header, 8);
        if magic & !1 != MAGIC
            || !page_size.is_power_of_two()
            || !(512..=65536).contains(&page_size)
        {
            return None;
        }
        let mut sums = Self { is_big_endian: magic & 1 == 1, first: 0, second: 0 };
        sums.add(&header[..24]);
        let is_valid = sums.are(word(header, 24), word(header, 28));
        is_valid.then_some((sums, page_size as usize))
    }

    /// The checksum stored in a frame, in the byte order of a log.
    fn of(frame: &[u8], log: &Self) -> Self {
        Self { first: word(frame, 16), second: word(frame, 20), ..*log }
    }

    /// The checksum of a frame that continues this one.
    fn after(mut self, frame: &[u8]) -> Self {
        self.add(&frame[..8]);
        self.add(&frame[FRAME_HEADER..]);
        self
    }

    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            let read = if self.is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
            self.first = self.first.wrapping_add(read([a, b, c, d])).wrapping_add(self.second);
            self.second = self.second.wrapping_add(read([e, f, g, h])).wrapping_add(self.first);
        }
    }

    const fn are(&self, first: u32, second: u32) -> bool {
        self.first == first && self.second == second
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const SALTS: [u8; 8] = *b"saltsalt";

    /// Writes a log as SQLite does.
    struct Writer {
        bytes: Vec<u8>,
        /// The number of committed frames, and the checksum of the last of them.
        end: usize,
        sums: Checksum,
    }

    impl Writer {
        fn new() -> Self {
            let mut header = [0; HEADER];
            header[..4].copy_from_slice(&MAGIC.to_be_bytes());
            header[8..12].copy_from_slice(&(PAGE as u32).to_be_bytes());
            header[16..24].copy_from_slice(&SALTS);
            let mut sums = Checksum { is_big_endian: false, first: 0, second: 0 };
            sums.add(&header[..24]);
            header[24..28].copy_from_slice(&sums.first.to_be_bytes());
            header[28..].copy_from_slice(&sums.second.to_be_bytes());
            Self { bytes: header.to_vec(), end: 0, sums }
        }

        /// Writes a transaction after the last committed one, over any remains.
        fn write(&mut self, frames: usize, content: u8) -> Checksum {
            let mut sums = self.sums;
            for number in 0..frames {
                let mut frame = vec![content; FRAME_HEADER + PAGE];
                frame[..4].copy_from_slice(&(number as u32 + 1).to_be_bytes());
                let pages = if number + 1 == frames { 100u32 } else { 0 };
                frame[4..8].copy_from_slice(&pages.to_be_bytes());
                frame[8..16].copy_from_slice(&SALTS);
                sums = sums.after(&frame);
                frame[16..20].copy_from_slice(&sums.first.to_be_bytes());
                frame[20..24].copy_from_slice(&sums.second.to_be_bytes());
                let at = frame_offset(self.end + number);
                self.bytes.resize(self.bytes.len().max(at + frame.len()), 0);
                self.bytes[at..at + frame.len()].copy_from_slice(&frame);
            }
            sums
        }

        /// Writes a transaction whose sync succeeds.
        fn commit(&mut self, frames: usize, content: u8) {
            self.sums = self.write(frames, content);
            self.end += frames;
        }

        /// Erases a frame.
        fn lose(&mut self, number: usize) {
            let at = frame_offset(number);
            self.bytes[at..at + FRAME_HEADER + PAGE].fill(0);
        }

        fn scan(&self) -> Log {
            scan(&mut self.bytes.as_slice()).unwrap()
        }
    }

    const fn frame_offset(number: usize) -> usize {
        HEADER + number * (FRAME_HEADER + PAGE)
    }

    #[test]
    fn remains_of_commits_whose_sync_failed_are_no_loss() {
        let mut log = Writer::new();
        log.commit(3, 1);
        for failed in (4..40).rev().step_by(4) {
            log.write(failed, 2);
            log.commit(1, 3);
        }
        // A power cut tears the next one: its commit frame is on disk, its first frame is not.
        log.write(6, 4);
        log.lose(log.end);
        let found = log.scan();
        assert_eq!((found.commits, found.valid_frames), (10, log.end as u64));
        assert_eq!(found.durable_commits_lost, 0);
        let whole = frame_offset(log.end) as u64;
        assert_eq!(found.recovered_bytes(), whole);
    }

    #[test]
    fn a_damaged_frame_before_durable_commits_is_a_loss() {
        for lost in 0..6 {
            let mut log = Writer::new();
            for content in 0..5 {
                log.commit(2, content);
            }
            log.lose(lost);
            let found = log.scan();
            assert_eq!(found.frames, lost as u64 / 2 * 2, "frame {lost} is lost");
            assert!(found.durable_commits_lost > 0, "frame {lost} is lost");
        }
    }

    #[test]
    fn a_torn_last_commit_is_no_loss() {
        for lost in 6..9 {
            let mut log = Writer::new();
            log.commit(6, 1);
            log.write(3, 2);
            log.lose(lost);
            assert_eq!(log.scan().durable_commits_lost, 0, "frame {lost} is lost");
        }
    }

    /// Frames of the previous round are at the same offsets.
    #[test]
    fn frames_of_an_earlier_round_are_no_loss() {
        let mut log = Writer::new();
        for content in 0..5 {
            log.commit(2, content);
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&log.bytes[..HEADER]);
        header[16..24].copy_from_slice(b"newsalts");
        let mut sums = Checksum { is_big_endian: false, first: 0, second: 0 };
        sums.add(&header[..24]);
        header[24..28].copy_from_slice(&sums.first.to_be_bytes());
        header[28..].copy_from_slice(&sums.second.to_be_bytes());
        log.bytes[..HEADER].copy_from_slice(&header);
        let found = log.scan();
        assert!(found.has_valid_header);
        assert_eq!((found.valid_frames, found.durable_commits_lost), (0, 0));
    }

    /// Another program has truncated the log, and the power failed while the new header was
    /// written, before any frame.
    #[test]
    fn a_log_without_a_whole_header_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for (bytes, is_lost) in [(0, false), (20, false), (HEADER, false), (HEADER + 1, true)] {
            std::fs::write(&path, vec![0; bytes]).unwrap();
            let lost = detect_loss(Sync::Always, None, &read_log(&path).unwrap());
            assert_eq!(lost.is_some(), is_lost, "{bytes} bytes: {lost:?}");
        }
    }
}
