//! The choice of stores, and that a configured store is never ignored silently.

use super::{problems, read, read_with, settings};
use crate::Registry;
use crate::config::known::{Known, integer, unset};

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
            ("mongodb", "mongodb"),
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
fn a_configured_store_must_exist() {
    let redis = "[drivers:message_store:redis2]\nuri = redis://h\n";
    let expected = "zaqar.conf:1: [drivers:message_store:redis2] configures a store that this server \
                    does not have: its name must be one of: embedded, mongodb, redis";
    assert_eq!(problems(redis), [expected]);
    // Beside the store that is used, it is only a mistake.
    read(&format!("{redis}[drivers]\nmessage_store = redis\nmanagement_store = redis")).unwrap();
}

#[test]
fn stores_that_are_not_offered_are_refused() {
    let both = "[drivers]\nmessage_store = swift\nmanagement_store = sqlalchemy\n";
    assert_eq!(
        problems(both),
        [
            "zaqar.conf:2: [drivers] message_store = swift: this store is not supported; use embedded or mongodb or redis",
            "zaqar.conf:3: [drivers] management_store = sqlalchemy: this store is not supported; use embedded or mongodb or redis",
        ]
    );
    assert_eq!(
        problems("[drivers]\nmessage_store = reddis\nmanagement_store = redis"),
        [
            "zaqar.conf:2: [drivers] message_store = \"reddis\": must be one of: embedded, mongodb, redis"
        ]
    );
    assert_eq!(
        problems("[drivers]\nmessage_store = redis\nmanagement_store = mongodb.fifo"),
        [
            "zaqar.conf:3: [drivers] management_store = \"mongodb.fifo\": must be one of: embedded, mongodb, redis"
        ]
    );
}

/// As DevStack and openstack-helm configure it: rejecting it would require an edit for each
/// migration.
#[test]
fn a_shared_message_store_takes_the_place_of_the_sql_database() {
    let text = "[drivers]\nmessage_store = redis\nmanagement_store = sqlalchemy\n\
                [drivers:management_store:sqlalchemy]\nuri = mysql+pymysql://zaqar:secret@db/zaqar\n";
    let loaded = read(text).unwrap();
    assert_eq!(loaded.settings.drivers.management_store, "redis");
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings[0].contains("the SQL database is not read"), "{warnings:?}");
    assert!(!warnings.concat().contains("secret"), "{warnings:?}");
    let embedded = text.replace("= redis", "= embedded");
    assert!(problems(&embedded)[0].contains("management_store = sqlalchemy"), "{embedded}");
}

#[test]
fn registered_names_can_be_picked_and_read_their_own_section() {
    const OPTIONS: &[Known] = &[integer("anything", "1", 0, 9), unset("access_token").secret()];
    let text = "[drivers]\ntransport = amqp\nmessage_store = mine\nmanagement_store = embedded\n\
                [drivers:message_store:mine]\nanything = 7\nanythign = 7\naccess_token = hidden\n\
                [drivers:transport:amqp]\nhots = h\n[drivers:message_store:other]\na = 1\n";
    let registered =
        Registry::default().registered().transport("amqp", &[]).message_store("mine", OPTIONS);
    let loaded = read_with(&registered, text).unwrap();
    assert_eq!(loaded.settings.drivers.message_store, "mine");
    assert_eq!(loaded.settings.drivers.transports, ["amqp"]);
    let mine = loaded.settings.driver_section("drivers:message_store:mine");
    assert_eq!(mine.number_of(&OPTIONS[0]).unwrap(), 7);
    assert!(!format!("{:?}", loaded.settings.raw()).contains("hidden"));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "7: [drivers:message_store:mine] anythign is no option of this server; \
         did you mean anything?",
        "10: [drivers:transport:amqp] hots is no option of this server",
        "11: [drivers:message_store:other] is no section of this server; \
         did you mean [drivers:message_store:mine]?",
    ];
    assert_eq!(warnings, expected.map(|text| format!("zaqar.conf:{text}")));
}
