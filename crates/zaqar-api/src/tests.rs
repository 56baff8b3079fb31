//! The operations over the store in memory, also with two servers on one store, and after a crash
//! between a change of the management store and that of the message store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use zaqar_core::storage::{self, Heads, Messages, QueueRow, Queues};
use zaqar_core::{
    ClaimId, ClientId, ClockStatus, Generation, Incarnation, Kind, ManualClock, MessageId,
    Metadata, ProjectId, QueueKey, QueueName, Secret, Timestamp, Version,
};
use zaqar_storage_testkit::Memory;

use super::*;

/// Servers that share one store and one clock.
pub(crate) struct World {
    pub(crate) store: Arc<Memory>,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        Self { store: Arc::new(Memory::new()), clock }
    }

    pub(crate) fn server(&self) -> Api {
        self.server_with(Options::default())
    }

    pub(crate) fn server_with(&self, options: Options) -> Api {
        let options = Options { clock: self.clock.clone(), ..options };
        Api::new(self.store.clone(), self.store.clone(), options)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

pub(crate) fn caller() -> Context {
    Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"))
}

pub(crate) fn queue(name: &str) -> QueueRef {
    QueueRef { kind: Kind::Queue, name: QueueName::new(name).unwrap() }
}

pub(crate) fn key(name: &str) -> QueueKey {
    caller().key(queue(name))
}

fn metadata(value: Value) -> Metadata {
    Metadata::from_json(value.to_string().as_bytes()).unwrap()
}

fn generation(incarnation: u64, version: u64) -> Generation {
    Generation { incarnation: Incarnation::new(incarnation), version: Version::new(version) }
}

pub(crate) async fn create(api: &Api, name: &str, attributes: Value) -> bool {
    let request = CreateQueue { queue: queue(name), metadata: metadata(attributes) };
    api.create_queue(&caller(), request).await.unwrap()
}

pub(crate) async fn post(api: &Api, name: &str, body: &str) -> Result<MessageId, Error> {
    let message = PostedMessage { body: body.to_owned().into(), ttl: None, delay: None };
    let request =
        PostMessages { queue: queue(name), size: 100, messages: vec![message], notify: false };
    api.call(&caller(), request).await.map(|ids| ids[0])
}

pub(crate) async fn bodies(api: &Api, name: &str) -> Vec<String> {
    let request = ListMessages {
        queue: queue(name),
        marker: None,
        limit: Some(20),
        echo: true,
        include_claimed: true,
        include_delayed: true,
    };
    let page = api.list_messages(&caller(), request).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    page.messages.iter().map(|message| text(&message.payload.bytes)).collect()
}

pub(crate) async fn claim(api: &Api, name: &str) -> Option<(ClaimId, Vec<storage::Message>)> {
    let request = CreateClaim { queue: queue(name), limit: None, ttl: Some(60), grace: Some(60) };
    api.create_claim(&caller(), request).await.unwrap()
}

#[tokio::test]
async fn a_post_creates_its_queue_and_a_rejected_one_does_not() {
    let world = World::new();
    let api = world.server();
    let message = PostedMessage { body: "1".into(), ttl: Some(5), delay: None };
    let request =
        PostMessages { queue: queue("q"), size: 1, messages: vec![message], notify: false };
    let error = api.post_messages(&caller(), request).await.unwrap_err();
    assert!(error.to_string().contains("1209600 seconds, and must be at least 60"), "{error}");
    assert_eq!(Queues::get(&*world.store, &key("q")).await.unwrap(), None);

    post(&api, "q", "1").await.unwrap();
    assert!(Queues::get(&*world.store, &key("q")).await.unwrap().is_some());
    assert!(!create(&api, "q", json!({"a": 1})).await);
    assert_eq!(bodies(&api, "q").await, ["1"]);
}

#[tokio::test]
async fn a_row_without_a_head_is_an_empty_queue_that_accepts_posts() {
    let world = World::new();
    let api = world.server();
    let row = QueueRow { generation: generation(7, 1), metadata: metadata(json!({"a": 1})) };
    world.store.create(&key("q"), &row).await.unwrap();
    assert_eq!(bodies(&api, "q").await, [""; 0]);
    assert!(claim(&api, "q").await.is_none());

    let id = post(&api, "q", "1").await.unwrap();
    assert_ne!(
        id.incarnation,
        Incarnation::new(7),
        "a head is never opened twice with one incarnation"
    );
    assert_eq!(bodies(&api, "q").await, ["1"]);
    let kept = api.get_queue(&caller(), queue("q")).await.unwrap().unwrap();
    assert_eq!(kept, metadata(json!({"a": 1})));
}

#[tokio::test]
async fn a_head_without_a_row_gets_one_and_keeps_its_messages() {
    let world = World::new();
    let api = world.server();
    post(&api, "q", "1").await.unwrap();
    let row = Queues::get(&*world.store, &key("q")).await.unwrap().unwrap();
    world.store.remove(&key("q"), row.generation.incarnation).await.unwrap();

    let other = world.server();
    post(&other, "q", "2").await.unwrap();
    assert_eq!(bodies(&other, "q").await, ["1", "2"]);
    let row = Queues::get(&*world.store, &key("q")).await.unwrap().unwrap();
    assert_eq!(world.store.generation(&key("q")).await.unwrap(), Some(row.generation));
}

#[tokio::test]
async fn a_row_of_another_incarnation_adopts_that_of_the_head() {
    let world = World::new();
    let row = QueueRow { generation: generation(9, 4), metadata: metadata(json!({"a": 1})) };
    world.store.create(&key("q"), &row).await.unwrap();
    world.store.open(&key("q"), generation(8, 2), world.now()).await.unwrap();

    let api = world.server();
    let id = post(&api, "q", "1").await.unwrap();
    assert_eq!(id.incarnation, Incarnation::new(8), "the head's incarnation stays");
    let row = Queues::get(&*world.store, &key("q")).await.unwrap().unwrap();
    assert_eq!(world.store.generation(&key("q")).await.unwrap(), Some(row.generation));
    assert_eq!(row.metadata, metadata(json!({"a": 1})));
}

#[tokio::test]
async fn a_head_with_a_stale_version_gets_that_of_the_row() {
    let world = World::new();
    let api = world.server();
    create(&api, "q", json!({})).await;
    let row = Queues::get(&*world.store, &key("q")).await.unwrap().unwrap();
    let newer = Generation { version: row.generation.version.next(), ..row.generation };
    let patched =
        QueueRow { generation: newer, metadata: metadata(json!({"_max_messages_post_size": 10})) };
    world.store.replace(&key("q"), row.generation, &patched).await.unwrap();

    let fresh = world.server();
    assert!(post(&fresh, "q", "1").await.unwrap_err().to_string().contains("current queue is 10"));
    assert!(post(&api, "q", "1").await.is_ok(), "the patch was never acknowledged");
}

#[tokio::test]
async fn a_recreated_queue_shows_no_old_messages_to_servers_that_cached_it() {
    let world = World::new();
    let (one, two) = (world.server(), world.server());
    let old = post(&one, "q", "\"old\"").await.unwrap();
    post(&two, "q", "\"old\"").await.unwrap();
    one.delete_queue(&caller(), queue("q")).await.unwrap();
    assert_eq!(bodies(&two, "q").await, [""; 0]);
    create(&one, "q", json!({"_default_message_ttl": 77})).await;

    let new = post(&two, "q", "\"new\"").await.unwrap();
    assert_eq!(bodies(&one, "q").await, ["\"new\""]);
    let read = ReadMessages { queue: queue("q"), ids: vec![old.to_string(), new.to_string()] };
    let found = two.read_messages(&caller(), read).await.unwrap();
    assert_eq!(found.iter().map(|m| (m.id, m.ttl)).collect::<Vec<_>>(), [(new, 77)]);
}

/// Many servers post to a new queue at once, in odd rounds while another one deletes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_posts_succeed_and_agree_on_one_incarnation() {
    for round in 0..20 {
        let world = World::new();
        let deleter = world.server();
        let mut posts = tokio::task::JoinSet::new();
        for i in 0..30 {
            let api = world.server();
            posts.spawn(async move { post(&api, "q", &i.to_string()).await });
        }
        if round % 2 == 1 {
            deleter.delete_queue(&caller(), queue("q")).await.unwrap();
        }
        while let Some(posted) = posts.join_next().await {
            posted.unwrap().unwrap();
        }
        let row = Queues::get(&*world.store, &key("q")).await.unwrap();
        let head = world.store.generation(&key("q")).await.unwrap();
        if let (Some(row), Some(head)) = (&row, head) {
            assert_eq!(row.generation, head);
        }
        if round % 2 == 0 {
            assert!(row.is_some());
            let stats = deleter.stats(&caller(), queue("q")).await.unwrap().unwrap();
            assert_eq!(stats.free, 30);
        }
    }
}

#[tokio::test]
async fn an_answered_patch_applies_on_every_server() {
    let world = World::new();
    let (one, two) = (world.server(), world.server());
    post(&two, "q", "1").await.unwrap();
    let change = Change::Add { attribute: "_max_messages_post_size".to_owned(), value: json!(50) };
    let patch = PatchQueue { queue: queue("q"), changes: vec![change] };
    one.patch_queue(&caller(), patch).await.unwrap();
    let error = post(&two, "q", "2").await.unwrap_err();
    assert!(error.to_string().contains("max_messages_post_size_queue: 50"), "{error}");
}

#[tokio::test]
async fn a_patch_is_applied_as_a_whole_or_not_at_all() {
    let world = World::new();
    let api = world.server();
    create(&api, "q", json!({"a": 1})).await;
    let changes = vec![
        Change::Replace { attribute: "a".to_owned(), value: json!(2) },
        Change::Remove { attribute: "missing".to_owned() },
    ];
    let error = api.patch_queue(&caller(), PatchQueue { queue: queue("q"), changes }).await;
    assert!(matches!(error, Err(Error::Conflict { .. })));
    let kept = api.get_queue(&caller(), queue("q")).await.unwrap().unwrap();
    assert_eq!(kept, metadata(json!({"a": 1})));

    let changes = vec![Change::Remove { attribute: "_max_claim_count".to_owned() }];
    let request = PatchQueue { queue: queue("q"), changes };
    assert!(api.patch_queue(&caller(), request).await.is_ok(), "reserved, though not set");

    // As python-zaqarclient sets `_dead_letter_queue`, whose default is null.
    let attribute = || "_dead_letter_queue".to_owned();
    let changes = vec![
        Change::Add { attribute: attribute(), value: json!("dead") },
        Change::Remove { attribute: attribute() },
    ];
    let request = || PatchQueue { queue: queue("q"), changes: changes.clone() };
    let patched = api.patch_queue(&caller(), request()).await.unwrap();
    assert_eq!(patched.as_object().get("_dead_letter_queue"), Some(&json!("dead")));
    let patched = api.patch_queue(&caller(), request()).await.unwrap();
    assert_eq!(patched.as_object().get("_dead_letter_queue"), None, "it had a value");

    let request = PatchQueue { queue: queue("none"), changes: vec![] };
    let missing = api.patch_queue(&caller(), request).await;
    assert!(matches!(missing, Err(Error::QueueNotFound { .. })));
}

#[tokio::test]
async fn a_filtered_page_reads_a_bounded_number_of_queues_and_links_to_the_next() {
    let world = World::new();
    let api = world.server();
    let rare = MAX_ROWS_FILTERED + 5;
    for i in 0..=rare {
        let row = QueueRow {
            generation: generation(1, 1),
            metadata: metadata(json!({"n": i64::from(i == rare)})),
        };
        world.store.create(&key(&format!("q{i:06}")), &row).await.unwrap();
    }
    let ask = |marker: Option<String>, name: Option<&str>| ListQueues {
        kind: Kind::Queue,
        marker,
        limit: None,
        detailed: false,
        name: name.map(str::to_owned),
        with_count: true,
        filters: vec![("n".to_owned(), "1".to_owned())],
    };
    // Another task of the same thread, which runs only when the list yields.
    let yields = Arc::new(AtomicUsize::new(0));
    let counter = yields.clone();
    let other = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let first = api.list_queues(&caller(), ask(None, None)).await.unwrap();
    other.abort();
    let yields = yields.load(Ordering::Relaxed);
    assert!(yields >= rare / 16, "{yields} yields while {rare} queues were read");
    assert_eq!(first.queues.len(), 1, "a page is empty only at the end");
    assert_eq!(first.count, Some(rare as u64 + 1));
    let next = first.next.unwrap().to_string();
    let end = api.list_queues(&caller(), ask(Some(next), None)).await.unwrap();
    assert!(end.queues.is_empty() && end.next.is_none());
    let named = api.list_queues(&caller(), ask(None, Some("q0.+5$"))).await.unwrap();
    assert_eq!(named.queues.len(), 1);
    assert!(api.list_queues(&caller(), ask(None, Some("("))).await.is_err());
}

#[tokio::test]
async fn a_message_claimed_often_enough_moves_to_the_dead_letter_queue() {
    let world = World::new();
    let api = world.server();
    create(
        &api,
        "q",
        json!({"_max_claim_count": 2, "_dead_letter_queue": "dead",
        "_dead_letter_queue_messages_ttl": 99}),
    )
    .await;
    post(&api, "q", "\"poison\"").await.unwrap();
    for _ in 0..2 {
        assert!(claim(&api, "q").await.is_some());
        world.clock.advance(Duration::from_secs(61));
    }
    assert!(claim(&api, "q").await.is_none());
    assert_eq!(bodies(&api, "q").await, [""; 0]);
    assert_eq!(bodies(&api, "dead").await, ["\"poison\""]);
    let (_, dead) = claim(&api, "dead").await.unwrap();
    assert_eq!((dead[0].ttl, dead[0].claim_count), (120, 1), "99 s, lengthened by its claim");

    // The dead-letter queue is deleted and created again while a server has it cached.
    post(&api, "q", "\"second\"").await.unwrap();
    for _ in 0..2 {
        assert!(claim(&api, "q").await.is_some());
        world.clock.advance(Duration::from_secs(61));
    }
    world.server().delete_queue(&caller(), queue("dead")).await.unwrap();
    assert!(claim(&api, "q").await.is_none());
    assert_eq!(bodies(&api, "dead").await, ["\"second\""]);
}

/// A server with the keys of this `message_encryption_key`; without keys if it is empty.
fn server_with_keys(world: &World, keys: &str) -> Api {
    let keyring = Keyring::parse(&Secret::new(keys.to_owned())).ok().map(Arc::new);
    world.server_with(Options { keyring, ..Options::default() })
}

#[tokio::test]
async fn messages_that_cannot_be_decrypted_block_no_others() {
    let world = World::new();
    let with = |keys: &str| server_with_keys(&world, keys);
    let (old, new) = ("old:0123456789abcdef", "new:fedcba9876543210");
    create(&with(old), "q", json!({"_enable_encrypt_messages": true})).await;
    post(&with(old), "q", "1").await.unwrap();
    post(&with(new), "q", "2").await.unwrap();
    let api = with(new);
    assert_eq!(bodies(&api, "q").await, ["2"]);
    let (id, messages) = claim(&api, "q").await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload.bytes, "2");
    let read = || ReadClaim { queue: queue("q"), id: id.to_string() };
    assert_eq!(api.read_claim(&caller(), read()).await.unwrap().messages, messages);
    api.release_claim(&caller(), read()).await.unwrap();

    // Encryption is switched off, and no key is configured.
    let change = Change::Remove { attribute: "_enable_encrypt_messages".to_owned() };
    let patch = PatchQueue { queue: queue("q"), changes: vec![change] };
    api.patch_queue(&caller(), patch).await.unwrap();
    let keyless = with("");
    post(&keyless, "q", "3").await.unwrap();
    assert_eq!(bodies(&keyless, "q").await, ["3"]);
    let pop = || PopMessages { queue: queue("q"), limit: 10 };
    let popped = keyless.pop_messages(&caller(), pop()).await.unwrap();
    assert_eq!(popped.iter().map(|m| &m.payload.bytes).collect::<Vec<_>>(), ["3"]);
    assert_eq!(keyless.pop_messages(&caller(), pop()).await.unwrap(), []);
    let popped = with(&format!("{new},{old}")).pop_messages(&caller(), pop()).await.unwrap();
    assert_eq!(popped.iter().map(|m| &m.payload.bytes).collect::<Vec<_>>(), ["1", "2"]);
    assert!(popped.iter().all(|message| message.claim.is_none() && message.ttl == 3600));
}

#[tokio::test]
async fn a_pop_leaves_messages_whose_key_id_has_another_secret() {
    let world = World::new();
    let (before, after) = ("a:0123456789abcdef", "a:fedcba9876543210");
    let api = server_with_keys(&world, before);
    create(&api, "q", json!({"_enable_encrypt_messages": true})).await;
    post(&api, "q", "1").await.unwrap();
    let pop = || PopMessages { queue: queue("q"), limit: 10 };
    let changed = server_with_keys(&world, after);
    assert_eq!(changed.pop_messages(&caller(), pop()).await.unwrap(), []);
    let popped = api.pop_messages(&caller(), pop()).await.unwrap();
    assert_eq!(popped[0].payload.bytes, "1");
}

#[tokio::test]
async fn encrypted_queues_store_ciphertext_and_return_plain_bodies() {
    let world = World::new();
    let keyring = Keyring::parse(&Secret::new("0123456789abcdef".to_owned())).unwrap();
    let options =
        Options { keyring: Some(Arc::new(keyring)), checksums: true, ..Options::default() };
    let api = world.server_with(options);
    create(&api, "q", json!({"_enable_encrypt_messages": true})).await;
    let id = post(&api, "q", "\"secret\"").await.unwrap();

    let stored = Messages::get(&*world.store, &key("q"), &[id], world.now()).await;
    let stored = stored.unwrap().remove(0).payload;
    assert!(stored.sealed_with.is_some() && !stored.bytes.windows(6).any(|w| w == b"secret"));
    assert_eq!(bodies(&api, "q").await, ["\"secret\""]);
    let (claimed, messages) = claim(&api, "q").await.unwrap();
    assert_eq!(messages[0].payload.bytes, "\"secret\"");
    let checksum = messages[0].payload.checksum.unwrap().to_string();
    assert!(checksum.starts_with("MD5:"), "of the plain body: {checksum}");
    let read = ReadClaim { queue: queue("q"), id: claimed.to_string() };
    let claim = api.read_claim(&caller(), read).await.unwrap();
    assert_eq!(claim.messages[0].payload.bytes, "\"secret\"");

    let keyless = world.server();
    let request = CreateQueue {
        queue: queue("other"),
        metadata: metadata(json!({"_enable_encrypt_messages": true})),
    };
    let refused = keyless.create_queue(&caller(), request).await.unwrap_err();
    assert!(refused.to_string().contains("message_encryption_key"), "{refused}");
    let read = ReadMessages { queue: queue("q"), ids: vec![id.to_string()] };
    assert_eq!(keyless.read_messages(&caller(), read).await.unwrap(), []);
}

#[tokio::test]
async fn a_signed_url_allows_only_what_it_names_until_it_expires() {
    let world = World::new();
    let key = Some(Secret::new("test".to_owned()));
    let api = world.server_with(Options { signing_key: key, ..Options::default() });
    let ask = |paths: &[&str], expires: Option<&str>| Share {
        queue: queue("q"),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        methods: vec![],
        expires: expires.map(str::to_owned),
    };
    let shared = api.call(&caller(), ask(&[], None)).await.unwrap();
    let expires = zaqar_core::iso8601::format(shared.grant.expires);
    let headers = SignedHeaders {
        project: "p",
        paths: "/v2/queues/q/messages",
        methods: "GET",
        expires: &expires,
        signature: &shared.signature,
    };
    let grant = api.verify_signature(&headers).unwrap();
    assert_eq!(grant, shared.grant);
    let other = SignedHeaders { project: "other", ..headers.clone() };
    assert!(api.verify_signature(&other).is_none());
    let unsigned = SignedHeaders { signature: "", ..headers.clone() };
    assert!(api.verify_signature(&unsigned).is_none());

    let signed = caller().authenticated(Authentication::Signature(grant));
    assert!(
        api.call(&signed, ReadMessages { queue: queue("q"), ids: vec!["1".into()] }).await.is_ok()
    );
    assert!(api.call(&signed, ReadMessage { queue: queue("q"), id: "1".into() }).await.is_ok());
    let other_project = Context { project: ProjectId::new("other").unwrap(), ..signed.clone() };
    let read = ReadMessage { queue: queue("q"), id: "1".into() };
    let refused = api.call(&other_project, read.clone()).await;
    assert!(matches!(refused, Err(Error::NotGranted)), "{refused:?}");
    let refused = api.call(&signed, PopMessages { queue: queue("q"), limit: 1 }).await;
    assert!(matches!(refused, Err(Error::NotGranted)), "another method: {refused:?}");
    let refused = api.call(&signed, ReadMessage { queue: queue("other"), ..read.clone() }).await;
    assert!(matches!(refused, Err(Error::NotGranted)), "another queue: {refused:?}");
    let refused = api.call(&signed, ReadClaim { queue: queue("q"), id: "1".into() }).await;
    assert!(matches!(refused, Err(Error::NotGranted)), "another resource: {refused:?}");
    world.clock.advance(Duration::from_secs(86_400));
    assert!(api.verify_signature(&headers).is_none(), "it lasts a day");
    assert!(matches!(api.call(&signed, read).await, Err(Error::NotGranted)), "it lasts a day");

    assert!(api.call(&caller(), ask(&["stats"], None)).await.is_err());
    assert!(api.call(&caller(), ask(&[], Some("2001-01-01"))).await.is_err());
    let keyless = world.server().call(&caller(), ask(&[], None)).await;
    assert!(keyless.is_err(), "no key is configured");
}

#[tokio::test]
async fn the_self_test_runs_every_operation_and_leaves_nothing() {
    let world = World::new();
    let api = world.server();
    assert!(matches!(api.call(&caller(), CheckHealth).await, Err(Error::Forbidden)));
    let roles = vec!["Admin".to_owned()];
    let admin = caller().authenticated(Authentication::Unchecked { roles });
    let health = api.call(&admin, CheckHealth).await.unwrap();
    assert!(health.store.reachable);
    assert_eq!(health.store.operations.len(), 8);
    for (name, probe) in &health.store.operations {
        assert!(probe.error.is_none(), "{name}: {:?}", probe.error);
    }
    assert_eq!(world.store.count(&caller().project, Kind::Queue).await.unwrap(), 0);
}

#[tokio::test]
async fn health_reports_a_wall_clock_that_is_not_followed() {
    struct Unsteady;
    impl Clock for Unsteady {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_700_000_000_000)
        }
        fn status(&self) -> ClockStatus {
            let unsteady_for = Some(Duration::from_secs(2));
            ClockStatus { offset_ms: 3_600_000, unsteady_for }
        }
    }
    let store = Arc::new(Memory::new());
    let options = Options { clock: Arc::new(Unsteady), ..Options::default() };
    let api = Api::new(store.clone(), store, options);
    let health = api.health(&caller()).await.unwrap();
    assert!(health.store.reachable);
    let said = health.document()["problems"].to_string();
    assert!(said.contains("3600000 ms ahead") && said.contains("for 2 s"), "{said}");
}

#[tokio::test]
async fn a_subscriber_subscribes_once() {
    let world = World::new();
    let api = world.server();
    let ask = |subscriber: &str, ttl: Option<i64>| CreateSubscription {
        queue: queue("q"),
        subscriber: Subscriber::Address(subscriber.to_owned()),
        ttl,
        options: serde_json::Map::new(),
    };
    let first = api.create_subscription(&caller(), ask("http://h/x", None)).await.unwrap().id;
    let again = api.create_subscription(&caller(), ask("http://h/x", Some(60))).await.unwrap().id;
    assert_eq!(again, first, "not confirmed yet: the same one");
    let subscription = SubscriptionRef { queue: queue("q"), id: first.to_string() };
    let confirm = ConfirmSubscription { subscription: subscription.clone(), confirmed: true };
    api.confirm_subscription(&caller(), confirm).await.unwrap();
    let again = api.create_subscription(&caller(), ask("http://h/x", None)).await;
    assert!(matches!(again, Err(Error::SubscriptionExists)));

    for (subscriber, ttl, says) in [
        ("ftp://h/x", None, "must be supported in the list ['http'"),
        ("nothing", None, "must be supported in the list"),
        ("trust+http://h/x", None, "makes no Keystone trusts"),
        ("http://h/y", Some(59), "at least 60 seconds"),
        ("http://h/y", Some(i64::MAX), "must be less than 9999-12-31"),
    ] {
        let error = api.create_subscription(&caller(), ask(subscriber, ttl)).await.unwrap_err();
        assert!(error.to_string().contains(says), "{subscriber} {ttl:?}: {error}");
    }
    let sized = |subscriber: usize, options: usize| CreateSubscription {
        // `{"a":"…"}`
        options: [("a".to_owned(), "x".repeat(options - 8).into())].into_iter().collect(),
        ..ask(&format!("http://h/{}", "x".repeat(subscriber - 9)), None)
    };
    let connection = Subscriber::Connection(api.open_pushes(1).0);
    let by_connection = CreateSubscription { subscriber: connection, ..sized(65_536, 65_537) };
    for (request, says) in [
        (
            sized(65_536, 65_537),
            "The options of a subscription may not exceed 65536 bytes: 65537 were given.",
        ),
        (by_connection, "65537 were given."),
        (sized(65_537, 65_536), "A subscriber may not exceed 65536 bytes: 65537 were given."),
    ] {
        let error = api.create_subscription(&caller(), request).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let largest = api.create_subscription(&caller(), sized(65_536, 65_536)).await.unwrap().id;
    let change = ChangeSubscription {
        subscription: SubscriptionRef { queue: queue("q"), id: largest.to_string() },
        subscriber: None,
        ttl: None,
        options: Some(sized(65_536, 65_537).options),
    };
    let error = api.change_subscription(&caller(), change).await.unwrap_err().to_string();
    assert!(error.contains("65537 were given."), "{error}");
    let long = Some(251_000_000_000);
    assert!(api.create_subscription(&caller(), ask("HTTPS://h/y", long)).await.is_ok());
    api.delete_subscription(&caller(), subscription.clone()).await.unwrap();
    let gone = api.read_subscription(&caller(), subscription).await;
    assert!(matches!(gone, Err(Error::SubscriptionNotFound { .. })));
}
