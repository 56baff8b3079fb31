//! The service's own options: those of the original's `zaqar.conf` package, without the stores.

use super::{
    Kind, Known, KnownSection, boolean, choice, float, integer, list, port, text, unset, unused,
};

/// Sixty-eight years: longer than any ttl, and it overflows no clock.
const SECONDS: i64 = 2_147_483_647;
const TTL: i64 = 60;
const PAGE: i64 = 100_000;
const BYTES: i64 = 1 << 30;

const EXTERNAL_PORT: &str = "no URL for clients contains this port";
const PUSHES: &str = "pushes reach every server through the store, without a port of their own";

pub(super) const SECTIONS: &[KnownSection] = &[
    KnownSection::new("DEFAULT", DEFAULT),
    KnownSection::new("admin", ADMIN),
    KnownSection::new("drivers", DRIVERS),
    KnownSection::new("limits", LIMITS),
    KnownSection::new("quotas", QUOTAS),
    KnownSection::new("traces", TRACES),
    KnownSection::new("transport", TRANSPORT),
    KnownSection::new("signed_url", &[unset("secret_key").secret()]),
    KnownSection::new("cors", CORS),
    KnownSection::new("storage", STORAGE),
    KnownSection::new("pooling:catalog", &[boolean("enable_virtual_pool", "false")]),
    KnownSection::new("notification", NOTIFICATION),
];

const DEFAULT: &[Known] = &[
    boolean("admin_mode", "false"),
    boolean("unreliable", "false"),
    boolean("pooling", "false").formerly(&["sharding"]),
    choice("auth_strategy", "", &["", "keystone"]),
    boolean("enable_checksum", "false"),
    // An option of oslo.service, whose default is 60.
    integer("graceful_shutdown_timeout", "30", 1, 3600),
    unused("enable_deprecated_api_versions", "the server speaks v2 only"),
    unused("daemon", "the server stays in the foreground; let a supervisor start it"),
    unused("config_source", "configuration comes from files and the environment only"),
];

/// Not in the original. Without a port there is no such listener.
const ADMIN: &[Known] = &[host("bind", Some("127.0.0.1")), port("port", None)];

const DRIVERS: &[Known] = &[
    list("transport", Some("wsgi")),
    text("message_store", "embedded").formerly(&["storage"]),
    text("management_store", "embedded"),
];

/// The transport `wsgi`.
pub(crate) const WSGI: &[Known] = &[
    host("bind", Some("127.0.0.1")),
    port("port", Some("8888")),
    unset("unix_socket"),
    unset("cert_file"),
    unset("key_file"),
    unset("ca_file"),
];

/// The transport `websocket`.
pub(crate) const WEBSOCKET: &[Known] = &[
    host("bind", Some("127.0.0.1")),
    port("port", Some("9000")),
    unset("unix_socket"),
    unset("cert_file"),
    unset("key_file"),
    unset("ca_file"),
    integer("max_connections", "16384", 1, 10_000_000),
    integer("max_message_size", "0", 0, BYTES),
    integer("ping_interval", "30", 1, 86_400),
    integer("idle_timeout", "300", 1, 604_800),
    integer("unused_timeout", "600", 1, 604_800),
    list("allowed_origin", None),
    unused("external_port", EXTERNAL_PORT),
    unused("notification_bind", PUSHES),
    unused("notification_port", PUSHES),
];

/// Not in the original, which leaves them to its HTTP server and the system.
const LIMITS: &[Known] = &[
    integer("memory_budget", "0", 0, 1 << 50),
    integer("memory_per_connection", "5", 1, 100),
    integer("memory_per_project", "25", 1, 100),
    integer("max_operations", "1024", 1, 1_000_000),
    integer("max_expensive_operations_per_project", "8", 1, 1_000_000),
];

/// The greatest quota: JSON numbers are exact up to it.
const QUOTA: i64 = 1 << 53;

/// Not in the original. Limits of each project; 0 means no limit.
const QUOTAS: &[Known] = &[
    integer("max_queues", "0", 0, QUOTA),
    integer("max_subscriptions", "0", 0, QUOTA),
    integer("max_messages_per_queue", "0", 0, QUOTA),
    integer("max_bytes_per_queue", "0", 0, QUOTA),
    integer("max_messages", "0", 0, QUOTA),
    integer("max_bytes", "0", 0, QUOTA),
    integer("max_requests_per_second", "0", 0, QUOTA),
    integer("max_bytes_per_second", "0", 0, QUOTA),
    unset("projects_file"),
    boolean("managed", "false"),
];

/// Not in the original. Without an endpoint, only requests with OSprofiler's headers are traced.
const TRACES: &[Known] = &[
    unset("otlp_endpoint"),
    list("otlp_headers", None).secret(),
    unset("ca_file"),
    Known::new("sample", Kind::Float { min: 0.0, max: 1.0 }, Some("1")),
    text("service_name", "zaqar-server"),
];

const TRANSPORT: &[Known] = &[
    integer("default_message_ttl", "3600", TTL, SECONDS),
    integer("default_message_delay", "0", 0, SECONDS),
    integer("default_claim_ttl", "300", TTL, SECONDS),
    integer("default_claim_grace", "60", TTL, SECONDS),
    integer("default_subscription_ttl", "3600", TTL, SECONDS),
    integer("max_queues_per_page", "20", 1, PAGE),
    integer("max_messages_per_page", "20", 1, PAGE),
    integer("max_subscriptions_per_page", "20", 1, PAGE),
    integer("max_messages_per_claim_or_pop", "20", 1, PAGE),
    integer("max_queue_metadata", "65536", 1, BYTES),
    integer("max_messages_post_size", "262144", 1, BYTES),
    integer("max_message_ttl", "1209600", TTL, SECONDS),
    integer("max_message_delay", "900", 0, SECONDS),
    integer("max_claim_ttl", "43200", TTL, SECONDS),
    integer("max_claim_grace", "43200", TTL, SECONDS),
    list("subscriber_types", Some("http,https,mailto,trust+http,trust+https")),
    integer("max_flavors_per_page", "20", 1, PAGE),
    integer("max_pools_per_page", "20", 1, PAGE),
    choice("client_id_uuid_safe", "strict", &["strict", "off"]),
    integer("min_length_client_id", "10", 1, 1024),
    integer("max_length_client_id", "36", 1, 1024),
    boolean("message_delete_with_claim_id", "false"),
    choice("message_encryption_algorithms", "AES256", &["AES256"]),
    unset("message_encryption_key").secret(),
];

const CORS: &[Known] = &[
    list("allowed_origin", None),
    boolean("allow_credentials", "true"),
    list(
        "expose_headers",
        Some("X-Auth-Token,X-Subject-Token,X-Service-Token,X-OpenStack-Request-ID"),
    ),
    integer("max_age", "3600", -1, SECONDS),
    list("allow_methods", Some("GET,PUT,POST,DELETE,PATCH,HEAD")),
    list(
        "allow_headers",
        Some(
            "X-Auth-Token,X-Identity-Status,X-Roles,X-Service-Catalog,X-User-Id,X-Tenant-Id,X-OpenStack-Request-ID,X-Trace-Info,X-Trace-HMAC,Client-id",
        ),
    ),
];

const STORAGE: &[Known] = &[
    list("queue_pipeline", Some("")),
    list("message_pipeline", Some("zaqar.notification.notifier")),
    list("claim_pipeline", Some("")),
    list("subscription_pipeline", Some("")),
    list("topic_pipeline", Some("")),
];

const NOTIFICATION: &[Known] = &[
    integer("max_notifier_workers", "256", 1, 10_000),
    integer("max_deliveries_per_project", "64", 1, 10_000),
    integer("max_deliveries_per_destination", "16", 1, 10_000),
    integer("delivery_log", "200", 0, 1000),
    integer("delivery_log_time", "604800", 60, 1_209_600),
    list("allow_networks", None),
    list("trust_http_hosts", None),
    unset("ca_file"),
    float("connect_timeout", "5"),
    float("timeout", "15"),
    integer("extended_retry_time", "0", 0, 1_209_600),
    choice("smtp_mode", "third_part", &["third_part", "self_local"]),
    host("smtp_host", None),
    port("smtp_port", None),
    choice("smtp_security", "tls", &["tls", "starttls", "none"]),
    unset("smtp_user_name"),
    unset("smtp_user_password").secret(),
    text("smtp_command", "/usr/sbin/sendmail -t -oi"),
    boolean("require_confirmation", "false"),
    unset("external_confirmation_url"),
    text(
        "subscription_confirmation_email_template",
        "topic:Zaqar Notification - Subscription Confirmation,body:Somebody asked that messages of the queue {0} of the project {1} be sent to this address. To confirm open this link: {2},sender:Zaqar Notifications <no-reply@openstack.org>",
    ),
    text(
        "unsubscribe_confirmation_email_template",
        "topic:Zaqar Notification - Unsubscribe Confirmation,body:Messages of the queue {0} of the project {1} are no longer sent to this address. To have them sent again open this link: {2},sender:Zaqar Notifications <no-reply@openstack.org>",
    ),
];

const fn host(name: &'static str, default: Option<&'static str>) -> Known {
    Known::new(name, Kind::Host, default)
}
