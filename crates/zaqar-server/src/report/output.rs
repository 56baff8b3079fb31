//! Writes a report to its destination.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use time::OffsetDateTime;

/// Reports within one second that get a file each.
const MAX_OF_A_SECOND: u32 = 1000;

/// Writes a report into a new file of the directory, which only its owner can read, or to standard
/// error. Returns the file's path.
pub(super) fn write(directory: Option<PathBuf>, report: &str) -> io::Result<Option<PathBuf>> {
    let Some(directory) = directory else {
        io::stderr().write_all(report.as_bytes())?;
        return Ok(None);
    };
    let name = format!("zaqar-server_gurumeditation_{}", stamp(OffsetDateTime::now_utc()));
    for number in 0..MAX_OF_A_SECOND {
        let name = if number == 0 { name.clone() } else { format!("{name}.{number}") };
        let path = directory.join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                file.write_all(report.as_bytes())?;
                return Ok(Some(path));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "too many reports within one second"))
}

/// `20261129083000`, in UTC.
fn stamp(at: OffsetDateTime) -> String {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{OffsetDateTime, stamp, write};

    #[test]
    fn two_reports_are_two_private_files() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["one", "two"].map(|text| {
            let path = write(Some(directory.path().to_owned()), text).unwrap().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            path
        });
        assert_ne!(paths[0], paths[1]);
    }

    #[test]
    fn a_stamp_has_fourteen_digits() {
        assert_eq!(stamp(OffsetDateTime::UNIX_EPOCH), "19700101000000");
    }
}
