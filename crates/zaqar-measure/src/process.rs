//! What a process on this machine uses, from `/proc`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::Error;

/// Clock ticks a second in `/proc`: 100 on every Linux, whatever the kernel's own tick.
const TICKS: u64 = 100;

/// The CPU time that a process and those that it has started, and they, have used until now: all
/// threads, user and system.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Error> {
    let mut ticks = 0;
    for pid in family(pid) {
        match read(pid, "stat") {
            Ok(stat) => ticks += cpu_ticks(&stat).ok_or_else(|| unreadable(pid))?,
            // It has ended meanwhile.
            Err(error) if ticks == 0 => return Err(error),
            Err(_) => {}
        }
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The CPU time of each thread of a process, to the nanosecond: for what takes less than many clock
/// ticks.
#[derive(Debug)]
pub(crate) struct Threads(BTreeMap<u32, Duration>);

impl Threads {
    /// What the threads of a process have used until now.
    pub(crate) fn of(pid: u32) -> Result<Self, Error> {
        Self::read(format!("/proc/{pid}/task").as_ref())
            .map_err(|source| Error::Process { pid, source })
    }

    fn read(tasks: &Path) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(tasks)? {
            let task = task?;
            // A thread may have ended meanwhile.
            let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
            let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            let name = task.file_name();
            let (thread, nanos) = name
                .to_str()
                .and_then(|name| name.parse().ok())
                .zip(nanos)
                .ok_or(io::ErrorKind::InvalidData)?;
            threads.insert(thread, Duration::from_nanos(nanos));
        }
        Ok(Self(threads))
    }

    /// What they have used since `before`, but for threads that have ended.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = |(thread, now): (&u32, &Duration)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(used).sum()
    }
}

/// A process, then its descendants.
fn family(pid: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = all
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(&read(pid, "stat").ok()?)?))
        })
        .collect();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(&one) = family.get(at) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// Field 4 of `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
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

/// Fields 14 and 15 of `/proc/PID/stat`. The second field, the name, may hold spaces and
/// parentheses.
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
        assert_eq!(parent(stat), Some(1));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn children_and_theirs_belong_to_a_process() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        let family = family(std::process::id());
        assert!(family.contains(&child.id()) && family.contains(&grandchild), "{family:?}");
        let ended = std::process::Command::new("kill").arg(grandchild.to_string()).status();
        assert!(ended.unwrap().success());
        child.wait().unwrap();
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).unwrap() > 100);
        assert!(cpu(std::process::id()).is_ok());
    }

    #[test]
    fn a_thread_that_ends_takes_no_time_back() {
        let directory = tempfile::tempdir().unwrap();
        let tasks = directory.path().to_owned();
        let used = |thread: &str, text: &str| {
            std::fs::create_dir_all(tasks.join(thread)).unwrap();
            std::fs::write(tasks.join(thread).join("schedstat"), text).unwrap();
        };
        used("7", "9000000 1 1\n");
        used("8", "4000 1 1\n");
        let before = Threads::read(&tasks).unwrap();
        used("8", "5000 2 2\n");
        used("9", "300 1 1\n");
        std::fs::remove_file(tasks.join("7").join("schedstat")).unwrap();
        let after = Threads::read(&tasks).unwrap();
        assert_eq!(after.since(&before), Duration::from_nanos(1300));
        used("9", "much\n");
        assert!(Threads::read(&tasks).is_err());
        assert!(!Threads::of(std::process::id()).unwrap().0.is_empty());
    }
}
