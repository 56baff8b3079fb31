//! Which stores run, and that a configured store is never passed over in silence.

use super::{problems, read, settings};

fn picked(text: &str) -> (String, String) {
    let drivers = settings(text).drivers;
    (drivers.message_store, drivers.management_store)
}

#[test]
fn named_stores_are_used() {
    let table = [
        ("", ("embedded", "embedded")),
        ("message_store = redis\nmanagement_store = mongodb", ("redis", "mongodb")),
        ("message_store = mongodb.fifo\nmanagement_store = mongodb", ("mongodb", "mongodb")),
        ("storage = redis\nmanagement_store = redis", ("redis", "redis")),
        ("message_store = embedded", ("embedded", "embedded")),
        ("message_store = embedded\nmanagement_store = redis", ("embedded", "redis")),
        (
            "[drivers:message_store:embedded]\npath = /a\n[drivers:message_store:redis]\n#uri =",
            ("embedded", "embedded"),
        ),
    ];
    for (text, (message, management)) in table {
        let found = picked(&format!("[drivers]\n{text}"));
        assert_eq!(found, (message.to_owned(), management.to_owned()), "{text}");
    }
}

#[test]
fn the_embedded_section_of_the_role_that_is_embedded_counts() {
    let sections = "[drivers:message_store:embedded]\npath = /a\n[drivers:management_store:embedded]\npath = /b\n";
    let path = |drivers: &str| {
        let text = format!("{sections}[drivers]\n{drivers}");
        read(&text).unwrap().settings.embedded.map(|embedded| embedded.path.display().to_string())
    };
    assert_eq!(path("").as_deref(), Some("/a"));
    assert_eq!(path("message_store = embedded\nmanagement_store = redis").as_deref(), Some("/a"));
    assert_eq!(path("message_store = redis\nmanagement_store = embedded").as_deref(), Some("/b"));
    assert_eq!(path("message_store = redis\nmanagement_store = redis"), None);
}

#[test]
fn a_configured_store_must_be_named() {
    let redis = "[drivers:message_store:redis]\nuri = redis://h\n";
    let mongodb = "[drivers:management_store:mongodb]\nuri = mongodb://h\n";
    let swift = "[drivers:message_store:swift]\nuri = swift://h\n";
    let table = [
        (
            redis.to_owned(),
            "1: [drivers:message_store:redis] configures a store, but [drivers] names no store",
            ("redis", "redis"),
        ),
        (
            format!("{redis}{mongodb}"),
            "1: [drivers:message_store:redis] configures a store, but [drivers] names no store",
            ("redis", "mongodb"),
        ),
        (
            format!("{mongodb}[drivers]\nmessage_store = redis"),
            "1: [drivers:management_store:mongodb] configures a store, but [drivers] names no management_store",
            ("redis", "mongodb"),
        ),
        (
            format!("{mongodb}[drivers]\nmessage_store = embedded"),
            "1: [drivers:management_store:mongodb] configures a store, but [drivers] names no management_store",
            ("embedded", "mongodb"),
        ),
        (
            "[drivers]\nmessage_store = mongodb.fifo".to_owned(),
            "2: [drivers] message_store is mongodb.fifo, but [drivers] names no management_store",
            ("mongodb", "mongodb"),
        ),
        (
            "[drivers]\nmanagement_store = redis".to_owned(),
            "2: [drivers] management_store is redis, but [drivers] names no message_store",
            ("redis", "redis"),
        ),
        (
            swift.to_owned(),
            "1: [drivers:message_store:swift] configures a store, but [drivers] names no store",
            ("redis", "redis"),
        ),
    ];
    for (text, expected, (message, management)) in table {
        let expected = format!(
            "zaqar.conf:{expected}; add to [drivers]:\n  message_store = {message}\n  management_store = {management}"
        );
        assert_eq!(problems(&text), [expected], "{text}");
    }
}

#[test]
fn stores_that_are_not_offered_are_refused() {
    let both = "[drivers]\nmessage_store = swift\nmanagement_store = sqlalchemy\n";
    assert_eq!(
        problems(both),
        [
            "zaqar.conf:2: [drivers] message_store = swift: this store is not supported; use embedded or redis or mongodb",
            "zaqar.conf:3: [drivers] management_store = sqlalchemy: this store is not supported; use embedded or redis or mongodb",
        ]
    );
    assert_eq!(
        problems("[drivers]\nmessage_store = reddis\nmanagement_store = redis"),
        [
            "zaqar.conf:2: [drivers] message_store = \"reddis\": must be one of: embedded, redis, mongodb"
        ]
    );
    assert_eq!(
        problems("[drivers]\nmessage_store = redis\nmanagement_store = mongodb.fifo"),
        [
            "zaqar.conf:3: [drivers] management_store = \"mongodb.fifo\": must be one of: embedded, redis, mongodb"
        ]
    );
}

#[test]
fn registered_names_can_be_picked_and_read_their_own_section() {
    let path = std::sync::Arc::from("zaqar.conf");
    let mut raw = super::Raw::default();
    let text = "[drivers]\ntransport = amqp\nmessage_store = mine\nmanagement_store = embedded\n\
                [drivers:message_store:mine]\nanything = 7\n[drivers:message_store:other]\na = 1\n";
    raw.add(&path, super::ini::parse(&path, text.as_bytes()).unwrap());
    let registered = super::Registered::default().transport("amqp").message_store("mine");
    let sections = registered.sections();
    let loaded = super::super::type_check(raw, &registered, &sections).unwrap();
    assert_eq!(loaded.settings.drivers.message_store, "mine");
    assert_eq!(loaded.settings.drivers.transports, ["amqp"]);
    let mine = loaded.settings.driver_section("drivers:message_store:mine");
    assert_eq!(mine.integer("anything", 0..=9).unwrap(), Some(7));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("zaqar.conf:7: [drivers:message_store:other] is no section"));
}
