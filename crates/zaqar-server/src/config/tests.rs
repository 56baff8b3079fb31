//! From files, variables and flags to settings, warnings and errors.

mod sample;
mod sources;
mod stores;

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use zaqar_auth::keystone::{Credential, Interface, Name, Protection, Scope};
use zaqar_core::Limits;
use zaqar_core::limits::ClientIds;

use super::raw::Raw;
use super::{
    AuthStrategy, Errors, Level, Loaded, Mailer, Registered, Settings, SmtpSecurity, ini, known,
    load,
};
use crate::Registry;
use sources::Host;

/// Loads a file with this text; messages call it `zaqar.conf`.
fn read(text: &str) -> Result<Loaded, Vec<String>> {
    read_with(&registered(), text)
}

fn registered() -> Registered {
    Registry::default().registered()
}

fn read_with(registered: &Registered, text: &str) -> Result<Loaded, Vec<String>> {
    let path = Arc::from("zaqar.conf");
    let mut raw = Raw::new(registered.known());
    let document = ini::parse(&path, text.as_bytes());
    raw.add(&path, document.map_err(|errors| messages(&Errors(errors)))?);
    super::type_check(raw, registered).map_err(|errors| messages(&errors))
}

fn settings(text: &str) -> Settings {
    read(text).unwrap().settings
}

fn problems(text: &str) -> Vec<String> {
    read(text).unwrap_err()
}

fn warnings(text: &str) -> Vec<String> {
    read(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

fn messages(errors: &Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn without_a_configuration_the_defaults_hold() {
    let Loaded { settings, warnings } = read("").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.drivers.transports, ["wsgi"]);
    assert_eq!(settings.drivers.message_store, "embedded");
    assert_eq!(settings.drivers.management_store, "embedded");
    assert_eq!(settings.limits, Limits::default());
    assert_eq!((settings.wsgi.bind.as_str(), settings.wsgi.port), ("127.0.0.1", 8888));
    assert_eq!(settings.websocket.port, 9000);
    assert_eq!(settings.auth_strategy, AuthStrategy::None);
    assert_eq!(settings.signed_url_key, None);
    assert_eq!(settings.cors, None);
    assert_eq!(settings.pipelines.message, ["zaqar.notification.notifier"]);
    assert!(!settings.admin_mode && !settings.pooling && !settings.logging.debug);
}

#[test]
fn every_kind_of_option_reaches_its_setting() {
    let stages = registered().stage("a").stage("b");
    let loaded = read_with(
        &stages,
        "[DEFAULT]\nadmin_mode = on\nauth_strategy = keystone\nlog_dir = /var/log/zaqar\n\
         default_log_levels = hyper=WARNING, a.b=critical\n\
         [drivers]\ntransport = websocket,wsgi\n\
         [drivers:transport:websocket]\nbind = ::\nidle_timeout = 443\n\
         [drivers:message_store:embedded]\npath = /srv/q\nsync = interval\nsync_interval_ms = 20\n\
         [transport]\nmax_message_ttl = 7_200\nclient_id_uuid_safe = off\nsubscriber_types = https\n\
         [signed_url]\nsecret_key = \"s e\"\n[storage]\nmessage_pipeline =\nqueue_pipeline = a, b\n\
         [cors]\nallowed_origin = https://a:8443,*\nmax_age = -1\n\
         [keystone_authtoken]\nauth_url = http://k:5000\nusername = zaqar\npassword = kpw\n\
         user_domain_name = Default\nproject_name = service\nproject_domain_id = default\n\
         interface = publicURL\nregion_name = r\ntoken_cache_time = -1\ntimeout = 1\n\
         service_token_roles = service, admin\nservice_token_roles_required = no\n\
         memcached_servers = a:1, unix:/b\nmemcache_security_strategy = encrypt\n\
         memcache_secret_key = mpw\nmemcache_pool_socket_timeout = 2\n\
         memcache_pool_unused_timeout = 9\n\
         service_type = messaging\nauth_uri = http://public\ninsecure = yes\ncertfile = /c.pem\n\
         [oslo_policy]\npolicy_file = /srv/p.json\npolicy_dirs = /a\npolicy_dirs = /b\n\
         enforce_scope = no\n\
         [notification]\nsmtp_mode = self_local\nsmtp_host = mail.example.org\nsmtp_user_password = pw\n\
         subscription_confirmation_email_template = topic:T,body:B {2},sender:S\n",
    );
    let settings = loaded.unwrap().settings;
    assert!(settings.admin_mode);
    assert_eq!(settings.auth_strategy, AuthStrategy::Keystone);
    assert_eq!(settings.logging.file.unwrap(), Path::new("/var/log/zaqar/zaqar-server.log"));
    assert_eq!(
        settings.logging.levels,
        [("hyper".to_owned(), Level::Warn), ("a.b".to_owned(), Level::Error)]
    );
    assert_eq!(settings.drivers.transports, ["websocket", "wsgi"]);
    assert_eq!(
        (settings.websocket.bind.as_str(), settings.websocket.idle_timeout),
        ("::", std::time::Duration::from_secs(443))
    );
    assert_eq!(settings.limits.max_message_ttl, 7200);
    assert_eq!(settings.limits.client_ids, ClientIds::Off { min: 10, max: 36 });
    assert_eq!(settings.limits.subscriber_types, ["https"]);
    assert_eq!(settings.signed_url_key.unwrap().expose(), "s e");
    assert!(settings.pipelines.message.is_empty());
    assert_eq!(settings.pipelines.queue, ["a", "b"]);
    let cors = settings.cors.unwrap();
    assert_eq!((cors.allowed_origins.len(), cors.max_age, cors.allow_credentials), (2, -1, true));
    let keystone = settings.access.keystone.unwrap();
    let Credential::Password { user, domain, password, scope } = keystone.credential else {
        panic!("not a password");
    };
    assert_eq!((user, domain), (Name::Name("zaqar".into()), Name::Name("Default".into())));
    assert_eq!(password.expose(), "kpw");
    let project = Name::Name("service".into());
    assert_eq!(scope, Scope::Project { project, domain: Name::Id("default".into()) });
    assert_eq!(
        (keystone.auth_url.as_str(), keystone.interface),
        ("http://k:5000", Interface::Public)
    );
    assert_eq!(keystone.region_name.as_deref(), Some("r"));
    let shared = keystone.shared_cache.unwrap();
    assert_eq!((shared.servers.len(), shared.timeout.as_secs(), shared.connections), (2, 2, 10));
    assert_eq!(shared.unused_for.as_secs(), 9);
    assert!(matches!(shared.protection, Protection::Encrypt(secret) if secret.expose() == "mpw"));
    assert_eq!(keystone.timeout, keystone.connect_timeout);
    assert!(keystone.cached_for.is_zero() && keystone.tls.insecure);
    assert_eq!(keystone.tls.certificate, Some(("/c.pem".into(), "/c.pem".into())));
    assert_eq!(keystone.service_tokens.roles, ["service", "admin"]);
    assert!(!keystone.service_tokens.required && keystone.include_service_catalog);
    assert_eq!(keystone.service_type.as_deref(), Some("messaging"));
    assert_eq!(keystone.www_authenticate_uri.as_deref(), Some("http://public"));
    let policies = settings.access.policies;
    assert_eq!(policies.file.as_deref(), Some(Path::new("/srv/p.json")));
    assert_eq!(policies.dirs, [Path::new("/a"), Path::new("/b")]);
    assert!(!policies.enforce_scope && policies.enforce_new_defaults);
    let Mailer::Smtp { host, port, user, password, security } = settings.notification.mailer else {
        panic!("not by SMTP");
    };
    assert_eq!((host.as_str(), port, user), ("mail.example.org", None, None));
    assert_eq!((password.unwrap().expose().as_str(), security), ("pw", SmtpSecurity::Tls));
    assert_eq!(settings.notification.confirmation_mail.body, "B {2}");
}

#[test]
fn unprotected_or_unshared_tokens_in_memcached_cause_warnings() {
    for (strategy, part) in [
        ("", Some("zaqar.conf:7: [keystone_authtoken] memcache_security_strategy = None: whoever")),
        ("None", Some("zaqar.conf:8: [keystone_authtoken] memcache_security_strategy = None:")),
        ("mac", Some("write it in upper case")),
        ("encrypt", Some("write it in upper case")),
        ("MAC", None),
        ("ENCRYPT", None),
    ] {
        let line = format!("memcache_security_strategy = {strategy}\nmemcache_secret_key = s\n");
        let found = warnings(&format!(
            "[DEFAULT]\nauth_strategy = keystone\n[keystone_authtoken]\nauth_url = http://k\n\
             user_id = z\npassword = p\nmemcached_servers = a\n{}",
            if strategy.is_empty() { "" } else { &line }
        ));
        let is_expected = match part {
            Some(part) => found.len() == 1 && found[0].contains(part),
            None => found.is_empty(),
        };
        assert!(is_expected, "{strategy}: {found:?}");
    }
}

#[test]
fn required_options_of_keystone_must_be_set() {
    let user = "auth_url = http://k\nusername = z\npassword = p\nuser_domain_id = d\n";
    let table: [(&str, &str); 9] = [
        ("", "auth_url must be set"),
        ("auth_url = http://k\nusername = z\npassword = p", "user_domain_name must be set"),
        ("auth_url = http://k\nuser_id = z", "password must be set"),
        (&format!("{user}project_name = p"), "project_domain_name must be set"),
        (&format!("{user}project_id = p\nsystem_scope = all"), "must be left out"),
        (&format!("{user}system_scope = some"), "system_scope = \"some\": must be empty or all"),
        (&format!("{user}auth_type = v3kerberos"), "auth_type = \"v3kerberos\": must be one of"),
        (&format!("{user}keyfile = k"), "certfile must be set"),
        ("auth_url = http://k\nauth_type = v3applicationcredential", "_secret must be set"),
    ];
    for (options, problem) in table {
        let text =
            format!("[DEFAULT]\nauth_strategy = keystone\n[keystone_authtoken]\n{options}\n");
        let problems = read(&text).unwrap_err().join("; ");
        assert!(
            problems.contains("[keystone_authtoken] ") && problems.contains(problem),
            "{problems}"
        );
        // Without the strategy these options are not required.
        assert!(read(&text.replace("auth_strategy", "#")).is_ok(), "{options}");
    }
    for options in [
        format!("{user}project_name = p\ndefault_domain_id = d"),
        format!("{user}domain_name = d"),
        format!("{user}system_scope = all"),
        user.to_owned(),
        "auth_url = http://k\nauth_type = v3applicationcredential\n\
         application_credential_id = i\napplication_credential_secret = s"
            .to_owned(),
    ] {
        let text =
            format!("[DEFAULT]\nauth_strategy = keystone\n[keystone_authtoken]\n{options}\n");
        assert!(read(&text).unwrap().settings.access.keystone.is_some(), "{options}");
    }
}

#[test]
fn policies_are_searched_beside_the_configuration() {
    for (others, expected) in [
        (&[][..], "policy.yaml"),
        (&[("policy.json", "{}")], "policy.json"),
        (&[("policy.json", "{}"), ("policy.yaml", "{}")], "policy.yaml"),
    ] {
        let host = Host::new(&[&[("zaqar.conf", "")], others].concat());
        let loaded = load(&host.sources(&["zaqar.conf"], &[], &[]), &registered()).unwrap();
        let policies = loaded.settings.access.policies;
        assert_eq!(policies.file, Some(host.0.path().join(expected)));
        assert_eq!(policies.dirs, [host.0.path().join("policy.d")]);
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn wrong_values_are_refused_with_what_is_allowed() {
    let table = [
        (
            "[DEFAULT]\ndebug = maybe",
            "debug = \"maybe\": must be a boolean: true, yes, on, 1 or false, no, off, 0",
        ),
        (
            "[DEFAULT]\nauth_strategy = basic",
            "auth_strategy = \"basic\": must be one of: (empty), keystone",
        ),
        (
            "[DEFAULT]\ndefault_log_levels = a=LOUD",
            "default_log_levels = \"a=LOUD\": must be a list of target=LEVEL, with LEVEL one of: TRACE, DEBUG, INFO, WARN, WARNING, ERROR, CRITICAL",
        ),
        (
            "[transport]\nmax_message_ttl = -5",
            "max_message_ttl = \"-5\": must be an integer from 60 to 2147483647",
        ),
        (
            "[transport]\nmax_queues_per_page = 0",
            "max_queues_per_page = \"0\": must be an integer from 1 to 100000",
        ),
        (
            "[transport]\nmax_claim_ttl = 1h",
            "max_claim_ttl = \"1h\": must be an integer from 60 to 2147483647",
        ),
        (
            "[limits]\nmemory_budget = 1048575",
            "memory_budget = \"1048575\": must be 0, or at least 1048576 bytes",
        ),
        (
            "[transport]\nclient_id_uuid_safe = Off",
            "client_id_uuid_safe = \"Off\": must be one of: strict, off",
        ),
        (
            "[transport]\nmin_length_client_id = 40\nclient_id_uuid_safe = off",
            "min_length_client_id = \"40\": must be such that min_length_client_id (40) is not above max_length_client_id (36)",
        ),
        (
            "[transport]\nsubscriber_types = http,ftp",
            "subscriber_types = \"http,ftp\": must be a list of: http, https, mailto, trust+http, trust+https",
        ),
        (
            "[transport]\nmessage_encryption_algorithms = RSA",
            "message_encryption_algorithms = \"RSA\": must be one of: AES256",
        ),
        (
            "[drivers:transport:wsgi]\nport = 65536",
            "port = \"65536\": must be an integer from 0 to 65535",
        ),
        (
            "[drivers:transport:wsgi]\nbind = 300.0.0.1",
            "bind = \"300.0.0.1\": must be an IP address or a host name",
        ),
        (
            "[drivers]\ntransport = wsgi,amqp",
            "transport = \"wsgi,amqp\": must be one of: websocket, wsgi; each once, separated by commas",
        ),
        (
            "[drivers]\ntransport = wsgi,wsgi",
            "transport = \"wsgi,wsgi\": must be one of: websocket, wsgi; each once, separated by commas",
        ),
        (
            "[drivers]\ntransport =",
            "transport = \"\": must be one of: websocket, wsgi; each once, separated by commas",
        ),
        (
            "[drivers:message_store:embedded]\nsync = maybe",
            "sync = \"maybe\": must be one of: always, interval, never",
        ),
        (
            "[drivers:transport:websocket]\nallowed_origin = https://a, b.example.org",
            "allowed_origin = \"https://a, b.example.org\": must be origins such as https://console.example.org, or *, separated by commas",
        ),
        (
            "[cors]\nallowed_origin = https://a/",
            "allowed_origin = \"https://a/\": must be origins such as https://console.example.org, or *, separated by commas",
        ),
        (
            "[cors]\nallow_methods = GET, a b",
            "allow_methods = \"GET, a b\": must be HTTP methods, separated by commas",
        ),
        (
            "[cors]\nexpose_headers = X-Ok, ü",
            "expose_headers = \"X-Ok, ü\": must be names of headers, separated by commas",
        ),
        (
            "[notification]\nsmtp_mode = self_local",
            "smtp_mode = \"self_local\": must be third_part unless smtp_host is set",
        ),
        (
            "[notification]\nsubscription_confirmation_email_template = topic:T,body:B",
            "subscription_confirmation_email_template = \"topic:T,body:B\": must be topic:…,body:…,sender:… in any order",
        ),
        (
            "[notification]\nunsubscribe_confirmation_email_template = topic:T,body:{3},sender:S",
            "unsubscribe_confirmation_email_template = \"topic:T,body:{3},sender:S\": must be a template without braces other than {0}, {1} and {2}",
        ),
    ];
    for (text, expected) in table {
        let section = &text[..=text.find(']').unwrap()];
        assert_eq!(problems(text), [format!("zaqar.conf:2: {section} {expected}")], "{text}");
    }
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text =
        "[transport]\nmax_claim_ttl = x\n[DEFAULT]\npooling = 2\n[signed_url]\nsecret_key = a$b\n";
    assert_eq!(
        problems(text),
        [
            "zaqar.conf:2: [transport] max_claim_ttl = \"x\": must be an integer from 60 to 2147483647",
            "zaqar.conf:4: [DEFAULT] pooling = \"2\": must be a boolean: true, yes, on, 1 or false, no, off, 0",
            "zaqar.conf:6: [signed_url] secret_key: ${***} names no option; write $$ for a dollar sign",
        ]
    );
}

#[test]
fn options_without_effect_cause_warnings() {
    let table: &[(&str, &[&str])] = &[
        (
            "[transport]\nmax_mesage_ttl = 60",
            &[
                "2: [transport] max_mesage_ttl is no option of this server; did you mean max_message_ttl?",
            ],
        ),
        (
            "[transport]\nadmin_mode = true",
            &[
                "2: [transport] admin_mode is no option of this server; did you mean [DEFAULT] admin_mode?",
            ],
        ),
        ("[transport]\ncolour = red", &["2: [transport] colour is no option of this server"]),
        (
            "[drivers:transport:websocket]\nnotification-port = 1",
            &[
                "2: [drivers:transport:websocket] notification-port is no option of this server; did you mean notification_port?",
            ],
        ),
        (
            "[default]\ndebug = true",
            &["1: [default] is no section of this server; did you mean [DEFAULT]?"],
        ),
        ("[nothing-like-it]\na = 1\nb = 2", &["1: [nothing-like-it] is no section of this server"]),
        (
            "[cache]\nenabled = true",
            &["2: [cache] enabled has no effect: the server caches in its own memory"],
        ),
        (
            "[oslo_messaging_rabbit]\nssl = true",
            &["2: [oslo_messaging_rabbit] ssl has no effect: the server has no message bus"],
        ),
        (
            "[DEFAULT]\nsharding = true\nadmin_mode = true",
            &["2: [DEFAULT] sharding is an old name; write pooling"],
        ),
        (
            "[transport]\nmax_message_ttl = 600",
            &["2: [transport] default_message_ttl (3600) is above max_message_ttl (600)"],
        ),
        (
            "[drivers:transport:websocket]\nnotification_bind = ::",
            &[
                "2: [drivers:transport:websocket] notification_bind has no effect: pushes reach every server through the store, without a port of their own",
            ],
        ),
        (
            "[drivers:message_store:swift]\n#uri =\n[storage]\nqueue_pipeline = zaqar.extraspec.tasks.messagecode",
            &[
                "4: [storage] queue_pipeline has no effect: zaqar.extraspec stages are skipped: this server does not read the header EXTRA-SPEC",
            ],
        ),
        ("[TRANSPORT]\nmax_message_ttl = 6000\n[cors]\n[drivers:message_store:redis]", &[]),
    ];
    for (text, expected) in table {
        let expected: Vec<_> = expected.iter().map(|line| format!("zaqar.conf:{line}")).collect();
        assert_eq!(warnings(text), expected, "{text}");
    }
}

#[test]
fn a_driver_that_is_not_built_in_reads_no_options() {
    let text = "[drivers:message_store:redis]\nuri = x\n[drivers:transport:websocket]\nport = 1\n\
                [drivers]\nmessage_store = embedded\nmanagement_store = embedded\n";
    assert_eq!(warnings(text), Vec::<String>::new());
    let registered = Registered::default()
        .stage("zaqar.notification.notifier")
        .transport("wsgi", known::WSGI)
        .message_store("embedded", &[])
        .management_store("embedded", &[]);
    let loaded = read_with(&registered, text).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "zaqar.conf:1: [drivers:message_store:redis] is no section of this server; did you mean [drivers:message_store:swift]?",
            "zaqar.conf:3: [drivers:transport:websocket] is no section of this server; did you mean [drivers:transport:wsgi]?",
        ]
    );
}

#[test]
fn an_old_name_applies_unless_the_new_one_is_in_the_same_file() {
    assert!(settings("[DEFAULT]\nsharding = true").pooling);
    assert!(!settings("[DEFAULT]\npooling = false\nsharding = true").pooling);
}

/// Lines that are nearly valid, which find more than random bytes do.
fn nearly_ini() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("[DEFAULT]".to_owned()),
        Just("[drivers]".to_owned()),
        Just("[transport]".to_owned()),
        "\\[[a-z:]{0,12}\\]?",
        "(debug|storage|message_store|transport|log_file|max_claim_ttl) ?[=:] ?[$a-z0-9_{}.\"',-]{0,16}",
        "[ \t]{0,2}.{0,12}",
    ];
    proptest::collection::vec(line, 0..24).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = ini::parse(&Arc::from("zaqar.conf"), &bytes);
    }

    #[test]
    fn nearly_valid_configurations_are_read_or_refused_with_a_reason(text in nearly_ini()) {
        match read(&text) {
            Ok(loaded) => prop_assert!(!loaded.settings.drivers.transports.is_empty()),
            Err(problems) => prop_assert!(!problems.is_empty() && problems.iter().all(|p| p.contains(": "))),
        }
    }
}
