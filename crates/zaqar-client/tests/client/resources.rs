//! Queues, messages, subscriptions and the operations of administrators, against the real server.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use zaqar_client::{
    Client, DeliveryFilter, Health, Listed, MetadataChange, NewMessage, NewSubscription,
    PoolChange, Purge, QueueFilter, QuotaChange, Quotas, RecoveryId, RecoveryRange, Share,
    SharedPath, SubscriptionChange,
};

use crate::scripted::{Answer, Scripted};
use crate::support::Server;

fn number(number: u32) -> NewMessage {
    NewMessage::new(number).unwrap()
}

#[tokio::test]
async fn queues_are_created_changed_listed_and_deleted() {
    let server = Server::start();
    let client = server.client();
    let queue = client.queue("a").unwrap();
    assert!(queue.create(json!({"team": "shop"})).await.unwrap());
    assert!(!queue.create(json!({})).await.unwrap());
    let changes = [
        MetadataChange::Set("_default_message_ttl".to_owned(), json!(600)),
        MetadataChange::Remove("team".to_owned()),
    ];
    let metadata = queue.change(&changes).await.unwrap();
    assert_eq!(metadata["_default_message_ttl"], 600);
    assert!(!metadata.contains_key("team"));
    for name in 0..25 {
        client.queue(&format!("b{name:02}")).unwrap().create(json!({"x": name})).await.unwrap();
    }
    let filter = QueueFilter { name: Some("^b".to_owned()), ..QueueFilter::default() };
    let names: Vec<_> =
        client.queues(&filter).map_ok(|entry| entry.name).try_collect().await.unwrap();
    assert_eq!((names.len(), &*names[0], &*names[24]), (25, "b00", "b24"));
    let filter = QueueFilter {
        attributes: vec![("x".to_owned(), "7".to_owned())],
        detailed: true,
        ..QueueFilter::default()
    };
    let found: Vec<_> = client.queues(&filter).try_collect().await.unwrap();
    assert_eq!((found.len(), &found[0].metadata.as_ref().unwrap()["x"]), (1, &json!(7)));
    assert_eq!(client.count_queues().await.unwrap(), 26);
    queue.delete().await.unwrap();
    assert_eq!(client.count_queues().await.unwrap(), 25);
    client.ping().await.unwrap();
}

#[tokio::test]
async fn messages_are_in_order_in_pages_by_id_and_when_popped() {
    let server = Server::start();
    let queue = server.client().queue("q").unwrap();
    let mut ids = Vec::new();
    for at in 0..45 {
        ids.extend(queue.post([number(at)]).await.unwrap());
    }
    let listed = Listed { page: Some(7), ..Listed::default() };
    let all: Vec<_> = queue.messages(&listed).try_collect().await.unwrap();
    assert_eq!(all.iter().map(|message| message.id.clone()).collect::<Vec<_>>(), ids);
    let own = Listed { echo: false, ..Listed::default() };
    assert_eq!(queue.messages(&own).count().await, 0);
    assert_eq!(queue.messages_by_id(&ids[..25]).await.unwrap().len(), 25);
    assert_eq!(queue.message(&ids[3]).await.unwrap().body.as_json(), "3");
    queue.delete_messages(&ids[..24]).await.unwrap();
    assert_eq!(queue.messages_by_id(&ids[..24]).await.unwrap(), []);
    let popped = queue.pop(2).await.unwrap();
    assert_eq!((&popped[0].id, popped[1].body.as_json()), (&ids[24], "25"));
    assert!(queue.message(&ids[24]).await.unwrap_err().is_not_found());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.total, stats.oldest.is_some()), (19, true));
    queue.purge(Purge::Messages).await.unwrap();
    assert_eq!(queue.pop(1).await.unwrap(), []);
}

#[tokio::test]
async fn a_tail_continues_with_later_messages() {
    let server = Server::start();
    let queue = server.client().queue("q").unwrap();
    queue.post([number(1)]).await.unwrap();
    let mut tail = queue.tail(&Listed::default(), Duration::from_millis(2));
    let next = async |tail: &mut (dyn futures_util::Stream<Item = _> + Unpin + Send)| {
        let message: zaqar_client::Message = tail.try_next().await.unwrap().unwrap();
        message.body.parse::<u32>().unwrap()
    };
    assert_eq!(next(&mut tail).await, 1);
    let (later, posted) = tokio::join!(next(&mut tail), queue.post([number(2), number(3)]));
    posted.unwrap();
    assert_eq!((later, next(&mut tail).await), (2, 3));
}

#[tokio::test]
async fn subscriptions_and_their_deliveries() {
    let server = Server::start();
    let queue = server.client().queue("q").unwrap();
    let new = NewSubscription::new("mailto:a@example.org").ttl(600).option("signing", false);
    let subscribed = queue.subscribe(&new).await.unwrap();
    let subscription = queue.subscription(&subscribed.subscription_id);
    let change = SubscriptionChange { ttl: Some(900), ..SubscriptionChange::default() };
    subscription.change(&change).await.unwrap();
    let found = subscription.get().await.unwrap();
    assert_eq!((found.ttl, &*found.source), (900, "q"));
    let all: Vec<_> = queue.subscriptions().try_collect().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(subscription.health().await.unwrap().state, "ok");
    let deliveries = subscription.deliveries(&DeliveryFilter::default());
    assert_eq!(deliveries.try_collect::<Vec<_>>().await.unwrap(), []);
    let delivery = subscription.test("probe").await.unwrap();
    assert!(!delivery.as_str().is_empty());
    // Nothing has failed yet.
    let recovery = subscription.recover(&RecoveryRange::default()).await.unwrap();
    assert_eq!((recovery.total, recovery.remaining), (0, 0));
    assert_eq!(subscription.recovery(&recovery.id).await.unwrap().started, recovery.started);
    subscription.cancel_recovery(&recovery.id).await.unwrap();
    let unknown = RecoveryId::new("1");
    assert!(subscription.recovery(&unknown).await.unwrap_err().is_not_found());
    subscription.confirm(true).await.unwrap();
    assert!(subscription.rotate_secret(None).await.is_err());
    subscription.resume().await.unwrap();
    subscription.delete().await.unwrap();
    assert!(subscription.get().await.unwrap_err().is_not_found());

    let new = NewSubscription::new("https://hooks.example.org/").option("signing", true);
    let signed = server.client().topic("t").unwrap().subscribe(&new).await;
    // Without a resolver the server rejects the unknown host.
    match signed {
        Ok(signed) => assert!(signed.secret.unwrap().starts_with("whsec_")),
        Err(error) => assert_eq!(error.status(), Some(400), "{error}"),
    }
}

#[tokio::test]
async fn a_signed_url_allows_only_what_it_names() {
    let server = Server::start();
    let queue = server.client().queue("q").unwrap();
    let share = Share {
        paths: vec![SharedPath::Messages],
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        expires: None,
    };
    let url = queue.share(&share).await.unwrap();
    let guest = Client::builder().url(&server.url).signed(url).build().unwrap();
    let shared = guest.queue("q").unwrap();
    shared.post([number(1)]).await.unwrap();
    assert_eq!(shared.messages(&Listed::default()).count().await, 1);
    assert!(shared.delete().await.unwrap_err().is_not_found());
    assert!(guest.queue("r").unwrap().post([number(1)]).await.is_err());
}

#[tokio::test]
async fn administrators_see_health_pools_and_flavors() {
    let server = Server::start();
    let client = server.client();
    let health = client.health().await.unwrap();
    assert!(health.is_reachable());
    assert!(matches!(&health, Health::Pools(all) if all.pools.is_empty()), "{health:?}");
    let directory = tempfile::tempdir().unwrap();
    let pool = PoolChange {
        uri: Some(format!("embedded://{}", directory.path().display())),
        weight: Some(10),
        ..PoolChange::default()
    };
    client.create_pool("one", &pool).await.unwrap();
    let change = PoolChange { weight: Some(20), ..PoolChange::default() };
    assert_eq!(client.change_pool("one", &change).await.unwrap().weight, 20);
    assert!(client.pool("one").await.unwrap().options.is_some());
    let Health::Pools(health) = client.health().await.unwrap() else { panic!("it has pools") };
    let one = &health.pools["one"];
    assert!(one.storage_reachable && one.operation_status["post_messages"].succeeded, "{one:?}");
    client.create_flavor("f", &["one"]).await.unwrap();
    assert_eq!(client.change_flavor("f", &["one"]).await.unwrap().pool_list, ["one"]);
    assert!(client.flavor("f").await.unwrap().capabilities.is_some());
    assert_eq!(client.flavors(false).count().await, 1);
    assert_eq!(client.delete_pool("one").await.unwrap_err().status(), Some(403));
    client.delete_flavor("f").await.unwrap();
    client.delete_pool("one").await.unwrap();
    assert_eq!(client.pools(true).count().await, 0);

    let user = Client::new(&server.url, "p").unwrap();
    assert_eq!(user.health().await.unwrap_err().status(), Some(403));
}

#[tokio::test]
async fn administrators_set_the_quotas_of_a_project() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(client.quotas("trial").await.unwrap(), Quotas::default());
    let change = QuotaChange { max_queues: Some(0), max_messages: Some(7), ..Default::default() };
    let expected = Quotas { max_messages: 7, ..Quotas::default() };
    assert_eq!(client.set_quotas("trial", &change).await.unwrap(), expected);
    assert_eq!(client.quotas("trial").await.unwrap(), expected);
    // The new quotas replace all earlier ones.
    let change = QuotaChange { max_bytes: Some(9), ..QuotaChange::default() };
    let expected = Quotas { max_bytes: 9, ..Quotas::default() };
    assert_eq!(client.set_quotas("trial", &change).await.unwrap(), expected);
    let last = QuotaChange { max_queues: Some(1), ..QuotaChange::default() };
    for n in 0..12 {
        client.set_quotas(&format!("a & b-{n:02}"), &last).await.unwrap();
    }
    let listed: Vec<_> = client.managed_quotas().try_collect().await.unwrap();
    let projects: Vec<_> = listed.iter().map(|one| one.project.as_str()).collect();
    let expected: Vec<_> = (0..12).map(|n| format!("a & b-{n:02}")).collect();
    assert_eq!(projects[..12], expected, "in more than a page");
    assert_eq!((projects[12..].to_vec(), listed[12].quotas), (vec!["trial"], change));
    client.unset_quotas("trial").await.unwrap();
    assert_eq!(client.managed_quotas().try_collect::<Vec<_>>().await.unwrap().len(), 12);
    assert_eq!(client.quotas("trial").await.unwrap(), Quotas::default());
    let user = Client::new(&server.url, "trial").unwrap();
    assert_eq!(user.quotas("trial").await.unwrap_err().status(), Some(403));
}

#[tokio::test]
async fn a_tail_of_new_messages_starts_after_the_last_page() {
    let page = |id: &str, next: &str| {
        format!(
            r#"{{"messages":[{{"id":"{id}","href":"/v2/queues/q/messages/{id}","ttl":60,"age":0,
            "body":1}}],"links":[{{"rel":"next","href":"/v2/queues/q/messages?marker={next}"}}]}}"#
        )
    };
    let server = Scripted::start(move |number, _| {
        Some(match number {
            0 => Answer::new(200, &page("m1", "1")),
            // This message may be deleted or not before the next poll.
            1 => Answer::new(200, &page("m2", "2")),
            2 => Answer::new(200, r#"{"messages":[],"links":[]}"#),
            _ => Answer::new(200, &page("m3", "3")),
        })
    })
    .await;
    let queue = Client::new(&server.url, "p").unwrap().queue("q").unwrap();
    let mut tail = queue.tail_new(&Listed::default(), Duration::from_millis(1));
    assert_eq!(tail.next().await.unwrap().unwrap().id.as_str(), "m3");
    let lines = server.lines();
    assert_eq!(lines[2..], vec!["GET /v2/queues/q/messages?marker=2"; 2]);
}

#[tokio::test]
async fn the_marker_of_the_next_page_is_that_of_the_link() {
    let page = r#"{"messages":[{"id":"m1","href":"/v2/queues/q/messages/m1","ttl":60,"age":0,
        "body":1}],"links":[{"rel":"next","href":"/v2/queues/q/messages?limit=1&marker=7"}]}"#;
    let server = Scripted::start(move |number, _| {
        let end = r#"{"messages":[],"links":[]}"#;
        Some(Answer::new(200, if number == 0 { page } else { end }))
    })
    .await;
    let queue = Client::new(&server.url, "p").unwrap().queue("q").unwrap();
    let listed = Listed::default();
    let (messages, marker) = queue.page_and_marker(&listed, None).await.unwrap();
    assert_eq!((messages[0].id.as_str(), marker.as_ref().unwrap().as_str()), ("m1", "7"));
    let (messages, next) = queue.page_and_marker(&listed, marker.as_ref()).await.unwrap();
    assert_eq!((messages.len(), next), (0, None));
    assert!(server.lines()[1].ends_with("&marker=7"), "{:?}", server.lines());
}
