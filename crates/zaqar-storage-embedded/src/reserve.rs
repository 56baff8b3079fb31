//! Space that is kept for a full disk.
//!
//! Deleting from a SQLite file needs space in its log first. So some is taken while there is
//! enough, and given back when the disk is full: then deletions, claims and sweeps go on, and posts
//! are refused until the space can be taken again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::directory;

/// Bytes written at a time.
const PIECE: usize = 64 << 10;

/// The file that takes the space.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(directory: &Path, bytes: u64) -> Self {
        Self { path: directory.join("reserve"), bytes }
    }

    /// Takes the space; nothing is taken where that fails.
    pub(crate) fn take(&self) -> io::Result<()> {
        if self.bytes == 0 || self.is_taken() {
            return Ok(());
        }
        self.write().inspect_err(|_| {
            if let Err(error) = self.give_back() {
                tracing::debug!(%error, "the reserve cannot be cut");
            }
        })
    }

    /// Whether there is something to give back.
    pub(crate) fn is_taken(&self) -> bool {
        self.bytes > 0 && self.path.metadata().is_ok_and(|it| it.len() == self.bytes)
    }

    /// Gives the space back to the file system.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        directory::private(&self.path)?.set_len(0)
    }

    fn write(&self) -> io::Result<()> {
        let mut file = directory::private(&self.path)?;
        file.set_len(0)?;
        // File systems that compress would keep zeros for nothing.
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
        // Only now it is certain that there is space.
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_taken_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(directory.path(), 200_000);
        let length = || directory.path().join("reserve").metadata().unwrap().len();
        reserve.take().unwrap();
        assert_eq!(length(), 200_000);
        reserve.give_back().unwrap();
        assert_eq!(length(), 0);
        reserve.take().unwrap();
        assert_eq!(length(), 200_000);
        let missing = Reserve::new(&directory.path().join("missing"), 1);
        missing.take().unwrap_err();
    }
}
