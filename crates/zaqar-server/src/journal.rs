//! Standard error as the journal of systemd reads it.

use std::io::{self, Stderr, Write};
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Whether standard error is connected to the journal: systemd names its device and inode in
/// `JOURNAL_STREAM` (systemd.exec(5)).
pub(crate) fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let stream = std::fs::metadata("/proc/self/fd/2").ok();
    named
        .zip(stream)
        .is_some_and(|(named, stream)| named == format!("{}:{}", stream.dev(), stream.ino()))
}

/// Writes to standard error, with the priority of a line before it (sd-daemon(3)), so that
/// `journalctl -p warning` finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Lines<Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines { prefix: prefix(Level::INFO), output: io::stderr() }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Lines { prefix: prefix(*event.level()), output: io::stderr() }
    }
}

/// The priorities of syslog(3).
const fn prefix(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        _ => b"<7>",
    }
}

/// Puts a prefix before each line. The lines of one event are one write, so that those of others do
/// not come between them.
pub(crate) struct Lines<W> {
    prefix: &'static [u8],
    output: W,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let lines = event.split_inclusive(|byte| *byte == b'\n');
        let prefixed: Vec<u8> =
            lines.flat_map(|line| [self.prefix, line]).flatten().copied().collect();
        self.output.write_all(&prefixed)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_an_event_has_its_priority() {
        let mut written = Vec::new();
        let mut lines = Lines { prefix: prefix(Level::WARN), output: &mut written };
        lines.write_all(b"a store failed\n  twice\n").unwrap();
        assert_eq!(written, b"<4>a store failed\n<4>  twice\n");
    }
}
