//! Options of the libraries that the original is built with: oslo.log, oslo.cache,
//! keystonemiddleware and others.

use super::{
    Kind, Known, KnownSection, boolean, choice, float, integer, list, text, unset, unused,
};

const FORM: &str = "log lines have one form, or JSON with use_json";
const ELSEWHERE: &str = "the server logs to standard error or a file; a supervisor forwards it";
const ROTATION: &str = "a supervisor or logrotate rotates the file";
const PYTHON: &str = "it is for the Python runtime only";
const RPC: &str = "the server has no message bus";
const CACHE: &str = "the server caches in its own memory";
const POOL: &str = "a request that finds no free connection in time asks Keystone";
const SASL: &str = "the server does not authenticate to memcached";
const TLS: &str = "the server does not speak TLS to memcached";
const UNREAD: &str = "no part of this server reads it";

pub(super) const SECTIONS: &[KnownSection] = &[
    KnownSection::new("DEFAULT", LOG),
    KnownSection::new("DEFAULT", MESSAGING),
    KnownSection::new("cache", CACHING),
    KnownSection::new("keystone_authtoken", AUTHTOKEN),
    KnownSection::new("keystone_authtoken", AUTH_PLUGIN),
    KnownSection::new("trustee", TRUSTEE),
    KnownSection::new("trustee", AUTH_PLUGIN),
    KnownSection::new("oslo_policy", POLICY),
    KnownSection::new("oslo_reports", REPORTS),
    KnownSection::new("profiler", PROFILER),
    KnownSection::whole("profiler_jaeger", UNREAD),
    KnownSection::new("profiler_otlp", &[unset("service_name_prefix")]),
    KnownSection::whole("oslo_messaging_kafka", RPC),
    KnownSection::whole("oslo_messaging_metrics", RPC),
    KnownSection::whole("oslo_messaging_notifications", RPC),
    KnownSection::whole("oslo_messaging_rabbit", RPC),
];

const LOG: &[Known] = &[
    boolean("debug", "false"),
    unset("log_file").formerly(&["logfile"]),
    unset("log_dir").formerly(&["logdir"]),
    boolean("use_json", "false"),
    boolean("use_stderr", "false"),
    list(
        "default_log_levels",
        Some("h2=INFO,hyper=INFO,hyper_util=INFO,rustls=INFO,tungstenite=INFO"),
    ),
    unset("log_config_append").formerly(&["log_config"]),
    unused("log_date_format", FORM),
    unused("use_syslog", ELSEWHERE),
    unused("use_journal", ELSEWHERE),
    unused("use_eventlog", ELSEWHERE),
    unused("syslog_log_facility", ELSEWHERE),
    unused("watch_log_file", ROTATION),
    unused("log_color", FORM),
    unused("log_rotate_interval", ROTATION),
    unused("log_rotate_interval_type", ROTATION),
    unused("max_logfile_count", ROTATION),
    unused("max_logfile_size_mb", ROTATION),
    unused("log_rotation_type", ROTATION),
    unused("logging_context_format_string", FORM),
    unused("logging_default_format_string", FORM),
    unused("logging_debug_format_suffix", FORM),
    unused("logging_exception_prefix", FORM),
    unused("logging_user_identity_format", FORM),
    unused("publish_errors", RPC),
    unused("instance_format", FORM),
    unused("instance_uuid_format", FORM),
    unused("rate_limit_interval", UNREAD),
    unused("rate_limit_burst", UNREAD),
    unused("rate_limit_except_level", UNREAD),
    unused("fatal_deprecations", PYTHON),
];

const MESSAGING: &[Known] = &[
    unused("transport_url", RPC).secret(),
    unused("control_exchange", RPC),
    unused("rpc_response_timeout", RPC),
    unused("executor_thread_pool_size", RPC),
];

const CACHING: &[Known] = &[
    unused("config_prefix", CACHE),
    unused("expiration_time", CACHE),
    unused("backend_expiration_time", CACHE),
    unused("backend", CACHE),
    unused("backend_argument", CACHE).kind(Kind::Repeated).secret(),
    unused("proxies", CACHE),
    unused("enabled", CACHE),
    unused("debug_cache_backend", CACHE),
    unused("memcache_servers", CACHE),
    unused("memcache_dead_retry", CACHE),
    unused("memcache_pool_maxsize", CACHE),
    unused("memcache_pool_unused_timeout", CACHE),
    unused("memcache_pool_connection_get_timeout", CACHE),
    unused("memcache_pool_flush_on_reconnect", CACHE),
    unused("memcache_sasl_enabled", CACHE),
    unused("redis_server", CACHE),
    unused("redis_db", CACHE),
    unused("redis_sentinels", CACHE),
    unused("redis_sentinel_service_name", CACHE),
    unused("username", CACHE).formerly(&["memcache_username", "redis_username"]),
    unused("password", CACHE).secret().formerly(&["memcache_password", "redis_password"]),
    unused("tls_enabled", CACHE),
    unused("tls_cafile", CACHE),
    unused("tls_certfile", CACHE),
    unused("tls_keyfile", CACHE),
    unused("tls_allowed_ciphers", CACHE),
    unused("socket_timeout", CACHE).formerly(&["memcache_socket_timeout", "redis_socket_timeout"]),
    unused("enable_socket_keepalive", CACHE),
    unused("socket_keepalive_idle", CACHE),
    unused("socket_keepalive_interval", CACHE),
    unused("socket_keepalive_count", CACHE),
    unused("enable_retry_client", CACHE),
    unused("retry_attempts", CACHE),
    unused("retry_delay", CACHE),
    unused("hashclient_retry_attempts", CACHE),
    unused("hashclient_retry_timeout", CACHE).formerly(&["hashclient_retry_delay"]),
    unused("hashclient_dead_timeout", CACHE).formerly(&["dead_timeout"]),
];

const AUTHTOKEN: &[Known] = &[
    unset("www_authenticate_uri").formerly(&["auth_uri"]),
    choice(
        "interface",
        "internal",
        &["internal", "public", "admin", "internalURL", "publicURL", "adminURL"],
    ),
    boolean("delay_auth_decision", "false"),
    float("http_connect_timeout", "5"),
    integer("http_request_max_retries", "3", 0, 100),
    unset("region_name"),
    integer("token_cache_time", "300", -1, 86_400),
    boolean("include_service_catalog", "true"),
    list("service_token_roles", Some("service")),
    boolean("service_token_roles_required", "true"),
    unset("service_type"),
    unused("auth_version", "the server speaks version 3 of Keystone's API"),
    unused("cache", "the server has no WSGI environment"),
    list("memcached_servers", None).formerly(&["memcache_servers"]),
    choice(
        "memcache_security_strategy",
        "None",
        &["None", "MAC", "ENCRYPT", "none", "mac", "encrypt"],
    ),
    unset("memcache_secret_key").secret(),
    boolean("memcache_tls_enabled", "false"),
    unused("memcache_tls_cafile", TLS),
    unused("memcache_tls_certfile", TLS),
    unused("memcache_tls_keyfile", TLS),
    unused("memcache_tls_allowed_ciphers", TLS),
    integer("memcache_pool_dead_retry", "300", 0, 86_400),
    integer("memcache_pool_maxsize", "10", 1, 1000),
    integer("memcache_pool_socket_timeout", "3", 1, 60),
    integer("memcache_pool_unused_timeout", "60", 0, 86_400),
    unused("memcache_pool_conn_get_timeout", POOL),
    unused("memcache_use_advanced_pool", POOL),
    boolean("memcache_sasl_enabled", "false"),
    unused("memcache_username", SASL),
    unused("memcache_password", SASL).secret(),
    unused("enforce_token_bind", "Keystone no longer binds tokens"),
    unused("identity_uri", "auth_url has Keystone's URL"),
];

/// The options of keystoneauth's plugins and session.
const AUTH_PLUGIN: &[Known] = &[
    text("auth_type", "password").formerly(&["auth_plugin"]),
    unset("auth_section"),
    unset("auth_url"),
    unset("username").formerly(&["user_name"]),
    unset("user_id"),
    unset("user_domain_id"),
    unset("user_domain_name"),
    unset("password").secret(),
    unset("project_id").formerly(&["tenant_id"]),
    unset("project_name").formerly(&["tenant_name"]),
    unset("project_domain_id"),
    unset("project_domain_name"),
    unset("domain_id"),
    unset("domain_name"),
    unset("default_domain_id"),
    unset("default_domain_name"),
    unset("system_scope"),
    unset("trust_id"),
    unset("application_credential_id"),
    unset("application_credential_name"),
    unset("application_credential_secret").secret(),
    unset("cafile"),
    unset("certfile"),
    unset("keyfile"),
    boolean("insecure", "false"),
    float("timeout", "15"),
    unused("token", PLUGIN).secret(),
    unused("endpoint", PLUGIN).formerly(&["url"]),
    unused("passcode", PLUGIN).secret(),
    unused("auth_methods", PLUGIN),
    unused("collect_timing", UNREAD),
    unused("split_loggers", UNREAD),
    unused("tls_ciphers", UNREAD),
    unused("tls_min_version", UNREAD),
];

const PLUGIN: &str = "the plugins are password, v3password and v3applicationcredential";

const TRUSTEE: &[Known] = &[unused("region_name", UNREAD)];

const POLICY: &[Known] = &[
    boolean("enforce_scope", "true"),
    boolean("enforce_new_defaults", "true"),
    text("policy_file", "policy.yaml"),
    text("policy_default_rule", "default"),
    text("policy_dirs", "policy.d").kind(Kind::Repeated),
    unused("remote_content_type", REMOTE),
    unused("remote_ssl_verify_server_crt", REMOTE),
    unused("remote_ssl_ca_crt_file", REMOTE),
    unused("remote_ssl_client_crt_file", REMOTE),
    unused("remote_ssl_client_key_file", REMOTE),
    unused("remote_timeout", REMOTE),
];

const REMOTE: &str = "rules that query another server always deny";

const REPORTS: &[Known] = &[
    unset("log_dir"),
    unset("file_event_handler"),
    integer("file_event_handler_interval", "1", 1, 86_400),
];

const PROFILER: &[Known] = &[
    boolean("enabled", "false").formerly(&["profiler_enabled"]),
    list("hmac_keys", Some("SECRET_KEY")).secret(),
    text("connection_string", "messaging://").secret(),
    boolean("trace_wsgi_transport", "false"),
    boolean("trace_message_store", "false"),
    boolean("trace_management_store", "false"),
    boolean("filter_error_trace", "false"),
    unused("trace_sqlalchemy", UNREAD),
    unused("trace_requests", UNREAD),
    unused("es_doc_type", UNREAD),
    unused("es_scroll_time", UNREAD),
    unused("es_scroll_size", UNREAD),
    unused("socket_timeout", UNREAD),
    unused("sentinel_service_name", UNREAD),
];
