//! The scripts, assembled from the files in `lua/` and identified by their digests.

use std::sync::LazyLock;

/// A script's text and digest.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: &'static str,
    pub(crate) digest: String,
    /// It begins with `clock`: its last argument is an envelope.
    pub(crate) takes_envelope: bool,
    /// It begins with `allow_when_full`: a full server executes it.
    pub(crate) works_when_full: bool,
}

impl Script {
    fn new(files: &[&str], text: &'static str) -> Self {
        Self {
            text,
            digest: redis::Script::new(text).get_hash().to_owned(),
            takes_envelope: files.contains(&"clock"),
            works_when_full: files.contains(&"allow_when_full"),
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
    ADVANCE = "allow_when_full" "clock" "head" "frozen" "advance";
    CLOSE = "allow_when_full" "clock" "close_repeated" "head" "frozen" "bounds" "save" "clear" "close";
    POST = "clock" "head" "frozen" "bounds" "post_plain" "save" "messages" "cover" "entries" "post_begin" "store"
        "post";
    STAGE = "clock" "head" "frozen" "guard" "stage";
    COMMIT = "clock" "head" "frozen" "bounds" "save" "messages" "cover" "entries" "settle" "store" "post_begin" "commit";
    SETTLE = "allow_when_full" "clock" "head" "frozen" "bounds" "messages" "cover" "settle" "settle_post";
    STORE_DEAD_LETTERS = "allow_when_full" "clock" "head" "frozen" "guard" "bounds" "save" "messages" "cover" "store" "store_dead_letters";
    MOVE_DEAD_LETTERS = "allow_when_full" "clock" "move_dead_letters_begin" "head" "frozen" "guard" "bounds" "save" "messages" "cover"
        "store" "store_dead_letters" "move_dead_letters_end" "head" "frozen" "messages" "remove_dead_letters";
    REMOVE_DEAD_LETTERS = "allow_when_full" "clock" "head" "messages" "remove_dead_letters";
    LIST = "clock" "head" "frozen" "bounds" "save" "messages" "cover" "settle" "settle_first" "due" "apply_due" "fresh" "list";
    GET = "clock" "head" "frozen" "bounds" "messages" "cover" "settle" "settle_first" "get";
    DELETE = "allow_when_full" "clock" "head" "frozen" "delete_plain" "bounds" "messages" "cover" "settle" "settle_first" "delete";
    DELETE_MANY = "allow_when_full" "clock" "head" "frozen" "bounds" "messages" "cover" "settle" "settle_first" "delete_many";
    POP = "allow_when_full" "clock" "head" "frozen" "bounds" "save" "messages" "cover" "settle" "settle_first" "due" "apply_due" "fresh"
        "readable" "first_free" "pop";
    PURGE = "allow_when_full" "clock" "head" "frozen" "bounds" "save" "messages" "cover" "settle" "settle_first" "clear" "purge";
    STATS = "clock" "head" "frozen" "bounds" "save" "messages" "cover" "settle" "settle_first" "due" "apply_due" "stats";
    CLAIM = "allow_when_full" "clock" "head" "frozen" "guard" "bounds" "readable" "claim_plain" "save" "messages" "cover" "settle" "settle_first"
        "due" "apply_due" "fresh" "first_free" "claim";
    CLAIM_GET = "clock" "head" "frozen" "messages" "claim_get";
    CLAIM_RENEW = "allow_when_full" "clock" "head" "frozen" "bounds" "save" "messages" "claim_renew";
    CLAIM_RELEASE = "allow_when_full" "clock" "head" "frozen" "messages" "claim_release";
    SWEEP = "allow_when_full" "clock" "sweep" "bounds" "messages" "cover" "settle" "due" "subscribers" "entries" "sweep_rest";
    SUBSCRIBE = "clock" "head" "frozen" "guard" "bounds" "save" "subscribers" "entries" "subscribe";
    SUBSCRIPTION = "clock" "head" "frozen" "subscribers" "subscription";
    SUBSCRIPTIONS = "clock" "head" "frozen" "subscribers" "subscriptions";
    LEASED_SUBSCRIPTIONS = "clock" "head" "frozen" "messages" "leased_subscriptions";
    RECIPIENTS = "clock" "head" "frozen" "messages" "subscribers" "recipients";
    CHANGE_SUBSCRIPTION = "clock" "head" "frozen" "bounds" "save" "subscribers" "change_subscription";
    UNSUBSCRIBE = "allow_when_full" "clock" "head" "frozen" "bounds" "save" "subscribers" "unsubscribe";
    UNSUBSCRIBE_LEASED = "allow_when_full" "clock" "head" "subscribers" "unsubscribe_leased";
    LEASE_KEEP = "allow_when_full" "clock" "leases" "lease_keep";
    LEASE_END = "allow_when_full" "clock" "leases" "lease_end";
    LEASE_ATTACH = "clock" "leases" "lease_attach";
    LEASE_MEMBERS = "clock" "leases" "lease_members";
    LEASE_DETACH = "allow_when_full" "clock" "leases" "lease_detach";
    EXPIRED_LEASES = "allow_when_full" "clock" "leases" "expired_leases";
    FOLLOW = "allow_when_full" "clock" "head" "frozen" "bounds" "messages" "cover" "settle" "settle_first" "entries" "follow";
    LEASE_ENTRY = "allow_when_full" "clock" "head" "frozen" "bounds" "save" "messages" "cover" "settle" "settle_first" "entries"
        "lease_entry";
    SETTLE_ENTRY = "allow_when_full" "clock" "head" "frozen" "entries" "settle_entry";
    NEXT_ENTRY = "allow_when_full" "clock" "head" "frozen" "bounds" "messages" "cover" "settle" "settle_first" "entries" "next_entry";
    SCHEDULE_DUE = "schedule_due";
    SCHEDULE_BY = "allow_when_full" "clock" "schedule_by";
    SCHEDULE_MOVE = "allow_when_full" "clock" "schedule_move";
    QUEUE_CREATE = "clock" "queue_create";
    QUEUE_GET = "queue_get";
    QUEUE_REPLACE = "clock" "queue_replace";
    QUEUE_REMOVE = "allow_when_full" "clock" "queue_remove";
    QUEUE_LIST = "queue_list";
    QUEUE_COUNT = "queue_count";
    PING = "clock" "ping";
    VOLUME = "volume";
    FREEZE = "allow_when_full" "clock" "bounds" "messages" "cover" "settle" "freeze";
    RECEIVE = "clock" "receive";
    EXPORT = "allow_when_full" "clock" "moving" "messages" "fresh" "subscribers" "export";
    IMPORT = "clock" "moving" "bounds" "messages" "cover" "import";
    THAW = "allow_when_full" "clock" "moving" "thaw";
    DISCARD = "allow_when_full" "clock" "moving" "bounds" "save" "clear" "close";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `clock` handles repeats, late originals and wrong clocks. Only scripts that read without a
    /// time may omit it.
    #[test]
    fn scripts_that_write_take_an_envelope() {
        const READS: [&str; 6] =
            ["GENERATION", "SCHEDULE_DUE", "QUEUE_GET", "QUEUE_LIST", "QUEUE_COUNT", "VOLUME"];
        for (name, script) in all() {
            assert_eq!(script.takes_envelope, !READS.contains(&name), "{name}");
        }
    }
}
