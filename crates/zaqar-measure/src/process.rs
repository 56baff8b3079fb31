//! What a process on this machine uses, from `/proc`.

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
}
