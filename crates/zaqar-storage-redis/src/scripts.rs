//! The scripts: put together from the files in `lua/`, named by their digests.

use std::sync::LazyLock;

/// A script, as it is sent and as it is named.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: &'static str,
    pub(crate) digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: redis::Script::new(text).get_hash().to_owned() }
    }
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("lua/", $file, ".lua"))),+))
        });)+
    };
}

scripts! {
    OPEN = "open";
    GENERATION = "generation";
    ADVANCE = "head" "advance";
    CLOSE = "head" "save" "clear" "close";
    POST = "head" "save" "rows" "entries" "store" "post";
    LETTERS = "head" "guard" "save" "rows" "store" "letters";
    LETTERS_OF_BOTH = "both_begin" "head" "guard" "save" "rows" "store" "letters" "both_then" "head" "rows" "buried";
    LIST = "head" "save" "rows" "turn" "settle" "list";
    GET = "head" "rows" "get";
    DELETE = "head" "rows" "delete";
    DELETE_MANY = "head" "rows" "delete_many";
    POP = "head" "save" "rows" "turn" "settle" "taking" "pop";
    PURGE = "head" "save" "clear" "purge";
    STATS = "head" "save" "rows" "turn" "settle" "stats";
    CLAIM = "head" "guard" "save" "rows" "turn" "settle" "taking" "claim";
    BURIED = "head" "rows" "buried";
    CLAIM_GET = "head" "rows" "claim_get";
    CLAIM_RENEW = "head" "save" "rows" "claim_renew";
    CLAIM_RELEASE = "head" "rows" "claim_release";
    SWEEP = "sweep" "rows" "turn" "subscribers" "entries" "sweep_rest";
    SUBSCRIBE = "head" "guard" "save" "subscribers" "subscribe";
    SUBSCRIPTION = "head" "subscribers" "subscription";
    SUBSCRIPTIONS = "head" "subscribers" "subscriptions";
    CHANGE_SUBSCRIPTION = "head" "save" "subscribers" "change_subscription";
    UNSUBSCRIBE = "head" "subscribers" "unsubscribe";
    UNLEASE = "head" "subscribers" "unlease";
    LEASE_KEEP = "leases" "lease_keep";
    LEASE_END = "leases" "lease_end";
    LEASE_HANG = "leases" "lease_hang";
    LEASE_HELD = "leases" "lease_held";
    LEASE_DROP = "leases" "lease_drop";
    LEASES_OVER = "leases" "leases_over";
    FOLLOW = "head" "rows" "entries" "follow";
    LEASE = "head" "save" "rows" "lease";
    SETTLE_ENTRY = "head" "settle_entry";
    NEXT_ENTRY = "head" "next_entry";
    AGENDA_HINT = "agenda_hint";
    AGENDA_SETTLE = "agenda_settle";
    QUEUE_CREATE = "queue_create";
    QUEUE_GET = "queue_get";
    QUEUE_REPLACE = "queue_replace";
    QUEUE_REMOVE = "queue_remove";
    QUEUE_LIST = "queue_list";
    QUEUE_COUNT = "queue_count";
    PING = "ping";
    VOLUME = "volume";
}
