//! Queues are identified by project, kind and name, and nothing is found by a bare id:
//! [`zaqar_core::QueueKey`].

use serde_json::json;
use zaqar_core::storage::{Deletable, Deleted, Guarded, ListQuery, QueueRow, Queues};
use zaqar_core::{Generation, Kind, Metadata, ProjectId, QueueKey};

use super::queues::row;
use crate::kit::{Kit, generation, key};
use crate::queue::{Queue, everything, ids, message, texts};

/// Projects that a store may confuse with one another or with its own separators.
fn projects(kit: &Kit) -> Vec<ProjectId> {
    let tag = &kit.tag;
    let mut texts: Vec<String> = [
        "", "}", "{", "{}", ".", "..", "/", "//", ":", "*", "?", "[a]", "%", "%00", "\0", " ",
        "\t", "\r\n", "'", "\"", "\\", "$", "#", "-", "_", "ä", "☃", "🦀", "e\u{301}", "é",
    ]
    .map(|odd| format!("{tag}{odd}x"))
    .into();
    texts.extend(["{", "}", "$", ".", "/"].map(|odd| format!("{odd}{tag}")));
    texts.push(format!("{{{tag}}}"));
    texts.push(tag.to_uppercase());
    texts.push(format!("{}{tag}", "x".repeat(ProjectId::MAX_CHARS - 32)));
    texts.push(format!("{}{tag}", "x".repeat(ProjectId::MAX_CHARS - 33)));
    texts.push(format!("{tag}{}", "☃".repeat(ProjectId::MAX_CHARS - 32)));
    texts.push(format!("{tag}{}", "☃".repeat(ProjectId::MAX_CHARS - 33)));
    // A tag without a letter has no upper case of its own.
    texts.sort();
    texts.dedup();
    texts.iter().map(|text| ProjectId::new(text).expect("an unusual project id is valid")).collect()
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "a", "A", "b", "a.b", "a-b", "a_b", "ab", "a.", ".a", ".", "..", "-", "--", "_", "0", "00",
        "1", "queue", "topic", "messages",
    ]
    .map(String::from)
    .into();
    names.extend([63, 64].map(|length| "x".repeat(length)));
    names
}

/// Queues with the same generation, so that their ids and positions overlap.
async fn open_alike(kit: &Kit, keys: Vec<QueueKey>) -> Vec<Queue> {
    let generation = generation(1);
    let mut queues = Vec::with_capacity(keys.len());
    for key in keys {
        let queue = kit.queue_at(key, generation);
        assert_eq!(queue.head().await, None, "{} is not open yet", queue.key);
        assert_eq!(queue.open().await, generation);
        queues.push(queue);
    }
    queues
}

/// Changes each queue and checks that the others do not change.
async fn check_apart(kit: &Kit, keys: Vec<QueueKey>) {
    let queues = open_alike(kit, keys).await;
    for (n, queue) in queues.iter().enumerate() {
        let texts = ["claimed", "deleted", "kept"].map(|what| message(&format!("{what} {n}")));
        let p = queue.post_new(texts.into()).await;
        assert_eq!(queue.ids().await, p, "{} holds its own messages only", queue.key);
        let (_, taken) = queue.claim(1).await;
        assert_eq!(ids(&taken), p[..1], "{}", queue.key);
        assert_eq!(queue.delete(p[1], None).await, Deleted::Gone);
    }
    for (n, queue) in queues.iter().enumerate() {
        let expected = ["claimed", "kept"].map(|what| format!("{what} {n}"));
        assert_eq!(texts(&queue.all().await), expected, "{}", queue.key);
        let stats = queue.stats().await;
        assert_eq!((stats.free, stats.claimed), (1, 1), "{}", queue.key);
    }
    let (first, rest) = queues.split_first().expect("there are queues");
    first.purge().await;
    kit.sweep().await;
    for queue in rest {
        assert_eq!(queue.all().await.len(), 2, "a purge of {} empties {}", first.key, queue.key);
    }
    for (n, queue) in queues.iter().enumerate() {
        assert_eq!(queue.close().await, Guarded::Done(()), "{}", queue.key);
        for other in &queues[n + 1..] {
            assert!(other.head().await.is_some(), "closing {} closes {}", queue.key, other.key);
        }
    }
    kit.sweep().await;
}

/// `QueueKey::project`: "1 to 256 characters, any of them".
pub(crate) async fn projects_share_nothing(kit: &mut Kit) {
    let keys = projects(kit).into_iter().map(|project| key(project, Kind::Queue, "q")).collect();
    check_apart(kit, keys).await;
}

/// `Kind`: "a part of the key, so queue `x` and topic `x` are unrelated".
pub(crate) async fn kinds_share_nothing(kit: &mut Kit) {
    let keys = [Kind::Queue, Kind::Topic, Kind::Internal]
        .into_iter()
        .flat_map(|kind| ["x", "queue", "topic"].map(|name| kit.key_of(kind, name)))
        .collect();
    check_apart(kit, keys).await;
}

/// `QueueKey::name`: names that differ only in case or punctuation are different queues.
pub(crate) async fn names_share_nothing(kit: &mut Kit) {
    check_apart(kit, names().iter().map(|name| kit.key(name)).collect()).await;
}

/// `QueueKey`: project, kind and name are not confused when concatenated.
pub(crate) async fn concatenated_names_share_nothing(kit: &mut Kit) {
    let tag = &kit.tag;
    let mut keys = Vec::new();
    for joint in [".", "-", "_", "", "..", "--"] {
        for (project, name) in [
            (tag.clone(), format!("a{joint}b{joint}c")),
            (format!("{tag}{joint}a"), format!("b{joint}c")),
            (format!("{tag}{joint}a{joint}b"), "c".to_owned()),
        ] {
            let project = ProjectId::new(&project).expect("a project id");
            keys.push(key(project.clone(), Kind::Queue, &name));
            keys.push(key(project, Kind::Topic, &name));
        }
    }
    for word in ["queue", "topic"] {
        let project = ProjectId::new(&format!("{tag}.{word}")).expect("a project id");
        keys.push(key(project, Kind::Queue, "q"));
        keys.push(kit.key(&format!("{word}.q")));
        keys.push(kit.key_of(Kind::Topic, &format!("{word}.q")));
    }
    keys.sort();
    keys.dedup();
    check_apart(kit, keys).await;
}

/// `Queues::create`: "Rows of the same name in other projects, or of other kinds, are separate
/// rows."
pub(crate) async fn rows_of_odd_keys_share_nothing(kit: &mut Kit) {
    let mut keys: Vec<_> =
        projects(kit).into_iter().map(|project| key(project, Kind::Queue, "q")).collect();
    keys.extend(names().iter().map(|name| kit.key(name)));
    keys.extend(["q", "a", "A"].map(|name| kit.key_of(Kind::Topic, name)));
    let row_of = |n: usize| QueueRow { generation: generation(n as u64), ..row(json!({"n": n})) };
    let rows: Vec<_> = (0..keys.len()).map(row_of).collect();
    for (key, row) in keys.iter().zip(&rows) {
        assert_eq!(kit.rows().create(key, row).await.expect("create answers"), None, "{key}");
    }
    for (key, row) in keys.iter().zip(&rows) {
        let there = Queues::get(kit.rows(), key).await.expect("get answers");
        assert_eq!(there.as_ref(), Some(row), "{key}");
        let listed = Queues::list(kit.rows(), &key.project, key.kind, None, 100).await;
        let listed = listed.expect("list answers");
        assert!(listed.contains(&(key.name.clone(), row.clone())), "{key}");
        let count = kit.rows().count(&key.project, key.kind).await.expect("count answers");
        assert_eq!(count, listed.len() as u64, "{key}");
        assert!(key.project == kit.project() || count == 1, "{key}");
    }
    for (n, (key, row)) in keys.iter().zip(&rows).enumerate() {
        let next = Generation { version: row.generation.version.next(), ..row.generation };
        let empty = QueueRow { generation: next, metadata: Metadata::default() };
        let replaced = kit.rows().replace(key, row.generation, &empty).await;
        assert!(replaced.expect("replace answers"), "{key}");
        assert!(kit.rows().remove(key, next.incarnation).await.expect("remove answers"), "{key}");
        for (other, row) in keys.iter().zip(&rows).skip(n + 1).take(3) {
            let there = Queues::get(kit.rows(), other).await.expect("get answers");
            assert_eq!(there.as_ref(), Some(row), "removing {key} changes {other}");
        }
    }
}

/// Two queues with the same generation and messages at the same positions.
async fn twins(kit: &Kit) -> (Queue, Queue) {
    let other = ProjectId::new(&format!("{}x", kit.tag)).expect("a project id");
    let keys = vec![kit.key("q"), key(other, Kind::Queue, "q")];
    let queues = open_alike(kit, keys).await;
    (queues[0].clone(), queues[1].clone())
}

/// `get`, `delete`, `delete_many`, `list`: an id belongs to one queue only.
pub(crate) async fn ids_of_another_queue_find_nothing(kit: &mut Kit) {
    let (one, twin) = twins(kit).await;
    let other = kit.queue("other").await;
    let p = one.post(3).await;
    for queue in [&twin, &other] {
        assert_eq!(queue.get(&p).await, []);
        assert_eq!(queue.delete(p[0], None).await, Deleted::Gone);
        queue.delete_many(&p, &Deletable::Any).await;
        assert_eq!(one.ids().await, p);
    }
    let theirs = other.post(2).await;
    let query = ListQuery { after: Some(p[2]), ..everything() };
    assert_eq!(ids(&other.follow(query).await), theirs, "a marker of another queue is ignored");
    assert_eq!(one.get(&theirs).await, []);
}

/// `claim_get`: "or of another queue"; also for renewals, releases and deletes.
pub(crate) async fn claims_of_another_queue_find_nothing(kit: &mut Kit) {
    let (one, twin) = twins(kit).await;
    let other = kit.queue("other").await;
    let p = one.post(2).await;
    let (claim, taken) = one.claim(1).await;
    for queue in [&twin, &other] {
        let theirs = queue.post(2).await;
        assert_eq!(queue.claim_get(claim).await, None);
        assert!(!queue.renew(claim, 1000, 60).await);
        queue.release(claim).await;
        assert_eq!(queue.delete(theirs[0], Some(claim)).await, Deleted::NotClaimed);
        queue.delete_many(&theirs, &Deletable::HeldBy(vec![claim])).await;
        let (own, _) = queue.claim(1).await;
        assert_eq!(queue.delete(theirs[0], Some(claim)).await, Deleted::WrongClaim);
        queue.delete_many(&theirs, &Deletable::HeldBy(vec![claim])).await;
        assert_eq!(queue.ids().await, theirs);
        assert_eq!(one.claim_get(own).await, None);
    }
    let held = one.claim_get(claim).await.expect("the claim is live");
    assert_eq!((held.messages, held.ttl), (taken, 100));
    kit.pass(100);
    assert_eq!(one.shown().await, p, "nobody renewed it");
}
