//! The memory that this process may use: the machine's, or less in a container.

use std::fs;
use std::path::{Path, PathBuf};

/// The assumption if it is not known: what the smallest machines have.
const UNKNOWN: u64 = 1 << 30;

/// Bytes that this process may use: the lowest limit of its control groups (version 1 or 2), at
/// most the machine's memory.
pub(crate) fn available() -> u64 {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> u64 {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| total(&text));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    limits.chain(machine).min().unwrap_or(UNKNOWN)
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The lowest limit from a control group up to the root, by its line in `/proc/self/cgroup`.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        v1 if v1.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let mount = root.join(mount);
    let group = mount.join(path.trim_start_matches('/'));
    // In a container the path may be the host's: then only the mount itself exists.
    let groups: Vec<PathBuf> =
        group.ancestors().take_while(|group| group.starts_with(&mount)).map(Into::into).collect();
    groups
        .iter()
        .filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available_under(root.path())
    }

    #[test]
    fn the_lowest_limit_counts() {
        let meminfo = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\n");
        let v2 = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        assert_eq!(machine(&[]), UNKNOWN);
        assert_eq!(machine(&[meminfo]), 1_024_000);
        let unlimited = ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
        assert_eq!(machine(&[meminfo, v2, unlimited]), 1_024_000);
        let parent = ("sys/fs/cgroup/a.slice/memory.max", "5000\n");
        assert_eq!(machine(&[meminfo, v2, unlimited, parent]), 5000);
        let container = ("sys/fs/cgroup/memory.max", "4000\n");
        assert_eq!(machine(&[meminfo, v2, container]), 4000);
        let v1 = ("proc/self/cgroup", "3:cpu:/x\n4:memory:/x\n");
        let limit = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "3000\n");
        assert_eq!(machine(&[meminfo, v1, limit]), 3000);
        let none = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(machine(&[meminfo, v1, none]), 1_024_000);
    }
}
