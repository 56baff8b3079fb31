//! The scripts: assembled from the files in `lua/`, named by their digests.

use std::sync::LazyLock;

/// A script, as it is sent and as it is named.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: &'static str,
    pub(crate) digest: String,
    /// It begins with `clock`: its last argument is an envelope.
    pub(crate) takes_envelope: bool,
    /// It begins with `frees`: a full server carries it out.
    pub(crate) works_when_full: bool,
}

impl Script {
    fn new(files: &[&str], text: &'static str) -> Self {
        Self {
            text,
            digest: redis::Script::new(text).get_hash().to_owned(),
            takes_envelope: files.contains(&"clock"),
            works_when_full: files.contains(&"frees"),
        }
    }
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(&[$($file),+], concat!($(include_str!(concat!("lua/", $file, ".lua"))),+))
        });)+

        /// All of them, by name.
        #[cfg(test)]
        pub(crate) fn all() -> Vec<(&'static str, &'static Script)> {
            vec![$((stringify!($name), &*$name)),+]
        }
    };
}

scripts! {
    OPEN = "clock" "open";
    GENERATION = "generation";
    ADVANCE = "frees" "clock" "head" "advance";
    CLOSE = "frees" "clock" "close_repeated" "head" "bounds" "save" "clear" "close";
    POST = "clock" "head" "bounds" "post_plain" "save" "rows" "entries" "store" "post";
    DEAD_LETTERS = "frees" "clock" "head" "guard" "bounds" "save" "rows" "store" "dead_letters";
    DEAD_LETTERS_OF_BOTH = "frees" "clock" "both_begin" "head" "guard" "bounds" "save" "rows"
        "store" "dead_letters" "both_then" "head" "rows" "dead_letters_moved";
    DEAD_LETTERS_MOVED = "frees" "clock" "head" "rows" "dead_letters_moved";
    LIST = "clock" "head" "bounds" "save" "rows" "due" "settle" "list";
    GET = "clock" "head" "rows" "get";
    DELETE = "frees" "clock" "head" "delete_plain" "rows" "delete";
    DELETE_MANY = "frees" "clock" "head" "rows" "delete_many";
    POP = "frees" "clock" "head" "bounds" "save" "rows" "due" "settle" "free" "pop";
    PURGE = "frees" "clock" "head" "bounds" "save" "clear" "purge";
    STATS = "clock" "head" "bounds" "save" "rows" "due" "settle" "stats";
    CLAIM = "frees" "clock" "head" "guard" "bounds" "claim_plain" "save" "rows" "due" "settle"
        "free" "claim";
    CLAIM_GET = "clock" "head" "rows" "claim_get";
    CLAIM_RENEW = "frees" "clock" "head" "bounds" "save" "rows" "claim_renew";
    CLAIM_RELEASE = "frees" "clock" "head" "rows" "claim_release";
    SWEEP = "frees" "clock" "sweep" "rows" "due" "subscribers" "entries" "sweep_rest";
    SUBSCRIBE = "clock" "head" "guard" "bounds" "save" "subscribers" "subscribe";
    SUBSCRIPTION = "clock" "head" "subscribers" "subscription";
    SUBSCRIPTIONS = "clock" "head" "subscribers" "subscriptions";
    LEASED_SUBSCRIPTIONS = "clock" "head" "rows" "leased_subscriptions";
    CHANGE_SUBSCRIPTION = "clock" "head" "bounds" "save" "subscribers" "change_subscription";
    UNSUBSCRIBE = "frees" "clock" "head" "bounds" "save" "subscribers" "unsubscribe";
    UNLEASE = "frees" "clock" "head" "subscribers" "unlease";
    LEASE_KEEP = "frees" "clock" "leases" "lease_keep";
    LEASE_END = "frees" "clock" "leases" "lease_end";
    LEASE_HANG = "clock" "leases" "lease_hang";
    LEASE_HELD = "clock" "leases" "lease_held";
    LEASE_DROP = "frees" "clock" "leases" "lease_drop";
    LEASES_OVER = "frees" "clock" "leases" "leases_over";
    FOLLOW = "frees" "clock" "head" "rows" "entries" "follow";
    LEASE = "frees" "clock" "head" "bounds" "save" "rows" "entries" "lease";
    SETTLE_ENTRY = "frees" "clock" "head" "entries" "settle_entry";
    NEXT_ENTRY = "frees" "clock" "head" "entries" "next_entry";
    SCHEDULE_LOOK = "schedule_look";
    SCHEDULE_HINT = "frees" "clock" "schedule_hint";
    SCHEDULE_SETTLE = "frees" "clock" "schedule_settle";
    QUEUE_CREATE = "clock" "queue_create";
    QUEUE_GET = "queue_get";
    QUEUE_REPLACE = "clock" "queue_replace";
    QUEUE_REMOVE = "frees" "clock" "queue_remove";
    QUEUE_LIST = "queue_list";
    QUEUE_COUNT = "queue_count";
    PING = "clock" "ping";
    VOLUME = "volume";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeat, an old original and a wrong clock are met by `clock`, which only what reads
    /// without a time may lack.
    #[test]
    fn what_changes_something_takes_an_envelope() {
        const READS: [&str; 6] =
            ["GENERATION", "SCHEDULE_LOOK", "QUEUE_GET", "QUEUE_LIST", "QUEUE_COUNT", "VOLUME"];
        for (name, script) in all() {
            assert_eq!(script.takes_envelope, !READS.contains(&name), "{name}");
        }
    }
}
