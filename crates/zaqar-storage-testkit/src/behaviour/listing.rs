//! `list`: lines of [`zaqar_core::storage::Messages::list`] and of its page.

use zaqar_core::storage::{Deletable, ListQuery, MessagePage};
use zaqar_core::{ClientId, MessageId, Position};

use super::messages::{with_delay, with_ttl};
use crate::kit::{Kit, generation};
use crate::queue::{Queue, everything, ids, message, visible};

fn after(marker: MessageId) -> ListQuery {
    ListQuery { after: Some(marker), ..everything() }
}

async fn ids_after(queue: &Queue, marker: MessageId) -> Vec<MessageId> {
    ids(&queue.follow(after(marker)).await)
}

/// `list`: "`next` is `None` only if the page is empty because the end of the queue was reached."
pub(crate) async fn an_empty_queue_has_an_empty_page(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    assert_eq!(queue.page(&everything()).await, MessagePage::default());
    let p = queue.post(2).await;
    queue.delete_many(&p, &Deletable::Any).await;
    assert_eq!(queue.ids().await, []);
}

/// `list`: "A queue without a head: an empty page."
pub(crate) async fn no_head_has_an_empty_page(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    assert_eq!(queue.page(&everything()).await, MessagePage::default());
    let marker =
        MessageId { incarnation: queue.generation.incarnation, position: Position::new(3) };
    assert_eq!(queue.page(&after(marker)).await, MessagePage::default());
}

/// `list`: "at most `query.limit` messages", "ordered by position"; `next`: "The marker of the next
/// page".
pub(crate) async fn pages_follow_each_other(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(20).await;
    for limit in [1, 3, 10, 19, 20, 21, 1000] {
        let query = ListQuery { limit, ..everything() };
        assert_eq!(ids(&queue.follow(query.clone()).await), p, "pages of {limit}");
        let page = queue.page(&query).await;
        assert_eq!(ids(&page.messages), p[..limit.min(20)], "pages are full");
    }
    for (n, marker) in p.iter().enumerate() {
        assert_eq!(ids_after(&queue, *marker).await, p[n + 1..], "any id is a marker");
    }
}

/// `list`: "`next` is `None` only if the page is empty": continuing from the last page returns
/// later posts, and only those.
pub(crate) async fn the_last_page_has_a_marker(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(3).await;
    for limit in [3, 100] {
        let page = queue.page(&ListQuery { limit, ..everything() }).await;
        let next = page.next.expect("a page with messages has a marker");
        assert_eq!(queue.page(&after(next)).await, MessagePage::default());
        let later = queue.post(2).await;
        assert_eq!(ids_after(&queue, next).await, later);
    }
}

/// `list`: "after `query.after`, which need not exist any more": deleted or popped.
pub(crate) async fn a_marker_need_not_exist(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(8).await;
    queue.pop(2).await;
    queue.delete_many(&[p[3], p[4], p[7]], &Deletable::Any).await;
    let left = [p[2], p[5], p[6]];
    for marker in &p {
        let expected: Vec<_> = left.into_iter().filter(|id| id > marker).collect();
        assert_eq!(ids_after(&queue, *marker).await, expected);
    }
    queue.delete_many(&left, &Deletable::Any).await;
    assert_eq!(ids_after(&queue, p[2]).await, []);
    let later = queue.post(2).await;
    for marker in p {
        assert_eq!(ids_after(&queue, marker).await, later);
    }
}

/// `list`: "which need not exist any more": expired, and swept.
pub(crate) async fn a_marker_may_have_expired(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue
        .post_new(vec![with_ttl(60), message("a"), with_ttl(60), message("b"), with_ttl(60)])
        .await;
    kit.pass(60);
    for _ in 0..2 {
        for (n, marker) in p.iter().enumerate() {
            let expected: Vec<_> = [p[1], p[3]].into_iter().filter(|id| *id > p[n]).collect();
            assert_eq!(ids_after(&queue, *marker).await, expected);
        }
        kit.sweep().await;
    }
    let later = queue.post(1).await;
    assert_eq!(ids_after(&queue, p[4]).await, later);
}

/// `ListQuery::after`: "at the start of the queue if it is `None` or of another incarnation".
pub(crate) async fn a_marker_of_another_incarnation_begins_at_the_start(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(4).await;
    let incarnation = queue.generation.incarnation.get();
    for other in [incarnation ^ 1, incarnation ^ (1 << 62), 0, i64::MAX as u64] {
        for position in [0, p[2].position.get(), i64::MAX as u64] {
            let marker = MessageId {
                incarnation: zaqar_core::Incarnation::new(other),
                position: Position::new(position),
            };
            assert_eq!(ids_after(&queue, marker).await, p);
        }
    }
    let before_all = MessageId { position: Position::new(0), ..p[0] };
    assert_eq!(ids_after(&queue, before_all).await, p, "position 0 is before every message");
}

/// `list`: there is nothing after a marker past the end.
pub(crate) async fn a_marker_after_the_end_gives_an_empty_page(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    for position in [p[1].position.get() + 1, p[1].position.get() + 1000, i64::MAX as u64] {
        let marker = MessageId { position: Position::new(position), ..p[0] };
        assert_eq!(queue.page(&after(marker)).await, MessagePage::default());
    }
    assert_eq!(queue.ids().await, p);
}

/// `ListQuery::include_claimed`: "Include messages that a live claim holds."
pub(crate) async fn claimed_messages_are_listed_on_request(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(5).await;
    let (claim, taken) = queue.claim(2).await;
    let with = ListQuery { include_claimed: true, ..visible() };
    assert_eq!(queue.shown().await, p[2..]);
    let listed = queue.follow(with.clone()).await;
    assert_eq!(ids(&listed), p);
    assert_eq!(listed[..2], taken, "a claimed message is listed as the claim returned it");
    assert!(listed[2..].iter().all(|message| message.claim.is_none()));
    kit.pass(100);
    assert_eq!(queue.shown().await, p, "the claim has expired");
    let listed = queue.follow(with).await;
    assert!(listed.iter().all(|message| message.claim.is_none()), "{claim} has expired");
    assert_eq!(listed.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [1, 1, 0, 0, 0]);
}

/// `ListQuery::include_delayed`: "Include messages that are still delayed."
pub(crate) async fn delayed_messages_are_listed_on_request(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![message("a"), with_delay(30), message("b"), with_delay(60)]).await;
    let (_, taken) = queue.claim(1).await;
    assert_eq!(ids(&taken), [p[0]]);
    let delayed = ListQuery { include_delayed: true, ..visible() };
    let claimed = ListQuery { include_claimed: true, ..visible() };
    assert_eq!(queue.shown().await, [p[2]]);
    assert_eq!(ids(&queue.follow(delayed.clone()).await), [p[1], p[2], p[3]]);
    assert_eq!(ids(&queue.follow(claimed).await), [p[0], p[2]]);
    assert_eq!(queue.ids().await, p);
    kit.pass(30);
    assert_eq!(queue.shown().await, [p[1], p[2]]);
    assert_eq!(ids(&queue.follow(delayed).await), [p[1], p[2], p[3]]);
}

/// `list`: "skipping only those that the query excludes": a page is filled past excluded messages.
pub(crate) async fn excluded_clients_do_not_shorten_pages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let (own, other) = ("5b0d6f2a-0c36-4c0e-8a6e-6f1f4b1a7a01", "someone else, ünïcødé");
    let (mut owns, mut others) = (Vec::new(), Vec::new());
    for n in 0..6 {
        owns.extend(queue.post_as(own, vec![message("own"), message("own")]).await);
        others.extend(queue.post_as(other, vec![message("other")]).await);
        kit.pass(n);
    }
    let hide = |client: &str| Some(ClientId::new(client));
    let query = ListQuery { hide: hide(own), limit: 4, ..everything() };
    let page = queue.page(&query).await;
    assert_eq!(ids(&page.messages), others[..4], "the page is filled");
    assert_eq!(ids(&queue.follow(query).await), others);
    let query = ListQuery { hide: hide(other), limit: 5, ..everything() };
    assert_eq!(ids(&queue.follow(query).await), owns);
    let query = ListQuery { hide: hide("nobody"), ..everything() };
    assert_eq!(queue.follow(query).await.len(), 18);
    queue.delete_many(&others, &Deletable::Any).await;
    let query = ListQuery { hide: hide(own), ..everything() };
    assert_eq!(queue.follow(query).await, [], "all remaining messages are excluded");
}

/// `list`: "skipping only those that the query excludes": claimed and delayed ones do not shorten
/// pages.
pub(crate) async fn excluded_claims_do_not_shorten_pages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let claimed = queue.post(9).await;
    queue.claim(9).await;
    queue.post_new(vec![with_delay(600), with_delay(600), with_delay(600)]).await;
    let free = queue.post(5).await;
    let page = queue.page(&ListQuery { limit: 3, ..visible() }).await;
    assert_eq!(ids(&page.messages), free[..3], "the page is filled");
    assert_eq!(queue.shown().await, free);
    let marker = ListQuery { after: Some(claimed[4]), ..visible() };
    assert_eq!(ids(&queue.follow(marker).await), free, "a claimed message works as a marker");
}

/// `list`: "A page examines a bounded number of messages; if that ends it early, `next` is where to
/// continue."
pub(crate) async fn a_long_excluded_run_is_skipped(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post_as("other", vec![message("first")]).await;
    for _ in 0..6 {
        queue.post_as("own", (0..250).map(|n| message(&n.to_string())).collect()).await;
    }
    let last = queue.post_as("other", vec![message("a"), message("b")]).await;
    let shown = [&first[..], &last].concat();
    let hide = Some(ClientId::new("own"));
    let query = ListQuery { hide, limit: 2, ..everything() };
    assert_eq!(ids(&queue.follow(query.clone()).await), shown, "every page makes progress");
    let mut claimed = 0;
    while claimed < 1502 {
        let (_, taken) = queue.claim(250.min(1502 - claimed)).await;
        assert!(!taken.is_empty(), "free messages are claimed");
        claimed += taken.len();
    }
    assert_eq!(queue.shown().await, last[1..], "after a long claimed run");
    assert_eq!(ids(&queue.follow(query).await), shown);
}
