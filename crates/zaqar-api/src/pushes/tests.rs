//! Pushes over the store in memory: each subscriber gets its messages once and in order, from any
//! server, until its subscription ends.

use std::time::Duration;

use zaqar_core::signing::Grant;
use zaqar_core::storage::{Leases, Renewal, SubscriptionChange, Subscriptions, Upkeep};
use zaqar_core::{Clock, MemoryBounds, MemoryBudget, SubscriptionId};

use super::{MAX_SUBSCRIPTIONS_PER_CONNECTION, PushHandle, Pushes, PushesEnded};
use crate::tests::{World, caller, key, queue};
use crate::{
    Api, Authentication, Context, CreateSubscription, ListSubscriptions, Options, PopMessages,
    PostMessages, PostedMessage, Purge, Subscriber, SubscriptionRef,
};

async fn subscribe(api: &Api, listener: &PushHandle, name: &str) -> SubscriptionId {
    let request = CreateSubscription {
        queue: queue(name),
        subscriber: Subscriber::Connection(listener.clone()),
        ttl: None,
        options: serde_json::Map::new(),
    };
    api.create_subscription(&caller(), request).await.unwrap().id
}

async fn post_delayed(api: &Api, name: &str, bodies: &[(&str, i64)]) {
    let message = |(body, delay): &(&str, i64)| PostedMessage {
        body: body.to_string().into(),
        ttl: Some(300),
        delay: Some(*delay),
    };
    let messages = bodies.iter().map(message).collect();
    let request = PostMessages { queue: queue(name), size: 100, messages, notify: false };
    api.call(&caller(), request).await.unwrap();
}

async fn post(api: &Api, name: &str, bodies: &[&str]) {
    let bodies: Vec<_> = bodies.iter().map(|body| (*body, 0)).collect();
    post_delayed(api, name, &bodies).await;
}

/// The bodies of the next pushes.
async fn next<const N: usize>(pushes: &mut Pushes) -> [String; N] {
    let mut bodies = Vec::new();
    while bodies.len() < N {
        let pushed = tokio::time::timeout(Duration::from_secs(20), pushes.next()).await;
        let push = pushed.expect("a push comes").unwrap().push;
        bodies.push(String::from_utf8(push.body.to_vec()).unwrap());
    }
    bodies.try_into().unwrap()
}

async fn nothing(pushes: &mut Pushes) {
    let pushed = tokio::time::timeout(Duration::from_millis(200), pushes.next()).await;
    assert!(pushed.is_err(), "{pushed:?}");
}

async fn ended(pushes: &mut Pushes) -> PushesEnded {
    loop {
        match tokio::time::timeout(Duration::from_secs(60), pushes.next()).await {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return why,
            Err(_) => panic!("the pushes do not end"),
        }
    }
}

async fn listed(api: &Api, name: &str) -> usize {
    let request = ListSubscriptions { queue: queue(name), marker: None, limit: None };
    api.list_subscriptions(&caller(), request).await.unwrap().len()
}

#[tokio::test]
async fn each_subscriber_gets_later_posts_once_and_in_order() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (first, mut first_pushes) = here.open_pushes(100);
    let (second, mut second_pushes) = there.open_pushes(100);
    post(&here, "q", &["0"]).await;
    let _ = subscribe(&here, &first.with_tag(1), "q").await;
    post(&there, "q", &["1", "2"]).await;
    post(&here, "q", &["3"]).await;
    subscribe(&there, &second, "q").await;
    post(&here, "q", &["4"]).await;
    assert_eq!(next(&mut first_pushes).await, ["1", "2", "3", "4"]);
    assert_eq!(next(&mut second_pushes).await, ["4"]);
    nothing(&mut first_pushes).await;
    nothing(&mut second_pushes).await;
    post(&there, "q", &["5"]).await;
    let pushed = first_pushes.next().await.unwrap();
    assert_eq!((pushed.tag, pushed.push.ttl), (1, 300));
    assert_eq!(pushed.push.queue, queue("q"));
    assert_eq!(second_pushes.next().await.unwrap().tag, 0);
}

#[tokio::test]
async fn later_subscribers_do_not_affect_earlier_ones() {
    let world = World::new();
    let api = world.server();
    let mut all = Vec::new();
    for n in 0..20 {
        let (listener, pushes) = api.open_pushes(100);
        subscribe(&api, &listener, "q").await;
        all.push(pushes);
        post(&api, "q", &[&n.to_string()]).await;
    }
    for (n, pushes) in all.iter_mut().enumerate() {
        for expected in n..20 {
            assert_eq!(next(pushes).await, [expected.to_string()]);
        }
        assert!(pushes.receiver.is_empty());
    }
}

#[tokio::test]
async fn popped_messages_are_still_pushed() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    subscribe(&api, &listener, "q").await;
    for body in ["1", "2", "3"] {
        post(&api, "q", &[body]).await;
        let pop = PopMessages { queue: queue("q"), limit: 10 };
        assert_eq!(api.pop_messages(&caller(), pop).await.unwrap().len(), 1);
    }
    assert_eq!(next(&mut pushes).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_delayed_message_is_pushed_when_it_is_due() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    subscribe(&api, &listener, "q").await;
    post_delayed(&api, "q", &[("1", 60), ("2", 0), ("3", 30)]).await;
    assert_eq!(next(&mut pushes).await, ["2"]);
    let (newcomer, mut none) = api.open_pushes(100);
    subscribe(&api, &newcomer, "q").await;
    nothing(&mut pushes).await;
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(next(&mut pushes).await, ["3"]);
    nothing(&mut pushes).await;
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(next(&mut pushes).await, ["1"]);
    nothing(&mut none).await;
}

#[tokio::test]
async fn a_server_whose_clock_is_ahead_delays_nothing() {
    let world = World::new();
    let (here, ahead) = (world.server(), World { store: world.store.clone(), ..World::new() });
    ahead.clock.advance(Duration::from_secs(30));
    let (listener, mut pushes) = here.open_pushes(100);
    subscribe(&here, &listener, "q").await;
    post(&ahead.server(), "q", &["1"]).await;
    post(&here, "q", &["2"]).await;
    assert_eq!(next(&mut pushes).await, ["1", "2"]);
}

#[tokio::test]
async fn only_the_connection_that_reads_too_slowly_is_closed() {
    let world = World::new();
    let api = world.server();
    let (slow, mut slow_pushes) = api.open_pushes(2);
    let (quick, mut quick_pushes) = api.open_pushes(100);
    subscribe(&api, &slow, "q").await;
    subscribe(&api, &quick, "q").await;
    post(&api, "q", &["1", "2", "3"]).await;
    assert_eq!(next(&mut quick_pushes).await, ["1", "2", "3"]);
    assert_eq!(slow.ended().await, PushesEnded::Overflow);
    assert_eq!(ended(&mut slow_pushes).await, PushesEnded::Overflow);
    drop((slow, slow_pushes));
    while listed(&api, "q").await > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn subscriptions_end_with_their_connection() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (closed, _pushes) = here.open_pushes(10);
    let (dropped, pushes) = here.open_pushes(10);
    for name in ["a", "b"] {
        subscribe(&here, &closed, name).await;
        subscribe(&here, &dropped, name).await;
        assert_eq!(listed(&there, name).await, 2);
    }
    closed.close().await;
    assert_eq!((listed(&there, "a").await, listed(&there, "b").await), (1, 1));
    drop(pushes);
    while listed(&there, "a").await + listed(&there, "b").await > 0 {
        tokio::task::yield_now().await;
    }
    assert!(here.inner.pusher.is_unused());
}

#[tokio::test]
async fn a_subscription_deleted_on_any_server_gets_no_more() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (other, mut other_pushes) = here.open_pushes(100);
    for deleter in [&here, &there] {
        let (listener, mut pushes) = here.open_pushes(100);
        let id = subscribe(&here, &listener, "q").await;
        let kept = subscribe(&here, &other, "q").await;
        let gone = SubscriptionRef { queue: queue("q"), id: id.to_string() };
        deleter.delete_subscription(&caller(), gone).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        post(&there, "q", &["1"]).await;
        assert_eq!(next(&mut other_pushes).await, ["1"], "it is not closed");
        assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
        let gone = SubscriptionRef { queue: queue("q"), id: kept.to_string() };
        here.delete_subscription(&by(&other), gone).await.unwrap();
    }
    for purger in [&here, &there] {
        let (listener, mut pushes) = here.open_pushes(100);
        subscribe(&here, &listener, "q").await;
        purger.purge(&caller(), purge()).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        post(&there, "q", &["2"]).await;
        assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
    }
}

/// A request of this connection.
fn by(listener: &PushHandle) -> Context {
    Context { connection: Some(listener.clone()), ..caller() }
}

fn purge() -> Purge {
    Purge { queue: queue("q"), messages: false, subscriptions: true }
}

#[tokio::test]
async fn a_connection_is_not_closed_for_what_it_ends_itself() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    subscribe(&api, &listener, "other").await;
    let id = subscribe(&api, &listener, "q").await;
    let gone = SubscriptionRef { queue: queue("q"), id: id.to_string() };
    assert_eq!((listener.subscription(&key("q")), listener.subscriptions()), (Some(id), 2));
    api.delete_subscription(&by(&listener), gone).await.unwrap();
    assert_eq!((listener.subscription(&key("q")), listener.subscriptions()), (None, 1));
    subscribe(&api, &listener, "q").await;
    let (else_, mut others_pushes) = api.open_pushes(100);
    subscribe(&api, &else_, "q").await;
    api.purge(&by(&listener), purge()).await.unwrap();
    assert_eq!(ended(&mut others_pushes).await, PushesEnded::Lost);
    assert_eq!((listener.subscription(&key("q")), listener.subscriptions()), (None, 1));
    post(&api, "q", &["1"]).await;
    post(&api, "other", &["2"]).await;
    assert_eq!(next(&mut pushes).await, ["2"]);
}

#[tokio::test]
async fn a_recreated_queue_ends_the_pushes_of_the_old_one() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.open_pushes(100);
    subscribe(&here, &listener, "q").await;
    there.delete_queue(&caller(), queue("q")).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    post(&there, "q", &["1"]).await;
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
    let (listener, mut pushes) = here.open_pushes(100);
    subscribe(&here, &listener, "q").await;
    post(&there, "q", &["2"]).await;
    assert_eq!(next(&mut pushes).await, ["2"]);
}

#[tokio::test]
async fn a_subscription_ends_with_its_ttl() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    subscribe(&api, &listener, "q").await;
    world.clock.advance(Duration::from_millis(3_599_999));
    post(&api, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost, "without any post");
}

#[tokio::test]
async fn a_subscription_that_another_server_renewed_does_not_end() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.open_pushes(100);
    let id = subscribe(&here, &listener, "q").await;
    let renewed = SubscriptionChange { ttl: Some(7200), ..Default::default() };
    let now = world.clock.now();
    world.store.change_subscription(&key("q"), id, &renewed, now).await.unwrap();
    world.clock.advance(Duration::from_secs(3600));
    post(&there, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
}

#[tokio::test]
async fn a_signed_subscription_ends_with_its_signature() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    let (paths, methods) = (vec!["/v2/queues/q/subscriptions".to_owned()], vec!["POST".to_owned()]);
    let grant = Grant::new(caller().project, paths, methods, world.clock.now().plus_secs(5));
    let signed = caller().authenticated(Authentication::Signature(grant));
    let request = CreateSubscription {
        queue: queue("q"),
        subscriber: Subscriber::Connection(listener),
        ttl: Some(600),
        options: serde_json::Map::new(),
    };
    api.call(&signed, request).await.unwrap();
    post(&api, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(ended(&mut pushes).await, PushesEnded::Expired);
    drop(pushes);
    let is_left = || async { listed(&api, "q").await > 0 };
    while is_left().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_end_with_their_server() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.open_pushes(10);
    subscribe(&here, &listener, "q").await;
    // As if the server had been suspended: the clock advances, and it renews no lease.
    world.clock.advance(Duration::from_secs(15));
    zaqar_storage_testkit::sweep(&*world.store, world.clock.now(), 100).await;
    assert_eq!(listed(&there, "q").await, 0);
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost, "it finds its lease expired");
    let (listener, mut pushes) = here.open_pushes(10);
    subscribe(&here, &listener, "q").await;
    post(&there, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"], "a new connection is served");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_a_connection_is_subscribed_and_then_ended() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(10);
    subscribe(&api, &listener, "q").await;
    let [one] =
        &world.store.subscriptions(&key("q"), None, 10, world.clock.now()).await.unwrap()[..]
    else {
        panic!("one subscription")
    };
    let lease = one.lease.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.clock.advance(Duration::from_secs(5));
        world.store.sweep(world.clock.now(), 100).await.unwrap();
    }
    post(&api, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
    listener.close().await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let now = world.clock.now();
    let renewal = world.store.keep_lease(lease, now.plus_secs(5), now).await.unwrap();
    assert_eq!(renewal, Renewal::Expired, "it was ended");
}

#[tokio::test]
async fn a_server_that_stops_ends_all_pushes() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.open_pushes(10);
    subscribe(&here, &listener, "q").await;
    here.stop_pushes().await;
    assert_eq!(ended(&mut pushes).await, PushesEnded::ShutDown);
    world.store.sweep(world.clock.now(), 100).await.unwrap();
    assert_eq!(listed(&there, "q").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_lost_ends_the_pushes() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(10);
    subscribe(&api, &listener, "q").await;
    world.store.lose_everything();
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
    let (listener, mut pushes) = api.open_pushes(10);
    subscribe(&api, &listener, "q").await;
    post(&api, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_paused_or_whose_clock_was_set_gives_up_its_lease() {
    for secs in [30, 20] {
        let world = World::new();
        let api = world.server();
        let (listener, mut pushes) = api.open_pushes(10);
        subscribe(&api, &listener, "q").await;
        world.clock.advance(Duration::from_secs(secs));
        assert_eq!(ended(&mut pushes).await, PushesEnded::Lost, "{secs} s");
        world.store.sweep(world.clock.now(), 100).await.unwrap();
        assert_eq!(listed(&api, "q").await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn subscribers_of_a_deleted_queue_are_closed() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    for deleter in [&here, &there] {
        let (listener, mut pushes) = here.open_pushes(10);
        let (other, mut other_pushes) = here.open_pushes(10);
        subscribe(&here, &listener, "q").await;
        subscribe(&here, &other, "other").await;
        deleter.delete_queue(&caller(), queue("q")).await.unwrap();
        for _ in 0..7 {
            // The lease is renewed every 5 s, and the queue is checked every 30 s.
            tokio::time::sleep(Duration::from_millis(5001)).await;
            world.clock.advance(Duration::from_secs(5));
        }
        assert_eq!(ended(&mut pushes).await, PushesEnded::Lost);
        post(&there, "other", &["1"]).await;
        assert_eq!(next(&mut other_pushes).await, ["1"], "no other subscriber is closed");
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_that_could_not_be_removed_are_removed_later() {
    let world = World::new();
    let api = world.server();
    let (staying, mut pushes) = api.open_pushes(10);
    subscribe(&api, &staying, "q").await;
    let (leaving, _pushes) = api.open_pushes(10);
    for _ in 0..40 {
        subscribe(&api, &leaving, "q").await;
    }
    world.store.set_away(true);
    leaving.close().await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.store.set_away(false);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let left = world.store.subscriptions(&key("q"), None, 100, world.clock.now()).await.unwrap();
    assert_eq!(left.len(), 1, "of 41");
    post(&api, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"]);
}

#[tokio::test]
async fn subscribing_while_the_session_ends_is_counted_once() {
    let world = World::new();
    let api = world.server();
    let pending = api.inner.pusher.begin_subscription().await.unwrap();
    api.stop_pushes().await;
    drop(pending);
    assert!(api.inner.pusher.is_unused());
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_subscriptions() {
    let world = World::new();
    let api = world.server();
    let (listener, _pushes) = api.open_pushes(10);
    for _ in 0..10 {
        let id = subscribe(&api, &listener, "q").await;
        assert_eq!(listener.subscriptions(), 1);
        let gone = SubscriptionRef { queue: queue("q"), id: id.to_string() };
        api.delete_subscription(&by(&listener), gone).await.unwrap();
        assert_eq!(listener.subscriptions(), 0, "a deleted subscription does not count");
    }
    for _ in 0..MAX_SUBSCRIPTIONS_PER_CONNECTION {
        subscribe(&api, &listener, "q").await;
    }
    let request = CreateSubscription {
        queue: queue("q"),
        subscriber: Subscriber::Connection(listener.clone()),
        ttl: None,
        options: serde_json::Map::new(),
    };
    let error = api.create_subscription(&caller(), request).await.unwrap_err();
    assert_eq!(error.to_string(), "A connection may have at most 1000 subscriptions.");
}

/// Waits until a condition holds; the test runner bounds the wait.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn budget(bytes: usize) -> MemoryBudget {
    MemoryBudget::new(MemoryBounds { process: bytes, ..MemoryBounds::UNLIMITED })
}

fn server_with_budget(world: &World, memory: &MemoryBudget) -> Api {
    world.server_with(Options { memory: memory.clone(), ..Options::default() })
}

#[tokio::test]
async fn delayed_pushes_are_charged_until_no_connection_is_subscribed() {
    let world = World::new();
    let memory = budget(usize::MAX);
    let api = server_with_budget(&world, &memory);
    let (listener, _pushes) = api.open_pushes(10);
    let id = subscribe(&api, &listener, "q").await;
    let tiny = [("1", 60); 100];
    post_delayed(&api, "q", &tiny).await;
    let least = 100 * size_of::<super::Push>();
    until(|| memory.in_use() >= least).await;
    let gone = SubscriptionRef { queue: queue("q"), id: id.to_string() };
    api.delete_subscription(&caller(), gone).await.unwrap();
    until(|| memory.in_use() == 0).await;
}

#[tokio::test]
async fn subscribers_are_closed_when_delayed_pushes_exceed_the_budget() {
    let world = World::new();
    let memory = budget(1_400_000);
    let api = server_with_budget(&world, &memory);
    let (listener, mut pushes) = api.open_pushes(10);
    subscribe(&api, &listener, "q").await;
    let (other, mut other_pushes) = api.open_pushes(10);
    subscribe(&api, &other, "other").await;
    let tiny = [("1", 60); 100];
    let posting = async {
        loop {
            post_delayed(&api, "q", &tiny).await;
            // The store in memory never waits, so no other task would run.
            tokio::task::yield_now().await;
        }
    };
    let why = tokio::select! { why = ended(&mut pushes) => why, () = posting => unreachable!() };
    assert_eq!(why, PushesEnded::Overflow);
    until(|| memory.in_use() == 0).await;
    post(&api, "other", &["1"]).await;
    assert_eq!(next(&mut other_pushes).await, ["1"]);
}

#[tokio::test]
async fn waiting_pushes_are_charged_and_bounded_by_the_share_of_a_connection() {
    let world = World::new();
    let bounds = MemoryBounds { connection: 100_000, ..MemoryBounds::UNLIMITED };
    let memory = MemoryBudget::new(bounds);
    let api = server_with_budget(&world, &memory);
    let (slow, mut slow_pushes) = api.open_pushes(1_000_000);
    let (listener, mut pushes) = api.open_pushes(1_000_000);
    subscribe(&api, &slow, "q").await;
    subscribe(&api, &listener, "q").await;
    let body = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..10 {
        post(&api, "q", &[&body]).await;
        assert_eq!(next::<1>(&mut pushes).await[0], body);
    }
    assert_eq!(ended(&mut slow_pushes).await, PushesEnded::Overflow);
    drop((slow, slow_pushes));
    until(|| memory.in_use() == 0).await;
}

#[tokio::test]
async fn an_encoded_push_is_charged_too() {
    let world = World::new();
    let memory = budget(usize::MAX);
    let api = server_with_budget(&world, &memory);
    let (listener, mut pushes) = api.open_pushes(10);
    subscribe(&api, &listener, "q").await;
    post(&api, "q", &["1"]).await;
    let push = pushes.next().await.unwrap().push;
    until(|| memory.in_use() < 10_000).await;
    let before = memory.in_use();
    let encoded = push.encoded(0, |_| vec![0; 5000].into());
    assert_eq!(memory.in_use(), before + 5000);
    drop(push);
    assert_eq!(memory.in_use(), 5000);
    drop(encoded);
    assert_eq!(memory.in_use(), 0);
}

#[tokio::test]
async fn delayed_messages_of_several_queues_come_in_the_order_they_are_due() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.open_pushes(100);
    for name in ["a", "b"] {
        subscribe(&api, &listener, name).await;
    }
    post_delayed(&api, "a", &[("a3", 30), ("a1", 10)]).await;
    post_delayed(&api, "b", &[("b2", 20), ("b4", 40)]).await;
    nothing(&mut pushes).await;
    for expected in ["a1", "b2", "a3", "b4"] {
        world.clock.advance(Duration::from_secs(10));
        assert_eq!(next(&mut pushes).await, [expected]);
        nothing(&mut pushes).await;
    }
}
