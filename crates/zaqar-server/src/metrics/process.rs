//! Metrics of this process from `/proc`.

use std::fs;

/// Clock ticks per second in `/proc`; the kernel has reported this value to programs for decades.
const TICKS: f64 = 100.0;

/// Metrics of this process; those that cannot be read are absent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// Seconds of CPU time since the start, in user and system mode.
    pub(crate) cpu_seconds: Option<f64>,
    /// Seconds since the epoch.
    pub(crate) start_time: Option<f64>,
    pub(crate) threads: Option<f64>,
    pub(crate) resident_bytes: Option<f64>,
    pub(crate) virtual_bytes: Option<f64>,
    pub(crate) open_fds: Option<f64>,
    pub(crate) max_fds: Option<f64>,
}

impl Process {
    /// Reads them. Blocks while the kernel generates them: microseconds, and somewhat longer with
    /// thousands of open files.
    pub(crate) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let fields = fields(&stat);
        let ticks = |index: usize| number(fields.get(index)?);
        let boot = line_value(&text("/proc/stat"), "btime ");
        let status = text("/proc/self/status");
        let kibibytes = |name| line_value(&status, name).map(|kibibytes| kibibytes * 1024.0);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 files")]
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
        Self {
            cpu_seconds: ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / TICKS),
            start_time: boot.zip(ticks(19)).map(|(boot, since)| boot + since / TICKS),
            threads: ticks(17),
            resident_bytes: kibibytes("VmRSS:"),
            virtual_bytes: kibibytes("VmSize:"),
            open_fds,
            max_fds: line_value(&text("/proc/self/limits"), "Max open files"),
        }
    }
}

/// The fields of `/proc/…/stat` after the name, which may contain blanks and parentheses.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

/// The first number after the name at the beginning of a line.
fn line_value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    number(line.split_whitespace().next()?)
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let process = Process::read();
        let all = [
            process.start_time,
            process.threads,
            process.resident_bytes,
            process.virtual_bytes,
            process.open_fds,
            process.max_fds,
        ];
        assert!(all.iter().all(|figure| figure.is_some_and(|figure| figure > 0.0)), "{process:?}");
        assert!(process.cpu_seconds.is_some(), "{process:?}");
        // A year ago at most, and not 1970, which would mean that the boot time is missing.
        assert!(process.start_time > Some(1.6e9), "{process:?}");
    }

    #[test]
    fn a_value_is_found_by_its_line() {
        let text =
            "cpu 1 2\nbtime 1700000000\nbtimes 3\nMax open files            1024  4096 files\n";
        assert_eq!(line_value(text, "btime "), Some(1.7e9));
        assert_eq!(line_value(text, "Max open files"), Some(1024.0));
        assert_eq!(line_value(text, "VmRSS:"), None);
    }
}
