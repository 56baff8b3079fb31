//! Authentication and authorization: `[keystone_authtoken]` and `[oslo_policy]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zaqar_auth::keystone::{
    self, ApplicationId, Credential, Interface, MemcachedServer, Name, Protection, Scope,
    SharedCacheOptions,
};
use zaqar_auth::policy::Files;

use super::AuthStrategy;
use crate::config::error::Warning;
use crate::config::reader::{Options, Reader};

/// Where the original looks for policies if no configuration file was read.
const DEFAULT_DIR: &str = "/etc/zaqar";
/// The default of `policy_file`, which need not exist.
const DEFAULT_FILE: &str = "policy.yaml";

/// How callers are authenticated and authorized.
#[derive(Debug, Clone)]
pub struct Access {
    /// `[keystone_authtoken]`, with `auth_strategy = keystone`.
    pub keystone: Option<keystone::Options>,
    /// `[trustee]`: the user that acts for subscribers with `trust+http` and `trust+https`.
    pub trustee: Option<keystone::Options>,
    /// `[oslo_policy]`.
    pub policies: Files,
}

impl Access {
    pub(super) fn read(reader: &mut Reader, strategy: AuthStrategy) -> Self {
        let keystone = match strategy {
            AuthStrategy::None => None,
            AuthStrategy::Keystone => keystone(reader),
        };
        Self { keystone, trustee: trustee(reader), policies: policies(reader) }
    }
}

fn keystone(reader: &mut Reader) -> Option<keystone::Options> {
    const SECTION: &str = "keystone_authtoken";
    let plugin = reader.section(SECTION).optional_text("auth_section");
    let mut plugin = reader.section(plugin.as_deref().unwrap_or(SECTION));
    let url = plugin.needed("auth_url");
    let credential = credential(&mut plugin);
    let mut section = reader.section(SECTION);
    let mut options = keystone::Options::new(&url?, credential?);
    options.interface = match section.choice("interface").trim_end_matches("URL") {
        "public" => Interface::Public,
        "admin" => Interface::Admin,
        _ => Interface::Internal,
    };
    options.region_name = section.optional_text("region_name");
    options.tls = tls(&mut section)?;
    options.connect_timeout = section.seconds("http_connect_timeout");
    // The timeout of a request is at least as long as that for connecting.
    options.timeout = section.seconds("timeout").max(options.connect_timeout);
    options.retries = u32::try_from(section.number("http_request_max_retries")).unwrap_or_default();
    // Below zero the cache is disabled, as with zero.
    options.cached_for = Duration::from_secs(section.number("token_cache_time"));
    options.service_tokens.roles = section.list("service_token_roles");
    options.service_tokens.required = section.boolean("service_token_roles_required");
    options.service_type = section.optional_text("service_type");
    options.www_authenticate_uri = section.optional_text("www_authenticate_uri");
    options.delay_auth_decision = section.boolean("delay_auth_decision");
    options.include_service_catalog = section.boolean("include_service_catalog");
    options.shared_cache = shared_cache(&mut section);
    Some(options)
}

/// memcached, if tokens are shared there.
fn shared_cache(section: &mut Options<'_>) -> Option<SharedCacheOptions> {
    let mut servers = Vec::new();
    for text in section.list("memcached_servers") {
        match MemcachedServer::parse(&text) {
            Some(server) => servers.push(server),
            None => section.refuse("memcached_servers", "a list of host:port"),
        }
    }
    if servers.is_empty() {
        return None;
    }
    let strategy = section.choice("memcache_security_strategy");
    let protection = match (strategy, section.secret("memcache_secret_key")) {
        ("None" | "none", _) => Protection::None,
        (_, None) => {
            section.missing("memcache_secret_key");
            return None;
        }
        ("MAC" | "mac", Some(secret)) => Protection::Mac(secret),
        (_, Some(secret)) => Protection::Encrypt(secret),
    };
    warn_of_protection(section, strategy);
    for option in ["memcache_tls_enabled", "memcache_sasl_enabled"] {
        if section.boolean(option) {
            section.warn(option, "the server does not do that: tokens are not shared in memcached");
            return None;
        }
    }
    Some(SharedCacheOptions {
        servers,
        protection,
        timeout: Duration::from_secs(section.number("memcache_pool_socket_timeout")),
        dead_for: Duration::from_secs(section.number("memcache_pool_dead_retry")),
        unused_for: Duration::from_secs(section.number("memcache_pool_unused_timeout")),
        connections: usize::try_from(section.number("memcache_pool_maxsize")).unwrap_or(1),
    })
}

/// A strategy that protects nothing, or that services in Python do not share.
fn warn_of_protection(section: &mut Options<'_>, strategy: &str) {
    let option = "memcache_security_strategy";
    let why = match strategy {
        "None" | "none" => {
            "whoever can write to the servers of memcached_servers can be anybody: tokens in there \
             are not protected"
        }
        "mac" | "encrypt" => {
            "keystonemiddleware has other keys for it in lower case, which this server does not \
             use: write it in upper case everywhere, to share tokens"
        }
        // In upper case.
        _ => return,
    };
    let what = format!("[keystone_authtoken] {option} = {strategy}: {why}");
    let is_set = section.section.options().any(|set| set == option);
    let origin = section.section.origin(if is_set { option } else { "memcached_servers" });
    section.reader.warnings.push(Warning::Conflict { origin, what });
}

/// Who acts for subscribers. Without any of these options nobody does.
fn trustee(reader: &mut Reader) -> Option<keystone::Options> {
    const SECTION: &str = "trustee";
    const OPTIONS: [&str; 5] = ["auth_section", "auth_url", "username", "user_id", "password"];
    let mut section = reader.section(SECTION);
    if !OPTIONS.iter().any(|option| section.optional_text(option).is_some()) {
        return None;
    }
    let plugin = section.optional_text("auth_section");
    let mut plugin = reader.section(plugin.as_deref().unwrap_or(SECTION));
    let url = plugin.needed("auth_url");
    let credential = credential(&mut plugin)?;
    if matches!(credential, Credential::Application { .. }) {
        let allowed = "password or v3password: an application credential cannot use a trust";
        plugin.refuse("auth_type", allowed);
        return None;
    }
    let mut section = reader.section(SECTION);
    let mut options = keystone::Options::new(&url?, credential);
    options.tls = tls(&mut section)?;
    options.timeout = section.seconds("timeout").max(Duration::from_secs(1));
    options.connect_timeout = options.connect_timeout.min(options.timeout);
    Some(options)
}

/// Our own credential; `None` if it is invalid, and the error is recorded.
fn credential(section: &mut Options<'_>) -> Option<Credential> {
    match section.text("auth_type").as_str() {
        "password" | "v3password" => {
            let (user, domain) = user(section)?;
            let password = section.secret("password");
            if password.is_none() {
                section.missing("password");
            }
            let scope = scope(section)?;
            Some(Credential::Password { user, domain, password: password?, scope })
        }
        "v3applicationcredential" => {
            let secret = section.secret("application_credential_secret");
            if secret.is_none() {
                section.missing("application_credential_secret");
            }
            let id = match section.optional_text("application_credential_id") {
                Some(id) => ApplicationId::Id(id),
                None => {
                    let name = section.needed("application_credential_name")?;
                    let (user, domain) = user(section)?;
                    ApplicationId::Name { name, user, domain }
                }
            };
            Some(Credential::Application { id, secret: secret? })
        }
        _ => {
            let allowed = "one of: password, v3password, v3applicationcredential";
            section.refuse("auth_type", allowed);
            None
        }
    }
}

/// A user, with the domain if it is given by name.
fn user(section: &mut Options<'_>) -> Option<(Name, Name)> {
    match section.optional_text("user_id") {
        // An id needs no domain.
        Some(id) => Some((Name::Id(id), Name::Id(String::new()))),
        None => {
            let name = section.needed("username")?;
            Some((Name::Name(name), domain(section, "user_domain_name", "user_domain_id")?))
        }
    }
}

fn domain(section: &mut Options<'_>, name: &'static str, id: &'static str) -> Option<Name> {
    for (name, id) in [(name, id), ("default_domain_name", "default_domain_id")] {
        let found = section.optional_text(id).map(Name::Id);
        let found = found.or_else(|| section.optional_text(name).map(Name::Name));
        if found.is_some() {
            return found;
        }
    }
    section.missing(name);
    None
}

fn scope(section: &mut Options<'_>) -> Option<Scope> {
    let project = section.optional_text("project_id").map(Name::Id);
    let project = project.or_else(|| section.optional_text("project_name").map(Name::Name));
    let of_domain = section.optional_text("domain_id").map(Name::Id);
    let of_domain = of_domain.or_else(|| section.optional_text("domain_name").map(Name::Name));
    let system = section.optional_text("system_scope");
    let trust = section.optional_text("trust_id");
    let given = [project.is_some(), of_domain.is_some(), system.is_some(), trust.is_some()];
    if given.iter().filter(|given| **given).count() > 1 {
        let option = ["project_name", "domain_name", "system_scope", "trust_id"];
        let last = given.iter().rposition(|given| *given).unwrap_or_default();
        let allowed = "left out: a token is for one of a project, a domain, the system and a trust";
        section.refuse(option[last], allowed);
        return None;
    }
    match (project, of_domain, system, trust) {
        (Some(Name::Id(id)), ..) => {
            Some(Scope::Project { project: Name::Id(id), domain: Name::Id(String::new()) })
        }
        (Some(project), ..) => {
            let domain = domain(section, "project_domain_name", "project_domain_id")?;
            Some(Scope::Project { project, domain })
        }
        (_, Some(domain), ..) => Some(Scope::Domain(domain)),
        (_, _, Some(system), _) if system == "all" => Some(Scope::System),
        (_, _, Some(_), _) => {
            section.refuse("system_scope", "empty or all");
            None
        }
        (_, _, _, Some(trust)) => Some(Scope::Trust(trust)),
        (None, None, None, None) => Some(Scope::Unscoped),
    }
}

fn tls(section: &mut Options<'_>) -> Option<keystone::Tls> {
    let mut path = |option| section.optional_text(option).map(PathBuf::from);
    let (cafile, certfile, keyfile) = (path("cafile"), path("certfile"), path("keyfile"));
    let certificate = match (certfile, keyfile) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        // One file can hold both.
        (Some(both), None) => Some((both.clone(), both)),
        (None, Some(_)) => {
            section.missing("certfile");
            return None;
        }
        (None, None) => None,
    };
    Some(keystone::Tls { cafile, certificate, insecure: section.boolean("insecure") })
}

fn policies(reader: &mut Reader) -> Files {
    let dirs = config_dirs(reader);
    let mut section = reader.section("oslo_policy");
    let name = section.text("policy_file");
    let file = find(&dirs, &name);
    let is_set = section.is_set("policy_file");
    // A sample file with all options sets the default, too.
    if is_set && name != DEFAULT_FILE && !file.exists() {
        let place = file.display();
        let origin = section.section.origin("policy_file");
        let what = format!(
            "[oslo_policy] policy_file: there is no file {place}; until there is one, the default \
             rules hold"
        );
        section.reader.warnings.push(Warning::Conflict { origin, what });
    }
    let is_default = !is_set && !file.exists();
    let older = is_default.then(|| find(&dirs, "policy.json")).filter(|older| older.exists());
    Files {
        file: Some(older.unwrap_or(file)),
        dirs: section.repeated("policy_dirs").iter().map(|dir| find(&dirs, dir)).collect(),
        default_rule: section.text("policy_default_rule"),
        enforce_scope: section.boolean("enforce_scope"),
        enforce_new_defaults: section.boolean("enforce_new_defaults"),
    }
}

/// The directories of the configuration files, in order.
pub(super) fn config_dirs(reader: &Reader) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for file in reader.raw.files() {
        let dir = Path::new(file.as_ref()).parent().unwrap_or(Path::new("")).to_owned();
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    if dirs.is_empty() {
        dirs.push(DEFAULT_DIR.into());
    }
    dirs
}

/// Resolves a relative path: in the first directory that contains it, else in the first one of all,
/// where it may be created later.
pub(super) fn find(dirs: &[PathBuf], path: &str) -> PathBuf {
    let mut places = dirs.iter().map(|dir| dir.join(path));
    let first = dirs.first().map(|dir| dir.join(path));
    places.find(|place| place.exists()).or(first).unwrap_or_else(|| path.into())
}
