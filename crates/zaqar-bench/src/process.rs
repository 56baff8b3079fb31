//! What a process on this machine uses, from `/proc`.

use std::time::Duration;

use crate::error::Error;

/// Clock ticks a second in `/proc`: 100 on every Linux, whatever the kernel's own tick.
const TICKS: u64 = 100;

/// The CPU time that a process has used until now, all threads, user and system.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Error> {
    let stat = read(pid, "stat")?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| unreadable(pid))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64, Error> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| unreadable(pid))
}

fn read(pid: u32, file: &str) -> Result<String, Error> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .map_err(|source| Error::Process { pid, source })
}

fn unreadable(pid: u32) -> Error {
    Error::Process { pid, source: std::io::ErrorKind::InvalidData.into() }
}

/// Fields 14 and 15 of `/proc/PID/stat`. The second field, the name, may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_odd_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 5 0 0 0 120 34 0 0 20 0 3 0 99 8 9";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).unwrap() > 100);
        assert!(cpu(std::process::id()).is_ok());
    }
}
