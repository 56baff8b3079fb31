//! Pushes over the store in memory: who gets what, once and in order, from whichever server, and what ends.

use std::time::Duration;

use zaqar_core::storage::{Leases, Subscriptions, Upkeep};
use zaqar_core::{Clock, SubscriptionId};

use super::{Listener, Pushes, PushesEnded};
use crate::tests::{World, caller, key, queue};
use crate::{
    Api, CreateSubscription, ListSubscriptions, PopMessages, PostMessages, PostedMessage, Purge,
    Subscriber, SubscriptionRef,
};

async fn subscribe(api: &Api, listener: &Listener, name: &str) -> SubscriptionId {
    let request = CreateSubscription {
        queue: queue(name),
        subscriber: Subscriber::Listener(listener.clone()),
        ttl: None,
        options: serde_json::Map::new(),
    };
    api.create_subscription(&caller(), request).await.unwrap()
}

async fn post_delayed(api: &Api, name: &str, bodies: &[(&str, i64)]) {
    let message = |(body, delay): &(&str, i64)| PostedMessage {
        body: body.to_string().into(),
        ttl: Some(300),
        delay: Some(*delay),
    };
    let messages = bodies.iter().map(message).collect();
    let request = PostMessages { queue: queue(name), size: 100, messages };
    api.post_messages(&caller(), request).await.unwrap();
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
async fn everybody_gets_what_is_posted_after_he_subscribed_once_and_in_order() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (first, mut first_pushes) = here.listen(100);
    let (second, mut second_pushes) = there.listen(100);
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
async fn late_comers_change_nothing_for_those_who_are_there() {
    let world = World::new();
    let api = world.server();
    let mut all = Vec::new();
    for n in 0..20 {
        let (listener, pushes) = api.listen(100);
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
async fn what_is_taken_at_once_is_pushed_all_the_same() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.listen(100);
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
    let (listener, mut pushes) = api.listen(100);
    subscribe(&api, &listener, "q").await;
    post_delayed(&api, "q", &[("1", 60), ("2", 0), ("3", 30)]).await;
    assert_eq!(next(&mut pushes).await, ["2"]);
    let (newcomer, mut none) = api.listen(100);
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
    let (listener, mut pushes) = here.listen(100);
    subscribe(&here, &listener, "q").await;
    post(&ahead.server(), "q", &["1"]).await;
    post(&here, "q", &["2"]).await;
    assert_eq!(next(&mut pushes).await, ["1", "2"]);
}

#[tokio::test]
async fn who_does_not_take_his_pushes_loses_his_connection_and_nobody_elses() {
    let world = World::new();
    let api = world.server();
    let (slow, mut slow_pushes) = api.listen(2);
    let (quick, mut quick_pushes) = api.listen(100);
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
    let (closed, _pushes) = here.listen(10);
    let (dropped, pushes) = here.listen(10);
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
    assert!(here.inner.audience.hall_is_empty());
}

#[tokio::test]
async fn who_is_unsubscribed_anywhere_gets_no_more() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.listen(100);
    let id = subscribe(&here, &listener, "q").await;
    let other = subscribe(&here, &listener.with_tag(1), "q").await;
    let gone = SubscriptionRef { queue: queue("q"), id: id.to_string() };
    there.delete_subscription(&caller(), gone).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    post(&there, "q", &["1"]).await;
    assert_eq!(pushes.next().await.unwrap().tag, 1);
    nothing(&mut pushes).await;
    let gone = SubscriptionRef { queue: queue("q"), id: other.to_string() };
    here.delete_subscription(&caller(), gone).await.unwrap();
    post(&there, "q", &["2"]).await;
    nothing(&mut pushes).await;
    subscribe(&here, &listener, "q").await;
    let purge = Purge { queue: queue("q"), messages: false, subscriptions: true };
    there.purge(&caller(), purge).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    post(&there, "q", &["3"]).await;
    nothing(&mut pushes).await;
}

#[tokio::test]
async fn another_life_of_a_queue_is_anothers() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.listen(100);
    subscribe(&here, &listener, "q").await;
    there.delete_queue(&caller(), queue("q")).await.unwrap();
    post(&there, "q", &["1"]).await;
    nothing(&mut pushes).await;
    subscribe(&here, &listener, "q").await;
    post(&there, "q", &["2"]).await;
    assert_eq!(next(&mut pushes).await, ["2"]);
}

#[tokio::test]
async fn a_subscription_ends_with_its_ttl() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.listen(100);
    subscribe(&api, &listener, "q").await;
    world.clock.advance(Duration::from_secs(3600));
    post(&api, "q", &["1"]).await;
    nothing(&mut pushes).await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_end_with_their_server() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.listen(10);
    subscribe(&here, &listener, "q").await;
    // It is as if it stood still: the clock goes on, it does not.
    world.clock.advance(Duration::from_secs(15));
    while world.store.sweep(world.clock.now(), 100).await.unwrap().more {}
    assert_eq!(listed(&there, "q").await, 0);
    assert_eq!(ended(&mut pushes).await, PushesEnded::Lost, "it wakes up and sees");
    let (listener, mut pushes) = here.listen(10);
    subscribe(&here, &listener, "q").await;
    post(&there, "q", &["1"]).await;
    assert_eq!(next(&mut pushes).await, ["1"], "whoever connects anew is served");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_somebody_listens_and_ends_when_nobody_does() {
    let world = World::new();
    let api = world.server();
    let (listener, mut pushes) = api.listen(10);
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
    assert!(!world.store.keep_lease(lease, now.plus_secs(5), now).await.unwrap(), "it was ended");
}

#[tokio::test]
async fn a_server_that_stops_ends_all() {
    let world = World::new();
    let (here, there) = (world.server(), world.server());
    let (listener, mut pushes) = here.listen(10);
    subscribe(&here, &listener, "q").await;
    here.stop_pushes().await;
    assert_eq!(ended(&mut pushes).await, PushesEnded::ShutDown);
    world.store.sweep(world.clock.now(), 100).await.unwrap();
    assert_eq!(listed(&there, "q").await, 0);
}
