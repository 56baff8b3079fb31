//! Subscriptions: every line of [`zaqar_core::storage::Subscriptions`].

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use zaqar_core::storage::{
    Changed, Guarded, NewSubscription, RecipientQuery, Subscribed, Subscription, SubscriptionChange,
};
use zaqar_core::{Generation, LeaseId, Position, SubscriptionId, Version};

use super::at_once;
use crate::kit::{Kit, generation};
use crate::queue::Queue;
use crate::subscriber::{keep, on_lease, subscription};

fn id(number: u128) -> SubscriptionId {
    SubscriptionId::new(number)
}

fn numbers(subscriptions: &[Subscription]) -> Vec<u128> {
    subscriptions.iter().map(|one| one.id.get()).collect()
}

impl Queue {
    pub(crate) async fn subscribe(&self, new: &NewSubscription) -> Subscribed {
        match self.try_subscribe(self.generation, new).await {
            Guarded::Done(answer) => answer,
            refused => panic!("a subscription with the head's own generation: {refused:?}"),
        }
    }

    /// Subscribes a new subscriber; returns its start position.
    pub(crate) async fn subscribe_new(&self, new: &NewSubscription) -> Position {
        match self.subscribe(new).await {
            Subscribed::Created { after } => after,
            Subscribed::Exists(there) => panic!("{there:?} exists already"),
        }
    }

    pub(crate) async fn try_subscribe(
        &self,
        assumed: Generation,
        new: &NewSubscription,
    ) -> Guarded<Subscribed> {
        let answer = self.store.subscribe(&self.key, assumed, new, self.now()).await;
        answer.expect("subscribe answers")
    }

    async fn subscription(&self, id: SubscriptionId) -> Option<Subscription> {
        let answer = self.store.subscription(&self.key, id, self.now()).await;
        answer.expect("subscription answers")
    }

    async fn subscriptions_after(&self, after: Option<u128>, limit: usize) -> Vec<u128> {
        let after = after.map(SubscriptionId::new);
        let answer = self.store.subscriptions(&self.key, after, limit, self.now()).await;
        numbers(&answer.expect("subscriptions answers"))
    }

    /// The numbers of all live subscriptions.
    pub(crate) async fn subscribed(&self) -> Vec<u128> {
        self.subscriptions_after(None, 1000).await
    }

    pub(crate) async fn change(&self, id: SubscriptionId, change: &SubscriptionChange) -> Changed {
        let answer = self.store.change_subscription(&self.key, id, change, self.now()).await;
        answer.expect("change_subscription answers")
    }

    pub(crate) async fn unsubscribe(&self, number: u128) {
        let answer = self.store.unsubscribe(&self.key, id(number), self.now()).await;
        answer.expect("unsubscribe answers");
    }

    pub(crate) async fn unsubscribe_all(&self) {
        let answer = self.store.unsubscribe_all(&self.key, self.now()).await;
        answer.expect("unsubscribe_all answers");
    }
}

/// `subscribe`: "The head has `assumed` and no live subscription has the subscriber: it is
/// created."
pub(crate) async fn subscriptions_round_trip(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for (number, ttl, confirmed, lease) in [
        (1, 60, false, None),
        (2, 1_209_600, true, Some(LeaseId::new(u128::MAX))),
        (1 << 64, i64::MAX as u64, true, None),
        (u128::MAX, 60, false, Some(LeaseId::new(1))),
    ] {
        let new = NewSubscription {
            ttl,
            confirmed,
            lease,
            options: format!("{{ \"ünïcødé ☃\": [{number}, \"\\u0000\"] , \"a\": 1.0}}"),
            ..subscription(number, &format!("http://example.org/ü?{number}&$x={{}}"))
        };
        kit.pass_millis(1);
        let since = kit.now();
        queue.subscribe_new(&new).await;
        let NewSubscription { id, subscriber, ttl, options, confirmed, lease } = new;
        let expected = Subscription { id, subscriber, ttl, since, options, confirmed, lease };
        kit.pass(1);
        assert_eq!(queue.subscription(id).await.as_ref(), Some(&expected));
        let all = queue.store.subscriptions(&queue.key, None, 10, queue.now()).await;
        assert!(
            all.expect("subscriptions answers").contains(&expected),
            "listed as it is returned by id"
        );
    }
}

/// `subscribe`: "A live one has it: `Exists`; nothing changes."
pub(crate) async fn a_subscriber_subscribes_once(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = NewSubscription { confirmed: false, ..subscription(1, "mailto:a@example.org") };
    queue.subscribe_new(&first).await;
    let there = queue.subscription(id(1)).await.expect("it was created");
    kit.pass(10);
    let second = NewSubscription { ttl: 900, ..subscription(2, "mailto:a@example.org") };
    assert_eq!(queue.subscribe(&second).await, Subscribed::Exists(there.clone()));
    assert_eq!(queue.subscription(id(1)).await, Some(there));
    assert_eq!(queue.subscription(id(2)).await, None);
    queue.subscribe_new(&subscription(3, "mailto:A@example.org")).await;
    assert_eq!(queue.subscribed().await, [1, 3], "subscribers are compared by byte");
    let other = kit.queue("other").await;
    other.subscribe_new(&second).await;
}

/// `subscribe`: "If two callers race, one creates the subscription."
pub(crate) async fn one_of_many_subscribers_subscribes(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for round in 0..5 {
        let callers = (0..8).map(|n| {
            let new = subscription(round * 10 + n + 1, &format!("http://example.org/{round}"));
            let queue = queue.clone();
            async move { (new.id, queue.subscribe(&new).await) }
        });
        let answers = at_once(callers).await;
        let created: Vec<_> = answers
            .iter()
            .filter(|(_, answer)| matches!(answer, Subscribed::Created { .. }))
            .collect();
        assert_eq!(created.len(), 1, "one of many callers subscribes");
        for (_, answer) in &answers {
            if let Subscribed::Exists(there) = answer {
                assert_eq!(there.id, created[0].0, "the others get it");
            }
        }
    }
    assert_eq!(queue.subscribed().await.len(), 5);
}

/// `subscribe`: "No head: `Absent`. Another generation: `Stale`."
pub(crate) async fn subscribe_needs_the_generation(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    let new = subscription(1, "http://example.org");
    assert_eq!(queue.try_subscribe(queue.generation, &new).await, Guarded::Absent);
    assert_eq!(queue.head().await, None);
    assert_eq!(queue.subscribed().await, []);
    queue.open().await;
    let newer = Generation { version: Version::new(2), ..queue.generation };
    for assumed in [newer, generation(1)] {
        let answer = queue.try_subscribe(assumed, &new).await;
        assert_eq!(answer, Guarded::Stale(queue.generation));
    }
    assert_eq!(queue.subscribed().await, []);
}

/// `Subscriptions`: "live until … `now` reaches `since + ttl`. No method returns one that is not
/// live."
pub(crate) async fn a_subscription_expires_with_its_ttl(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for (number, ttl) in [(1, 60), (2, 90), (3, u64::MAX)] {
        let new = NewSubscription { ttl, ..subscription(number, &format!("http://{number}")) };
        queue.subscribe(&new).await;
    }
    kit.pass_almost(60);
    assert_eq!(queue.subscribed().await, [1, 2, 3]);
    kit.pass_millis(1);
    assert_eq!(queue.subscribed().await, [2, 3]);
    assert_eq!(queue.subscription(id(1)).await, None);
    assert_eq!(
        queue.subscriptions_after(None, 1).await,
        [2],
        "an expired one does not shorten a page"
    );
    let change = SubscriptionChange { ttl: Some(600), ..SubscriptionChange::default() };
    assert_eq!(queue.change(id(1), &change).await, Changed::Absent);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [2, 3]);
    kit.pass(100_000_000);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [3], "the expiry saturates at the latest time");
}

/// `subscribe`: "An expired one is ignored."
pub(crate) async fn an_expired_subscription_is_ignored(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.subscribe(&subscription(1, "http://a")).await;
    queue.subscribe(&subscription(2, "http://b")).await;
    kit.pass(300);
    queue.subscribe_new(&subscription(3, "http://a")).await;
    assert_eq!(queue.subscribed().await, [3]);
    let change = SubscriptionChange {
        subscriber: Some("http://b".to_owned()),
        ..SubscriptionChange::default()
    };
    assert_eq!(queue.change(id(3), &change).await, Changed::Done);
    kit.sweep().await;
    assert_eq!(
        queue.subscribed().await,
        [3],
        "the expiry of the old one does not affect the new one"
    );
    let again = queue.subscribe(&subscription(4, "http://b")).await;
    assert!(matches!(again, Subscribed::Exists(_)));
    queue.subscribe_new(&subscription(5, "http://a")).await;
}

/// `subscription`: "`None` for one that is unknown, expired or of another queue."
pub(crate) async fn a_subscription_is_of_one_queue(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let topic = kit.open(kit.key_of(zaqar_core::Kind::Topic, "q")).await;
    queue.subscribe(&subscription(1, "http://a")).await;
    for other in [&topic, &kit.queue("other").await, &kit.queue_at(kit.key("no"), generation(1))] {
        assert_eq!(other.subscription(id(1)).await, None);
        assert_eq!(other.subscribed().await, []);
        let change = SubscriptionChange { ttl: Some(600), ..SubscriptionChange::default() };
        assert_eq!(other.change(id(1), &change).await, Changed::Absent);
        other.unsubscribe(1).await;
        other.unsubscribe_all().await;
    }
    assert_eq!(queue.subscription(id(2)).await, None);
    assert_eq!(queue.subscription(id(1)).await.expect("it exists").ttl, 300);
    topic.subscribe_new(&subscription(1, "http://a")).await;
    topic.unsubscribe(1).await;
    assert_eq!(queue.subscribed().await, [1]);
}

/// `subscriptions`: "Begins with the first id greater than `after`, which need not exist. At most
/// `limit`; fewer only at the end."
pub(crate) async fn subscriptions_are_listed_by_id(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let all = [1, 2, 9, 10, 1 << 63, 1 << 64, u128::MAX - 1];
    for number in [all[3], all[0], all[6], all[4], all[2], all[5], all[1]] {
        queue.subscribe(&subscription(number, &format!("http://{number}"))).await;
    }
    assert_eq!(queue.subscribed().await, all);
    for limit in 1..=8 {
        let mut seen: Vec<u128> = Vec::new();
        while seen.len() < all.len() {
            let page = queue.subscriptions_after(seen.last().copied(), limit).await;
            assert_eq!(page.len(), limit.min(all.len() - seen.len()), "pages of {limit}");
            seen.extend(page);
        }
        assert_eq!(seen, all);
    }
    assert_eq!(queue.subscriptions_after(Some(5), 2).await, [9, 10], "5 need not exist");
    assert_eq!(queue.subscriptions_after(Some(u128::MAX - 1), 2).await, []);
    queue.unsubscribe(9).await;
    assert_eq!(queue.subscriptions_after(Some(9), 1).await, [10], "9 was removed");
}

/// `change_subscription`: "All of `change` is applied"; "A new ttl counts from `now`; without one
/// `since` does not change."
pub(crate) async fn a_change_sets_only_its_fields(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.subscribe(&subscription(1, "http://a")).await;
    let mut expected = queue.subscription(id(1)).await.expect("it was created");
    kit.pass(50);
    assert_eq!(queue.change(id(1), &SubscriptionChange::default()).await, Changed::Done);
    assert_eq!(queue.subscription(id(1)).await.as_ref(), Some(&expected));
    let change = SubscriptionChange {
        subscriber: Some("http://b".to_owned()),
        options: Some("{\"b\": 2}".to_owned()),
        confirmed: Some(false),
        ttl: None,
    };
    assert_eq!(queue.change(id(1), &change).await, Changed::Done);
    expected.subscriber = "http://b".to_owned();
    expected.options = "{\"b\": 2}".to_owned();
    expected.confirmed = false;
    assert_eq!(queue.subscription(id(1)).await.as_ref(), Some(&expected));
    let change = SubscriptionChange { ttl: Some(400), ..SubscriptionChange::default() };
    assert_eq!(queue.change(id(1), &change).await, Changed::Done);
    (expected.ttl, expected.since) = (400, kit.now());
    assert_eq!(queue.subscription(id(1)).await.as_ref(), Some(&expected));
    kit.pass(300);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [1], "its first ttl does not count any more");
    kit.pass_almost(100);
    assert_eq!(queue.subscribed().await, [1]);
    kit.pass_millis(1);
    assert_eq!(queue.subscribed().await, []);
}

/// `change_subscription`: "Another live subscription has the new subscriber: `Duplicate`"; "or
/// nothing".
pub(crate) async fn a_change_to_a_taken_subscriber_changes_nothing(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.subscribe(&subscription(1, "http://a")).await;
    queue.subscribe(&subscription(2, "http://b")).await;
    let before = queue.subscription(id(1)).await;
    let change = SubscriptionChange {
        subscriber: Some("http://b".to_owned()),
        ttl: Some(900),
        options: Some("{\"x\": 1}".to_owned()),
        confirmed: Some(false),
    };
    kit.pass(10);
    assert_eq!(queue.change(id(1), &change).await, Changed::Duplicate);
    assert_eq!(queue.subscription(id(1)).await, before);
    let own = SubscriptionChange { subscriber: Some("http://a".to_owned()), ..change.clone() };
    assert_eq!(
        queue.change(id(1), &own).await,
        Changed::Done,
        "its own subscriber is not a duplicate"
    );
    queue.unsubscribe(2).await;
    assert_eq!(queue.change(id(1), &change).await, Changed::Done);
    queue.subscribe_new(&subscription(3, "http://a")).await;
    let taken = queue.subscribe(&subscription(4, "http://b")).await;
    assert!(matches!(taken, Subscribed::Exists(there) if there.id == id(1)));
}

/// `change_subscription`: "Another live subscription has the new subscriber: `Duplicate`", also
/// with concurrent changes.
pub(crate) async fn one_of_many_changes_to_a_subscriber_succeeds(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for number in 1..=8 {
        queue.subscribe(&subscription(number, &format!("http://{number}"))).await;
    }
    let subscriber = Some("http://wanted".to_owned());
    let change = SubscriptionChange { subscriber, ..SubscriptionChange::default() };
    let callers = (1..=8).map(|number| {
        let (queue, change) = (queue.clone(), change.clone());
        async move { queue.change(id(number), &change).await }
    });
    let answers = at_once(callers).await;
    let made = answers.iter().filter(|answer| **answer == Changed::Done).count();
    let refused = answers.iter().filter(|answer| **answer == Changed::Duplicate).count();
    assert_eq!((made, refused), (1, 7), "{answers:?}");
}

/// `unsubscribe`: "a missing one is not an error"; "The subscriber can subscribe again
/// immediately."
pub(crate) async fn unsubscribe_removes_one(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for (number, subscriber) in [(1, "http://a"), (2, "http://b"), (3, "http://c")] {
        queue.subscribe(&subscription(number, subscriber)).await;
    }
    queue.unsubscribe(2).await;
    queue.unsubscribe(2).await;
    queue.unsubscribe(77).await;
    assert_eq!(queue.subscribed().await, [1, 3]);
    assert_eq!(queue.subscription(id(2)).await, None);
    queue.subscribe_new(&subscription(4, "http://b")).await;
    assert_eq!(queue.subscribed().await, [1, 3, 4]);
}

/// `unsubscribe_all`: "Removes all subscriptions of a queue."
pub(crate) async fn unsubscribe_all_removes_all(kit: &mut Kit) {
    let (queue, other) = (kit.queue("q").await, kit.queue("other").await);
    for number in 1..=30 {
        queue.subscribe(&subscription(number, &format!("http://{number}"))).await;
    }
    other.subscribe(&subscription(1, "http://1")).await;
    queue.unsubscribe_all().await;
    assert_eq!(queue.subscribed().await, []);
    assert_eq!(queue.subscription(id(7)).await, None);
    queue.subscribe_new(&subscription(31, "http://7")).await;
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [31], "later ones stay");
    assert_eq!(other.subscribed().await, [1]);
    queue.unsubscribe_all().await;
    queue.unsubscribe_all().await;
    assert_eq!(queue.subscribed().await, []);
}

/// `Subscriptions`: "Closing the queue's head removes all of them."; a purge of messages removes
/// none.
pub(crate) async fn closing_removes_subscriptions(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.subscribe(&subscription(1, "http://a")).await;
    queue.purge().await;
    assert_eq!(queue.subscribed().await, [1], "a purge removes only messages");
    queue.close().await;
    assert_eq!(queue.subscribed().await, []);
    assert_eq!(queue.subscription(id(1)).await, None);
    let next = kit.open(queue.key.clone()).await;
    assert_eq!(next.subscribed().await, []);
    next.subscribe_new(&subscription(2, "http://a")).await;
    kit.sweep().await;
    assert_eq!(next.subscribed().await, [2]);
}

/// `leased_subscriptions`: only those of one lease, by id, with their expiry, in pages.
pub(crate) async fn subscriptions_on_a_lease_are_listed_separately(kit: &mut Kit) {
    let (queue, other) = (kit.queue("q").await, kit.queue("other").await);
    let (ours, theirs) = (kit.lease(1), kit.lease(2));
    for lease in [ours, theirs] {
        assert!(keep(kit, lease, 1000).await);
    }
    queue.subscribe_new(&subscription(1, "http://a")).await;
    for (number, lease) in [(2, ours), (3, theirs), (4, ours), (5, ours)] {
        queue
            .subscribe_new(&NewSubscription { ttl: 60 * number as u64, ..on_lease(lease, number) })
            .await;
    }
    other.subscribe_new(&on_lease(ours, 6)).await;
    let start = kit.now();
    let listed = async |lease, after, limit| {
        let listed =
            queue.store.leased_subscriptions(&queue.key, lease, after, limit, kit.now()).await;
        listed.expect("leased_subscriptions answers")
    };
    let ends = |number: u64| (id(u128::from(number)), start.plus_secs(60 * number));
    assert_eq!(listed(ours, None, 10).await, [ends(2), ends(4), ends(5)]);
    assert_eq!(listed(ours, None, 2).await, [ends(2), ends(4)]);
    assert_eq!(listed(ours, Some(id(3)), 10).await, [ends(4), ends(5)]);
    assert_eq!(listed(theirs, None, 10).await, [ends(3)]);
    assert_eq!(listed(kit.lease(3), None, 10).await, []);
    kit.pass(240);
    assert_eq!(listed(ours, None, 10).await, [ends(5)]);
    queue.unsubscribe_all().await;
    assert_eq!(listed(ours, None, 10).await, []);
}

async fn recipients(
    kit: &Kit,
    queue: &Queue,
    after: Option<u128>,
    limit: usize,
    confirmed_only: bool,
) -> Vec<u128> {
    let query = RecipientQuery { after: after.map(id), limit, confirmed_only };
    let listed = queue.store.recipients(&queue.key, &query, kit.now()).await;
    listed.expect("recipients answers").into_iter().map(SubscriptionId::get).collect()
}

/// `recipients`: live subscriptions without a lease, by id, in pages.
pub(crate) async fn recipients_have_an_address(kit: &mut Kit) {
    let (queue, other) = (kit.queue("q").await, kit.queue("other").await);
    let lease = kit.lease(1);
    assert!(keep(kit, lease, 1000).await);
    for number in [5, 2, 3, 7] {
        let ttl = if number == 3 { 60 } else { 600 };
        let new = subscription(number, &format!("http://{number}"));
        queue.subscribe_new(&NewSubscription { ttl, ..new }).await;
    }
    queue.subscribe_new(&on_lease(lease, 4)).await;
    other.subscribe_new(&subscription(6, "http://6")).await;
    assert_eq!(recipients(kit, &queue, None, 10, false).await, [2, 3, 5, 7]);
    assert_eq!(recipients(kit, &queue, None, 3, false).await, [2, 3, 5]);
    assert_eq!(recipients(kit, &queue, Some(3), 10, false).await, [5, 7]);
    assert_eq!(recipients(kit, &queue, Some(4), 1, false).await, [5]);
    kit.pass(60);
    assert_eq!(recipients(kit, &queue, None, 10, false).await, [2, 5, 7]);
    queue.unsubscribe(5).await;
    assert_eq!(recipients(kit, &queue, None, 10, false).await, [2, 7]);
    queue.unsubscribe_all().await;
    assert_eq!(recipients(kit, &queue, None, 10, false).await, [0; 0]);
    queue.close().await;
    assert_eq!(recipients(kit, &queue, None, 10, false).await, [0; 0], "no head");
}

/// `recipients`: "With `confirmed_only` only confirmed ones."; whatever their size.
pub(crate) async fn recipients_may_have_to_be_confirmed(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    // Many that are passed, and options of which stores may keep the larger ones apart.
    for number in 1..=150 {
        let confirmed = number % 60 == 0;
        let options =
            format!("{{\"x\":\"{}\"}}", "x".repeat(if number % 7 == 0 { 3000 } else { 1 }));
        let new = subscription(number, &format!("http://{number}"));
        queue.subscribe_new(&NewSubscription { confirmed, options, ..new }).await;
    }
    assert_eq!(recipients(kit, &queue, None, 10, true).await, [60, 120]);
    assert_eq!(recipients(kit, &queue, None, 1, true).await, [60]);
    assert_eq!(recipients(kit, &queue, Some(60), 10, true).await, [120]);
    assert_eq!(recipients(kit, &queue, None, 200, false).await.len(), 150);
    for (number, confirmed) in [(60, false), (70, true)] {
        let change = SubscriptionChange { confirmed: Some(confirmed), ..Default::default() };
        queue.change(id(number), &change).await;
    }
    assert_eq!(recipients(kit, &queue, None, 10, true).await, [70, 120]);
    let large = queue.subscription(id(70)).await.expect("it is live");
    assert_eq!(large.options.len(), 3008, "a change keeps large options");
}
