//! Queue rows: every line of [`zaqar_core::storage::Queues`].

use serde_json::{Value, json};
use zaqar_core::storage::{QueueRow, Queues};
use zaqar_core::{
    Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName, Version,
};

use super::at_once;
use crate::kit::{Kit, generation, key};

pub(crate) fn row(value: Value) -> QueueRow {
    let Value::Object(object) = value else { panic!("metadata is an object") };
    QueueRow { generation: generation(1), metadata: Metadata::new(object) }
}

async fn create(kit: &Kit, key: &QueueKey, row: &QueueRow) -> Option<QueueRow> {
    kit.rows().create(key, row).await.expect("create answers")
}

async fn get(kit: &Kit, key: &QueueKey) -> Option<QueueRow> {
    Queues::get(kit.rows(), key).await.expect("get answers")
}

async fn replace(kit: &Kit, key: &QueueKey, expected: Generation, row: &QueueRow) -> bool {
    kit.rows().replace(key, expected, row).await.expect("replace answers")
}

async fn remove(kit: &Kit, key: &QueueKey, incarnation: Incarnation) -> bool {
    kit.rows().remove(key, incarnation).await.expect("remove answers")
}

async fn page(kit: &Kit, kind: Kind, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(|name| QueueName::new(name).expect("a test names its queues well"));
    let rows = Queues::list(kit.rows(), &kit.project(), kind, after.as_ref(), limit).await;
    rows.expect("list answers").into_iter().map(|(name, _)| name.as_str().to_owned()).collect()
}

async fn count(kit: &Kit, project: &ProjectId, kind: Kind) -> u64 {
    kit.rows().count(project, kind).await.expect("count answers")
}

/// `create`: "No row: `row` is stored; `None`."
pub(crate) async fn create_stores_the_row(kit: &mut Kit) {
    let (key, row) = (kit.key("q"), row(json!({"a": 1})));
    assert_eq!(get(kit, &key).await, None, "there is no row before it is created");
    assert_eq!(create(kit, &key, &row).await, None);
    assert_eq!(get(kit, &key).await, Some(row));
}

/// `create`: "A row exists: it does not change and is returned."
pub(crate) async fn create_does_not_change_an_existing_row(kit: &mut Kit) {
    let (key, first) = (kit.key("q"), row(json!({"a": 1})));
    create(kit, &key, &first).await;
    let second = row(json!({"b": 2}));
    assert_eq!(create(kit, &key, &second).await, Some(first.clone()));
    assert_eq!(get(kit, &key).await, Some(first));
}

/// `create`: "If two callers race, one creates the row."
pub(crate) async fn one_of_many_creators_creates(kit: &mut Kit) {
    for round in 0..5 {
        let key = kit.key(&format!("q{round}"));
        let creators = (0..8).map(|n| {
            let (rows, key, row) = (kit.rows_for_task(), key.clone(), row(json!({"n": n})));
            async move {
                let there = rows.create(&key, &row).await.expect("create answers");
                (row, there)
            }
        });
        let answers = at_once(creators).await;
        let created: Vec<_> =
            answers.iter().filter(|(_, there)| there.is_none()).map(|(row, _)| row).collect();
        assert_eq!(created.len(), 1, "one of many creators creates");
        for (_, there) in &answers {
            assert!(there.is_none() || there.as_ref() == Some(created[0]), "others get its row");
        }
        assert_eq!(get(kit, &key).await.as_ref(), Some(created[0]));
    }
}

/// `get`: "Returns the result of the last finished change".
pub(crate) async fn get_returns_the_last_finished_change(kit: &mut Kit) {
    let (key, first) = (kit.key("q"), row(json!({"a": 1})));
    create(kit, &key, &first).await;
    let mut last = first.clone();
    for n in 0..5 {
        let version = last.generation.version.next();
        let next = QueueRow {
            generation: Generation { version, ..last.generation },
            metadata: row(json!({"n": n})).metadata,
        };
        assert!(replace(kit, &key, last.generation, &next).await);
        assert_eq!(get(kit, &key).await.as_ref(), Some(&next));
        last = next;
    }
    assert!(remove(kit, &key, first.generation.incarnation).await);
    assert_eq!(get(kit, &key).await, None);
}

/// `create`, `get`, `list`: "`row` is stored", whatever its metadata.
pub(crate) async fn metadata_round_trips(kit: &mut Kit) {
    let documents = [
        json!({}),
        json!({"zebra": 1, "apple": 2, "Mango": 3, "": 4, "_max_claim_count": null}),
        json!({"with.dot": {"$set": 1, "a.b": [1, 2.5, -0.5, 1e300, true, null, {"$x": "\u{0}"}]}}),
        json!({"least": i64::MIN, "most": i64::MAX, "precise": 9_007_199_254_740_993_i64}),
        json!({"ünïcødé ☃ 🦀": "\"quotes\", \\ and \n lines", "'": "'; DROP TABLE queues; --"}),
        json!({"large": "x".repeat(60_000)}),
    ];
    for (n, document) in documents.into_iter().enumerate() {
        let (key, row) = (kit.key(&format!("q{n}")), row(document));
        create(kit, &key, &row).await;
        let there = get(kit, &key).await.expect("a created row is there");
        assert_eq!(there.metadata.to_json(), row.metadata.to_json(), "same text, same order");
        let listed = Queues::list(kit.rows(), &kit.project(), Kind::Queue, None, 100).await;
        assert!(
            listed.expect("list answers").contains(&(key.name, row)),
            "list returns it as well"
        );
    }
}

/// `QueueRow::generation`: numbers up to `i64::MAX` are lossless.
pub(crate) async fn generations_of_any_size_round_trip(kit: &mut Kit) {
    for (n, number) in [0, 1, (1 << 53) + 1, i64::MAX as u64].into_iter().enumerate() {
        let generation =
            Generation { incarnation: Incarnation::new(number), version: Version::new(number) };
        let (key, row) = (kit.key(&format!("q{n}")), QueueRow { generation, ..row(json!({})) });
        create(kit, &key, &row).await;
        assert_eq!(get(kit, &key).await, Some(row.clone()));
        assert!(replace(kit, &key, generation, &row).await, "compared without loss");
        assert!(remove(kit, &key, generation.incarnation).await, "compared without loss");
    }
}

/// `replace`: "The row has `expected`: `row` replaces it; `true`"; "another generation: nothing
/// changes; `false`".
pub(crate) async fn replace_needs_the_generation(kit: &mut Kit) {
    let (key, first) = (kit.key("q"), row(json!({"a": 1})));
    create(kit, &key, &first).await;
    let version = first.generation.version.next();
    let newer = Generation { version, ..first.generation };
    let second = QueueRow { generation: newer, ..row(json!({"b": 2})) };
    for wrong in [newer, Generation { incarnation: Incarnation::new(7), ..first.generation }] {
        assert!(!replace(kit, &key, wrong, &second).await);
        assert_eq!(get(kit, &key).await.as_ref(), Some(&first));
    }
    assert!(replace(kit, &key, first.generation, &second).await);
    assert_eq!(get(kit, &key).await.as_ref(), Some(&second));
    assert!(!replace(kit, &key, first.generation, &first).await, "that generation is gone");
    assert_eq!(get(kit, &key).await, Some(second));
}

/// `replace`: "No row …: nothing changes; `false`".
pub(crate) async fn replace_changes_nothing_without_a_row(kit: &mut Kit) {
    let (key, row) = (kit.key("q"), row(json!({})));
    assert!(!replace(kit, &key, row.generation, &row).await);
    assert_eq!(get(kit, &key).await, None);
    assert_eq!(count(kit, &kit.project(), Kind::Queue).await, 0);
}

/// `replace`: "If two callers with the same expectation race, one succeeds."
pub(crate) async fn one_of_many_replacers_replaces(kit: &mut Kit) {
    let (key, mut last) = (kit.key("q"), row(json!({})));
    create(kit, &key, &last).await;
    for _ in 0..5 {
        let expected = last.generation;
        let replacers = (0..8).map(|n| {
            let (rows, key) = (kit.rows_for_task(), key.clone());
            let version = expected.version.next();
            let row =
                QueueRow { generation: Generation { version, ..expected }, ..row(json!({"n": n})) };
            async move {
                rows.replace(&key, expected, &row).await.expect("replace answers").then_some(row)
            }
        });
        let replaced: Vec<_> = at_once(replacers).await.into_iter().flatten().collect();
        assert_eq!(replaced.len(), 1, "one of many replacers replaces");
        last = get(kit, &key).await.expect("the row is there");
        assert_eq!(last, replaced[0]);
    }
}

/// `remove`: "The row belongs to `incarnation`: it is removed; `true`", "whatever its version";
/// otherwise "nothing changes; `false`".
pub(crate) async fn remove_needs_the_incarnation(kit: &mut Kit) {
    let (key, first) = (kit.key("q"), row(json!({"a": 1})));
    let incarnation = first.generation.incarnation;
    assert!(!remove(kit, &key, incarnation).await, "there is no row");
    create(kit, &key, &first).await;
    assert!(!remove(kit, &key, generation(1).incarnation).await);
    assert_eq!(get(kit, &key).await.as_ref(), Some(&first));
    let version = first.generation.version.next();
    let second = QueueRow { generation: Generation { incarnation, version }, ..first.clone() };
    assert!(replace(kit, &key, first.generation, &second).await);
    assert!(remove(kit, &key, incarnation).await);
    assert_eq!(get(kit, &key).await, None);
    assert!(!remove(kit, &key, incarnation).await, "it is removed already");
}

/// `create` after `remove`: "No row: `row` is stored; `None`."
pub(crate) async fn a_removed_row_can_be_created_again(kit: &mut Kit) {
    let (key, first, second) = (kit.key("q"), row(json!({"a": 1})), row(json!({"b": 2})));
    create(kit, &key, &first).await;
    remove(kit, &key, first.generation.incarnation).await;
    assert_eq!(create(kit, &key, &second).await, None);
    assert!(!remove(kit, &key, first.generation.incarnation).await, "of another incarnation");
    assert_eq!(get(kit, &key).await, Some(second));
    assert_eq!(page(kit, Kind::Queue, None, 10).await, ["q"]);
}

const NAMES: [&str; 14] =
    ["-", ".", "..", "10", "2", "A", "B", "Z9", "_x", "a", "a-b", "a.b", "ab", "b"];

async fn create_names(kit: &Kit) {
    for n in 0..NAMES.len() {
        // 5 and 14 have no common factor: a fixed order that is not sorted.
        let name = NAMES[n * 5 % NAMES.len()];
        create(kit, &kit.key(name), &row(json!({"name": name}))).await;
    }
}

/// `list`: "by name, ascending by byte"; each name has its own row.
pub(crate) async fn list_is_ascending_by_byte(kit: &mut Kit) {
    create_names(kit).await;
    assert_eq!(page(kit, Kind::Queue, None, 100).await, NAMES);
    let rows = Queues::list(kit.rows(), &kit.project(), Kind::Queue, None, 100).await;
    for (name, there) in rows.expect("list answers") {
        assert_eq!(there.metadata.as_object().get("name"), Some(&json!(name.as_str())));
    }
}

/// `list`: "Begins with the first name greater than `after`, which need not exist."
pub(crate) async fn list_begins_after_any_name(kit: &mut Kit) {
    create_names(kit).await;
    for (after, first) in [
        ("-", "."),
        ("--", "."),
        ("1", "10"),
        ("100", "2"),
        ("ZZ", "_x"),
        ("a-b", "a.b"),
        ("aa", "ab"),
    ] {
        assert_eq!(page(kit, Kind::Queue, Some(after), 1).await, [first], "after {after}");
    }
    assert!(page(kit, Kind::Queue, Some("b"), 10).await.is_empty(), "nothing comes after the last");
    assert!(page(kit, Kind::Queue, Some("zzz"), 10).await.is_empty());
}

/// `list`: "At most `limit` rows; fewer only at the end."
pub(crate) async fn list_pages_are_full_until_the_end(kit: &mut Kit) {
    create_names(kit).await;
    for limit in [1, 3, 13, 14, 15] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let page = page(kit, Kind::Queue, seen.last().map(String::as_str), limit).await;
            assert_eq!(
                page.len(),
                limit.min(NAMES.len().saturating_sub(seen.len())),
                "pages of {limit}"
            );
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen, NAMES);
    }
}

/// `list`: "rows of one project and kind".
pub(crate) async fn list_is_of_one_project_and_kind(kit: &mut Kit) {
    let other = ProjectId::new(&format!("{}x", kit.tag)).expect("a project id");
    for at in [
        kit.key("queue"),
        kit.key_of(Kind::Topic, "topic"),
        key(other.clone(), Kind::Queue, "others_queue"),
        key(other, Kind::Topic, "others_topic"),
    ] {
        create(kit, &at, &row(json!({}))).await;
    }
    assert_eq!(page(kit, Kind::Queue, None, 10).await, ["queue"]);
    assert_eq!(page(kit, Kind::Topic, None, 10).await, ["topic"]);
}

/// `count`: "Counts the rows that `list` would return over all pages."
pub(crate) async fn count_equals_the_list(kit: &mut Kit) {
    let project = kit.project();
    assert_eq!(count(kit, &project, Kind::Queue).await, 0);
    create_names(kit).await;
    let topic = row(json!({}));
    create(kit, &kit.key_of(Kind::Topic, "t"), &topic).await;
    create(kit, &kit.key("a"), &row(json!({}))).await;
    assert_eq!(count(kit, &project, Kind::Queue).await, NAMES.len() as u64);
    assert_eq!(count(kit, &project, Kind::Topic).await, 1);
    assert!(!remove(kit, &kit.key_of(Kind::Topic, "t"), generation(1).incarnation).await);
    assert_eq!(count(kit, &project, Kind::Topic).await, 1, "nothing was removed");
    assert!(remove(kit, &kit.key_of(Kind::Topic, "t"), topic.generation.incarnation).await);
    assert_eq!(count(kit, &project, Kind::Topic).await, 0);
    let other = ProjectId::new(&format!("{}x", kit.tag)).expect("a project id");
    assert_eq!(count(kit, &other, Kind::Queue).await, 0);
}
