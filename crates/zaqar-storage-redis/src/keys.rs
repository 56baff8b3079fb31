//! The names of keys.
//!
//! All keys of one queue begin with `zq1:{tag}:`, and so do all that belong to one project's names
//! or to one shard of a schedule; what is in braces decides the slot of a Cluster. A tag is an
//! injective encoding: parts with `/` between them, and every byte of a part outside
//! `[A-Za-z0-9_.-]` as `%` and two digits. The original's names have neither the prefix nor the
//! ends.
//!
//! A script names two keys to the server: the one it begins with, and one that never exists. The
//! others, chunks of messages above all, it finds itself, in the same slot. While a Cluster moves a
//! slot, half of its keys are elsewhere, and a script that looks for them would be torn: a command
//! with several keys one of which is missing is refused for just that time, before it does
//! anything.
//!
//! Of a queue, whose keys begin with `{q/PROJECT/NAME}` (`{t/…}` for topics):
//!
//! | key | what it is |
//! | --- | --- |
//! | `:h` | head, a hash: `i` incarnation, `v` version, `p` last place, `n` latest time, |
//! | | `d` earliest due, `a` promise of the schedule of sweeps, `o` of deliveries, |
//! | | `s` end of the last subscription; `lk` `lt` which of `t0` `t1` is in use, since when |
//! | `:f` `:c` `:d` | places of messages that are free, claimed, delayed, by place |
//! | `:w` | places of delayed messages, by when they are shown |
//! | `:x` | places of all messages, by when they expire |
//! | `:k` | place → how often it was claimed, and which claim holds it |
//! | `:l` `:e` | claim → ttl, since, places; claims by end |
//! | `:b:N` | chunk of the records of 256 places: see `record` |
//! | `:g` `:x:PLACE` | what waits for the sweep: purged messages, outboxes of closed heads |
//! | `:r:TIME` | requests of two seconds: see `envelope` |
//! | `:t0` `:t1` | names of dead letters that arrived |
//! | `:s` `:sx` `:si` `:sn` | subscriptions by id; ids by end; ids in order; id by subscriber |
//! | `:sl` `:sm` | ids of subscriptions on leases, by end; by lease and id |
//! | `:o:PLACE` `:oe` | an entry of the outbox; entries by when their messages have expired |
//! | `:ow` `:or` `:od` | entries that wait, by due; that are due, by age; and since when |
//! | `:of` `:ox` | entries that can be followed, by age, and until when |
//!
//! Others:
//!
//! | key | what it is |
//! | --- | --- |
//! | `layout` | the version of this layout: see `layout` |
//! | `{n/q/PROJECT}:n` `:r` | names of a project's queues; rows by name |
//! | `{a/N}:s` `:o` | schedule of queues to sweep, and of those with deliveries |
//! | `{a/N}:l` `:lx` | leases by end; those that are over, by when to look at them |
//! | `{a/N}:li:LEASE` | what depends on a lease, by when that ends by itself |
//! | `{a/N}:lh` | since when, with `?` before it where the lease was never kept |
//!
//! A place is a position: the next number, or the time in microseconds where that is more than 45 s
//! ahead or the connection is newer than the last place. So places that a server has lost are not
//! given again, and a chunk holds what is posted within 45 s, up to 256 messages.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName};

/// What every key begins with unless the options say otherwise.
pub(crate) const PREFIX: &str = "zq1";
/// Shards of a schedule. All servers of a deployment have to agree on it.
pub(crate) const SHARDS: usize = 16;
/// Letters of a key's end that never exists.
const NEVER: &str = "!";

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-');

/// The two keys that a script names: what it begins with, and what never exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) never: String,
}

/// Which schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Queues to sweep.
    Sweeps,
    /// Queues with deliveries.
    Deliveries,
}

/// Makes names.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// The head of a queue.
    pub(crate) fn head(&self, key: &QueueKey) -> Place {
        self.head_of(&tag(key))
    }

    /// The head of the queue with this tag.
    pub(crate) fn head_of(&self, tag: &str) -> Place {
        self.place(tag, "h")
    }

    /// The names of a project.
    pub(crate) fn names(&self, project: &ProjectId, kind: Kind) -> Place {
        self.place(&format!("n/{}/{}", letter(kind), escape(project.as_str())), "n")
    }

    /// A shard of a schedule.
    pub(crate) fn schedule(&self, schedule: Schedule, shard: usize) -> String {
        let end = match schedule {
            Schedule::Sweeps => "s",
            Schedule::Deliveries => "o",
        };
        self.place(&format!("a/{shard}"), end).key
    }

    /// A shard of the leases.
    pub(crate) fn leases(&self, shard: usize) -> Place {
        self.place(&format!("a/{shard}"), "l")
    }

    /// What [`zaqar_core::storage::Upkeep::ping`] writes.
    pub(crate) fn ping(&self, shard: usize) -> Place {
        self.place(&format!("a/{shard}"), "p")
    }

    /// The layout of everything that this store keeps.
    pub(crate) fn layout(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// The channel of news. Channels know no databases.
    pub(crate) fn channel(&self, database: i64) -> String {
        format!("{}:{database}:news", self.prefix)
    }

    fn place(&self, tag: &str, end: &str) -> Place {
        let base = format!("{}:{{{tag}}}:", self.prefix);
        Place { key: format!("{base}{end}"), never: format!("{base}{NEVER}") }
    }
}

/// What names a queue within keys.
pub(crate) fn tag(key: &QueueKey) -> String {
    format!("{}/{}/{}", letter(key.kind), escape(key.project.as_str()), key.name)
}

/// The queue that a tag names.
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
        assert_eq!(head.never, "zq1:{q/3ab-c.d/orders}:!");
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
