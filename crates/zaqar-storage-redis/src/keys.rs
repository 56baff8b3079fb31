//! The names of keys.
//!
//! All keys of one queue begin with `zq1:{tag}:`, as do all keys of one project's queue names and
//! of one shard of a schedule; the part in braces decides the slot of a Cluster. A tag is an
//! injective encoding: parts separated by `/`, with every byte of a part outside `[A-Za-z0-9_.-]`
//! as `%` and two digits. The original's keys have neither this prefix nor these suffixes.
//!
//! A script declares two keys: the one it begins with, and one that never exists. It computes the
//! others, such as chunks of messages; all are in the same slot. While a Cluster moves a slot, the
//! slot's keys are split between two nodes, and a script would see only some of them. During that
//! time a node rejects a command that declares several keys if one of them is missing, so the
//! script is rejected before it does anything. A transaction that reads fails as a whole.
//!
//! Keys of a queue, which begin with `{q/PROJECT/NAME}` (`{t/…}` for topics):
//!
//! | key | content |
//! | --- | --- |
//! | `:h` | head, a hash: `i` incarnation, `v` version, `p` last position, `n` latest time, |
//! | | `d` earliest due time, `a` time on the schedule of sweeps, `o` on that of deliveries, |
//! | | `s` last expiry of a subscription; `u` a post that is not settled: see `settle.lua`; `z` the move that it is frozen for: `s` or `t` for the end,
//! | | and its number; `m` the open chunk: see `lua/cover.lua`; `q` `h` fresh messages: see `lua/fresh.lua`; |
//! | | `x` messages that have expired; `lk` `lt` which of `t0` `t1` is in use, since when |
//! | `:f` `:c` `:d` | positions of free, claimed and delayed messages, by position; not of fresh ones |
//! | `:q` | chunks with fresh messages: see `lua/fresh.lua` |
//! | `:w` | positions of delayed messages, by the time at which they become visible |
//! | `:x` | chunks and positions by expiry: see `lua/cover.lua` |
//! | `:k` | position → how often it was claimed, and which claim holds it |
//! | `:l` `:e` | claim → ttl, creation time, positions; claims by expiry |
//! | `:b:N` | chunk of the records of 256 positions: see `record` |
//! | `:u:ID` `:v:ID` | parts of a large post: not committed, and not settled; see `parts` |
//! | `:g` `:x:POSITION` | work for the sweep: purged messages, outboxes of closed heads |
//! | `:r:TIME` | requests of two seconds: see `envelope` |
//! | `:t0` `:t1` | names of stored dead letters |
//! | `:s` `:so` `:sx` `:si` `:sn` | subscriptions by id; large options by id; ids by expiry; ids in order; id by subscriber |
//! | `:sl` `:sm` | ids of subscriptions with a lease: by expiry; by lease and id |
//! | `:o:POSITION` `:oe` | an outbox entry; entries by the expiry of their messages |
//! | `:ow` `:or` `:od` | waiting and leased entries by due time; due entries by age; the same by due time |
//! | `:ol` | leased entries by age |
//! | `:of` `:ox` | entries that can be followed: by age; by the time until which they can |
//!
//! Other keys:
//!
//! | key | content |
//! | --- | --- |
//! | `layout` | the version of this layout: see `layout` |
//! | `{n/q/PROJECT}:n` `:r` | names of a project's queues; rows by name |
//! | `{a/N}:s` `:o` | schedule of queues to sweep, and of queues with deliveries |
//! | `{a/N}:l` `:lx` | leases by expiry; expired leases by the time of their next sweep |
//! | `{a/N}:li:LEASE` | what depends on a lease, by its own expiry |
//! | `{a/N}:lh` | time of the last attachment, after `?` if the lease was never renewed |
//!
//! A position is the next number, or the time in microseconds if that is more than 45 s ahead or
//! the connection is newer than the last position. So a position that a server has lost is not
//! assigned again, and a chunk holds up to 256 messages that were posted within 45 s.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName};

/// Prefix of all keys unless the options set another.
pub(crate) const PREFIX: &str = "zq1";
/// Shards of a schedule. All servers of a deployment must use the same number.
pub(crate) const SHARDS: usize = 16;
/// The layout of an empty store: see `layout`. It changes with the names of keys and with the
/// encoding of their values.
pub(crate) const LAYOUT: u32 = 3;
/// The first layout whose records have lives.
pub(crate) const LAYOUT_WITH_LIVES: u32 = 3;
/// The layouts that this release uses.
pub(crate) const KNOWN_LAYOUTS: [u32; 2] = [2, LAYOUT];
/// Suffix of a key that never exists.
const ABSENT: &str = "!";

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-');

/// The keys that a script declares: the one it begins with, and one that never exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScriptKeys {
    pub(crate) key: String,
    pub(crate) absent: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Queues to sweep.
    Sweeps,
    /// Queues with deliveries.
    Deliveries,
}

/// Builds key names.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// The head of a queue.
    pub(crate) fn head(&self, key: &QueueKey) -> ScriptKeys {
        self.head_by_tag(&tag(key))
    }

    /// The head of the queue with this tag.
    pub(crate) fn head_by_tag(&self, tag: &str) -> ScriptKeys {
        self.script_keys(tag, "h")
    }

    /// The tag of the queue whose head has this key; `None` for another key.
    pub(crate) fn tag_of_head<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix("}:h")
    }

    /// The queue names of a project.
    pub(crate) fn names(&self, project: &ProjectId, kind: Kind) -> ScriptKeys {
        self.script_keys(&format!("n/{}/{}", letter(kind), escape(project.as_str())), "n")
    }

    /// A shard of a schedule.
    pub(crate) fn schedule(&self, schedule: Schedule, shard: usize) -> String {
        let end = match schedule {
            Schedule::Sweeps => "s",
            Schedule::Deliveries => "o",
        };
        self.script_keys(&format!("a/{shard}"), end).key
    }

    /// A shard of the leases.
    pub(crate) fn leases(&self, shard: usize) -> ScriptKeys {
        self.script_keys(&format!("a/{shard}"), "l")
    }

    /// What [`zaqar_core::storage::Upkeep::ping`] writes.
    pub(crate) fn ping(&self, shard: usize) -> ScriptKeys {
        self.script_keys(&format!("a/{shard}"), "p")
    }

    /// The version of the layout of everything in this store.
    pub(crate) fn layout(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// The channel of news. It includes the database because Redis shares channels between
    /// databases.
    pub(crate) fn channel(&self, database: i64) -> String {
        format!("{}:{database}:news", self.prefix)
    }

    fn script_keys(&self, tag: &str, end: &str) -> ScriptKeys {
        let base = format!("{}:{{{tag}}}:", self.prefix);
        ScriptKeys { key: format!("{base}{end}"), absent: format!("{base}{ABSENT}") }
    }
}

/// The tag of a queue within keys.
pub(crate) fn tag(key: &QueueKey) -> String {
    format!("{}/{}/{}", letter(key.kind), escape(key.project.as_str()), key.name)
}

/// Whether a tag is that of an internal queue.
pub(crate) fn is_internal(tag: &str) -> bool {
    tag.starts_with("i/")
}

/// The queue of a tag.
pub(crate) fn queue(tag: &str) -> Option<QueueKey> {
    let mut parts = tag.split('/');
    let kind = match parts.next()? {
        "q" => Kind::Queue,
        "t" => Kind::Topic,
        "i" => Kind::Internal,
        _ => return None,
    };
    let project = percent_decode_str(parts.next()?).decode_utf8().ok()?;
    let name = QueueName::new(parts.next()?).ok()?;
    Some(QueueKey { project: ProjectId::new(&project).ok()?, kind, name })
}

/// The shard of a schedule that a queue belongs to (FNV-1a).
pub(crate) fn shard(tag: &str) -> usize {
    let hash = tag
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize % SHARDS
}

const fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Queue => "q",
        Kind::Topic => "t",
        Kind::Internal => "i",
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(project: &str, kind: Kind, name: &str) -> QueueKey {
        QueueKey {
            project: ProjectId::new(project).unwrap(),
            kind,
            name: QueueName::new(name).unwrap(),
        }
    }

    #[test]
    fn keys_are_readable() {
        let keys = Keys::new(PREFIX.to_owned());
        let head = keys.head(&key("3ab-c.d", Kind::Queue, "orders"));
        assert_eq!(head.key, "zq1:{q/3ab-c.d/orders}:h");
        assert_eq!(head.absent, "zq1:{q/3ab-c.d/orders}:!");
        let head = keys.head(&key("a/{b}%ä", Kind::Topic, "x.y"));
        assert_eq!(head.key, "zq1:{t/a%2F%7Bb%7D%25%C3%A4/x.y}:h");
    }

    #[test]
    fn no_project_can_change_the_tag() {
        for odd in ["}", "{", "{}", "a}b", "/", "q/a", "%7D", "\0", "☃", "a:b", "*"] {
            let odd = key(odd, Kind::Queue, "n");
            let tag = tag(&odd);
            assert!(
                tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-%/".contains(&b)),
                "{tag}"
            );
            assert_eq!(tag.matches('/').count(), 2, "{tag}");
            assert_eq!(queue(&tag), Some(odd));
        }
    }
}
