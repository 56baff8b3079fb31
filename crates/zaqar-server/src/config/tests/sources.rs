//! Files, directories, variables and flags, and which of them wins.

use std::fs;
use std::sync::Arc;

use super::super::raw::Raw;
use super::super::{Environment, Layer, Sources, ini, load};
use super::{messages, read, registered, settings};

/// Files below a temporary directory, loaded with variables and flags.
pub(super) struct Host(pub(super) tempfile::TempDir);

impl Host {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = host.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        host
    }

    pub(super) fn sources(
        &self,
        files: &[&str],
        dirs: &[&str],
        variables: &[(&str, &str)],
    ) -> Sources {
        let paths = |names: &[&str]| names.iter().map(|name| self.0.path().join(name)).collect();
        let environment = Environment::new(variables.iter().copied());
        Sources { files: paths(files), dirs: paths(dirs), environment, flags: Vec::new() }
    }

    /// Error messages, with paths relative to the directory.
    fn problems(&self, sources: &Sources) -> Vec<String> {
        let root = format!("{}/", self.0.path().display());
        let errors = load(sources, &registered()).unwrap_err();
        messages(&errors).iter().map(|message| message.replace(&root, "")).collect()
    }
}

#[test]
fn files_then_directories_then_variables_then_flags_win() {
    let port = |n: u16| format!("[drivers:transport:wsgi]\nport = {n}\n");
    let host = Host::new(&[
        ("a.conf", &port(1)),
        ("b.conf", &port(2)),
        ("d/2.conf", &port(4)),
        ("d/1.conf", &port(3)),
        ("d/ignored.txt", "nonsense"),
    ]);
    let variable = ("OS_DRIVERS_TRANSPORT_WSGI__PORT", "5");
    let flag = |sources: Sources| sources.flag("--port", "drivers:transport:wsgi", "port", "6");
    let table = [
        (host.sources(&["a.conf"], &["empty"], &[]), 1),
        (host.sources(&["a.conf", "b.conf"], &["empty"], &[]), 2),
        (host.sources(&["b.conf", "a.conf"], &["empty"], &[]), 1),
        (host.sources(&["a.conf"], &["d"], &[]), 4),
        (host.sources(&["a.conf"], &["d"], &[variable]), 5),
        (flag(host.sources(&["a.conf"], &["d"], &[variable])), 6),
    ];
    fs::create_dir(host.0.path().join("empty")).unwrap();
    for (sources, expected) in table {
        let loaded = load(&sources, &registered()).unwrap();
        assert_eq!(loaded.settings.wsgi.port, expected, "{sources:?}");
    }
}

#[test]
fn problems_of_all_origins_are_named() {
    let host = Host::new(&[
        ("a.conf", "[DEFAULT]\ndebug = x\n"),
        ("bad.conf", "[DEFAULT\n"),
        ("d/.x", ""),
    ]);
    let values = host.sources(&["a.conf"], &["d"], &[("OS_TRANSPORT__MAX_CLAIM_TTL", "1")]).flag(
        "--admin_mode",
        "DEFAULT",
        "admin_mode",
        "perhaps",
    );
    assert_eq!(
        host.problems(&values),
        [
            "a.conf:2: [DEFAULT] debug = \"x\": must be a boolean: true, yes, on, 1 or false, no, off, 0",
            "environment variable OS_TRANSPORT__MAX_CLAIM_TTL: [transport] max_claim_ttl = \"1\": must be an integer from 60 to 2147483647",
            "command line --admin_mode: [DEFAULT] admin_mode = \"perhaps\": must be a boolean: true, yes, on, 1 or false, no, off, 0",
        ]
    );
    assert_eq!(
        host.problems(&host.sources(&["none.conf", "bad.conf"], &["d"], &[])),
        [
            "none.conf: cannot be read: No such file or directory (os error 2)",
            "bad.conf:1: a section header must end with ]",
        ]
    );
}

#[test]
fn secrets_are_printed_nowhere() {
    let loaded = read(
        "[signed_url]\nsecret_key = hunter2\n[transport]\nmessage_encryption_key = hunter2\n\
         [keystone_authtoken]\npassword = hunter2\n[notification]\nsmtp_user_password = hunter2\n\
         smtp_mode = self_local\nsmtp_host = h\n",
    )
    .unwrap();
    let shown: Vec<_> = loaded.settings.raw().shown().collect();
    let printed =
        format!("{loaded:?} {shown:?} {:?}", loaded.settings.driver_section("signed_url"));
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("self_local"), "{printed}");
    let environment = Environment::new([("OS_SIGNED_URL__SECRET_KEY", "hunter2")]);
    assert!(!format!("{environment:?}").contains("hunter2"));
}

#[test]
fn passwords_of_urls_are_masked_in_any_value() {
    for (value, shown) in [
        ("http://u:p@h/a:b@c", "http://u:***@h/a:b@c"),
        ("http://:p@h, https://v:q:r@i:1", "http://:***@h, https://v:***@i:1"),
        ("http://p@h?x=y@z", "http://***@h?x=y@z"),
        ("http://u:a@b@h", "http://u:***@h"),
        ("http://h:80/", "http://h:80/"),
        ("mailto:a@b", "mailto:a@b"),
        ("a://", "a://"),
    ] {
        let settings = settings(&format!("[notification]\nsmtp_command = {value}\n"));
        let found: Vec<_> = settings.raw().shown().map(|shown| shown.value).collect();
        assert_eq!(found, [format!("{shown:?}")], "{value}");
        let (_, _, effective) = settings.raw().effective().next().unwrap();
        assert_eq!(effective, shown, "{value}");
    }
}

#[test]
fn printed_settings_have_no_passwords_of_urls() {
    let (keystone, collector) = ("http://u:hunter2@k/v3", "http://u:hunter2@c:4318");
    let settings = settings(&format!(
        "[keystone_authtoken]\nauth_url = {keystone}\n[traces]\notlp_endpoint = {collector}\n"
    ));
    let printed = format!("{settings:?}");
    assert!(!printed.contains("hunter2") && printed.contains("4318"), "{printed}");
}

#[test]
fn a_report_shows_effective_values_and_their_origin() {
    let settings = settings("[DEFAULT]\ndebug = no\ndebug = yes\n[signed_url]\nsecret_key = x\n");
    let shown: Vec<_> = settings
        .raw()
        .shown()
        .map(|shown| {
            format!("[{}] {} = {} ({})", shown.section, shown.option, shown.value, shown.origin)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "[DEFAULT] debug = \"yes\" (zaqar.conf:3)",
            "[signed_url] secret_key = *** (zaqar.conf:5)",
        ]
    );
}

#[test]
fn serde_sees_the_merged_texts_with_their_origins() {
    #[derive(Debug, serde::Deserialize)]
    struct Mine {
        #[serde(rename = "DEFAULT")]
        default: Default,
        cache: Cache,
    }
    #[derive(Debug, serde::Deserialize)]
    struct Default {
        debug: bool,
        log_file: String,
    }
    #[derive(Debug, serde::Deserialize)]
    struct Cache {
        backend_argument: Vec<String>,
    }
    let mine = |debug: &str| {
        let text = format!(
            "[DEFAULT]\ndebug = false\ndebug = {debug}\nlog_file = $log_dir/z\nlog_dir = /l\n\
             [cache]\nbackend_argument = a:1\nbackend_argument = b:2\n"
        );
        let path = Arc::from("zaqar.conf");
        let mut raw = Raw::default();
        raw.add(&path, ini::parse(&path, text.as_bytes()).unwrap());
        let source = Layer::new(&Arc::new(raw));
        config::Config::builder().add_source(source).build().unwrap().try_deserialize::<Mine>()
    };
    let good = mine("true").unwrap();
    assert!(good.default.debug);
    assert_eq!(good.default.log_file, "/l/z");
    assert_eq!(good.cache.backend_argument, ["a:1", "b:2"]);
    let bad = mine("maybe").unwrap_err().to_string();
    assert!(bad.contains("\"maybe\"") && bad.contains("zaqar.conf:3"), "{bad}");
}
