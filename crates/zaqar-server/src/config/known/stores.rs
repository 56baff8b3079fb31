//! The stores' sections. A driver reads its own; what it takes beyond names is its own affair.

use super::{Known, KnownSection, choice, float, integer, text, unset, unused};

const UNSUPPORTED: &str = "this server has no such store";
const INTERVAL: i64 = 60_000;
const ATTEMPTS: i64 = 1_000_000;
const REPLICAS: i64 = 1000;

pub(super) const SECTIONS: &[KnownSection] = &[
    KnownSection::new("drivers:message_store:embedded", EMBEDDED),
    KnownSection::new("drivers:management_store:embedded", EMBEDDED),
    KnownSection::new("drivers:message_store:redis", REDIS),
    KnownSection::new("drivers:management_store:redis", REDIS),
    KnownSection::new("drivers:message_store:mongodb", MONGODB),
    KnownSection::new("drivers:message_store:mongodb", PARTITIONS),
    KnownSection::new("drivers:management_store:mongodb", MONGODB),
    KnownSection::whole("drivers:message_store:swift", UNSUPPORTED),
    KnownSection::whole("drivers:management_store:sqlalchemy", UNSUPPORTED),
];

const EMBEDDED: &[Known] = &[
    text("path", "./zaqar-data"),
    choice("sync", "always", &["always", "interval", "never"]),
    integer("sync_interval_ms", "100", 1, INTERVAL),
];

const REDIS: &[Known] = &[
    text("uri", "redis://127.0.0.1:6379").secret(),
    integer("max_reconnect_attempts", "10", 0, ATTEMPTS),
    float("reconnect_sleep", "1.0"),
    integer("wait_replicas", "0", 0, REPLICAS),
];

const MONGODB: &[Known] = &[
    unset("ssl_keyfile"),
    unset("ssl_certfile"),
    choice("ssl_cert_reqs", "CERT_REQUIRED", &["CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"]),
    unset("ssl_ca_certs"),
    unset("uri").secret(),
    text("database", "zaqar"),
    integer("max_attempts", "1000", 0, ATTEMPTS),
    float("max_retry_sleep", "0.1"),
    float("max_retry_jitter", "0.005"),
    integer("max_reconnect_attempts", "10", 0, ATTEMPTS),
    float("reconnect_sleep", "0.020"),
];

const PARTITIONS: &[Known] =
    &[unused("partitions", "all messages live in one database; its server shards them")];
