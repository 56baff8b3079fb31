//! Disk space that is reserved for a full disk.
//!
//! Deleting from a SQLite file first needs space in its log. Therefore some space is reserved while
//! there is enough, and released when the disk is full: then deletions, claims and sweeps continue,
//! and posts are rejected until the space can be reserved again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use zaqar_core::StateLog;

use crate::directory;

static RELEASE_LOG: StateLog = StateLog::new();

/// Bytes written at a time.
const PIECE: usize = 64 << 10;

/// The file that reserves the space.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(directory: &Path, bytes: u64) -> Self {
        Self { path: directory.join("reserve"), bytes }
    }

    /// Reserves the space; reserves nothing if that fails.
    pub(crate) fn allocate(&self) -> io::Result<()> {
        if self.bytes == 0 || self.is_allocated() {
            return Ok(());
        }
        self.write().inspect_err(|_| {
            if let Err(error) = self.release() {
                tracing::debug!(%error, "the reserve cannot be truncated");
            }
        })
    }

    /// Whether the space is reserved.
    pub(crate) fn is_allocated(&self) -> bool {
        self.bytes > 0 && self.path.metadata().is_ok_and(|it| it.len() == self.bytes)
    }

    /// Whether the file is there, of whatever size.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Releases the space to the file system; logs a failure. Returns whether it did.
    pub(crate) fn release_logged(&self) -> bool {
        let released = self.release();
        if let Err(error) = &released
            && let Some(failures) = RELEASE_LOG.failure()
        {
            tracing::warn!(%error, failures, "the reserve cannot be released");
        }
        released.is_ok()
    }

    /// Releases the space to the file system.
    fn release(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        directory::private(&self.path)?.set_len(0)
    }

    /// Releases the space, if there is any. Returns whether there is more space now.
    pub(crate) fn release_if_allocated(&self) -> bool {
        let is_there = self.bytes > 0 && self.path.metadata().is_ok_and(|it| it.len() > 0);
        is_there && self.release_logged()
    }

    fn write(&self) -> io::Result<()> {
        let mut file = directory::private(&self.path)?;
        file.set_len(0)?;
        // A file system with compression would not allocate space for zeros.
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        let mut piece = Vec::with_capacity(PIECE);
        let mut left = self.bytes;
        while left > 0 {
            piece.clear();
            while piece.len() < PIECE {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                piece.extend_from_slice(&word.to_le_bytes());
            }
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            file.write_all(&piece[..length])?;
            left -= length as u64;
        }
        // Only a successful sync proves that the space is allocated.
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_reserved_and_released() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(directory.path(), 200_000);
        let length = || directory.path().join("reserve").metadata().unwrap().len();
        reserve.allocate().unwrap();
        assert_eq!(length(), 200_000);
        assert!(reserve.release_if_allocated());
        assert_eq!(length(), 0);
        assert!(!reserve.release_if_allocated(), "there is no more");
        reserve.allocate().unwrap();
        assert_eq!(length(), 200_000);
        let missing = Reserve::new(&directory.path().join("missing"), 1);
        missing.allocate().unwrap_err();
    }
}
