//! The sections Package, Threads and Processes, read from /proc.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::layout::Section;

pub(super) fn sections() -> Vec<Section> {
    const NAME: &str = "zaqar-server";
    let version = env!("CARGO_PKG_VERSION");
    let package = format!("product = {NAME}\nvendor = {NAME}\nversion = {version}");
    let data = json!({ "product": NAME, "vendor": NAME, "version": version });
    let (text, threads) = threads();
    let (process, processes) = process(std::process::id(), 0);
    vec![
        Section::new("Package", package, data),
        Section::new("Threads", text, threads),
        Section::new("Processes", process, processes),
    ]
}

/// Threads with name, state and CPU time. Backtraces of other threads would need `unsafe`.
fn threads() -> (String, Value) {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut blocks: Vec<_> = entries
        .filter_map(|entry| thread(&entry.path(), &entry.file_name().to_string_lossy()))
        .collect();
    blocks.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let (texts, data): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
    (texts.join("\n"), data.into())
}

fn thread(directory: &Path, id: &str) -> Option<(String, Value)> {
    let Stat { name, state, cpu_seconds, .. } = Stat::read(&directory.join("stat"))?;
    let title = format!("{:^60}", format!(" Thread #{id} "));
    let mut text = format!("------{title}------\n\nNo Traceback!\n");
    let _ = writeln!(text, "name = {name}\nstate = {state}");
    let _ = writeln!(text, "cpu time = {cpu_seconds:.2} s");
    let data = json!({ "id": id, "name": name, "state": state, "cpu_seconds": cpu_seconds });
    Some((text, data))
}

/// A process and its children, each level indented by 4.
fn process(id: u32, indent: usize) -> (String, Value) {
    let Some(stat) = Stat::read(Path::new(&format!("/proc/{id}/stat"))) else {
        return (String::new(), Value::Null);
    };
    let user = user_of(id);
    let (parent, state) = (stat.parent, stat.state);
    let mut text =
        format!("{:indent$}Process {id} (under {parent}) [ run by: {user}, state: {state} ]\n", "");
    let mut data = vec![json!({ "id": id, "parent": parent, "user": user, "state": state })];
    // One level of children: the server starts only commands that send mail.
    if indent == 0 {
        for child in children(id) {
            let (child, more) = process(child, indent + 4);
            text += &child;
            data.extend(more.as_array().into_iter().flatten().cloned());
        }
    }
    (text, data.into())
}

fn children(id: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut children: Vec<u32> = texts
        .flat_map(|text| {
            text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    children.sort_unstable();
    children
}

/// `name (uid)` of the user that a process runs as.
fn user_of(id: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().next())
        .unwrap_or("?");
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid)).then_some(name)
    });
    format!("{} ({uid})", name.unwrap_or("?"))
}

/// The contents of `/proc/…/stat`.
struct Stat {
    name: String,
    state: &'static str,
    parent: u32,
    cpu_seconds: f64,
}

/// Clock ticks per second in `/proc`; the kernel has reported this value to programs for decades.
const TICKS: f64 = 100.0;

impl Stat {
    fn read(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    /// The name may contain blanks and parentheses: it ends at the last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<_> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "ticks of a process are far below 2^53")]
        let ticks = (number(11)? + number(12)?) as f64;
        Some(Self {
            name,
            state: state(fields.first()?),
            parent: u32::try_from(number(1)?).ok()?,
            cpu_seconds: ticks / TICKS,
        })
    }
}

/// The names that psutil has for the kernel's states.
fn state(letter: &str) -> &'static str {
    match letter {
        "R" => "running",
        "S" => "sleeping",
        "D" => "disk-sleep",
        "T" => "stopped",
        "t" => "tracing-stop",
        "Z" => "zombie",
        "X" | "x" => "dead",
        "I" => "idle",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::{Stat, process, threads};

    #[test]
    fn a_name_may_hold_parentheses() {
        let text = "12 (a) b) S 7 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) b", "sleeping", 7));
        assert!((stat.cpu_seconds - 2.0).abs() < 1e-9);
        assert!(Stat::parse("12 (a").is_none());
    }

    #[test]
    fn this_process_and_its_threads_are_there() {
        let id = std::process::id();
        let (text, data) = process(id, 0);
        assert!(text.starts_with(&format!("Process {id} (under ")), "{text}");
        assert_eq!(data[0]["id"], id);
        let (text, data) = threads();
        assert!(text.contains(" Thread #"), "{text}");
        assert!(data[0]["cpu_seconds"].is_f64(), "{data}");
    }
}
