//! Queues that arrive with positions that other queues of the store have, too.

use std::sync::Arc;

use bytes::Bytes;
use zaqar_core::storage::{
    ClaimRow, Claims, Contents, ContentsMark, Deleted, EntryRow, Error, FrozenHead, Heads,
    LeaseRequest, ListQuery, MessageRow, Messages, MoveId, Moves, NewSubscription, Outbox,
    OutboxEntry, OutboxMessage, PopQuery, Subscriptions, Upkeep,
};
use zaqar_core::{ClaimId, ClientId, MessageId, Payload, Position, QueueKey, SubscriptionId};

use crate::testing::{batch, generation, key, request, store, time};
use crate::{Embedded, Options};

const ID: MoveId = MoveId::new(9);
/// The positions of the messages of each queue that arrives.
const POSITIONS: [u64; 4] = [1 << 51, (1 << 51) + 1, (1 << 51) + 7, (1 << 51) + 900];
const LAST: Position = Position::new((1 << 51) + 1000);

fn id(position: u64) -> MessageId {
    MessageId { incarnation: generation().incarnation, position: Position::new(position) }
}

fn payload(text: String) -> Payload {
    Payload::plain(Bytes::from(text))
}

/// A queue whose bodies begin with its name. Its second message is claimed, and all of them have
/// been posted one by one to a subscriber.
fn contents(name: &str) -> Vec<Contents> {
    let held = ClaimId::new(5);
    let message = |position: u64| MessageRow {
        position: Position::new(position),
        client: ClientId::new("c"),
        payload: payload(format!("{name} {position}")),
        created: time(0),
        ttl: 600,
        expires: time(600),
        visible: time(0),
        claim: (position == POSITIONS[1]).then_some(held),
        claim_count: u32::from(position == POSITIONS[1]),
    };
    let entry = |position: u64| EntryRow {
        entry: OutboxEntry {
            incarnation: generation().incarnation,
            first: Position::new(position),
            messages: vec![OutboxMessage {
                id: id(position),
                payload: payload(format!("{name} {position}")),
                ttl: 600,
                due: time(0),
            }],
            created: time(0),
        },
        due: Some(time(0)),
        followed: time(60),
    };
    let claims = vec![ClaimRow { id: held, ttl: 300, since: time(0) }];
    let (early, late) = POSITIONS.split_at(2);
    vec![
        Contents { claims, ..Contents::default() },
        Contents { messages: early.iter().copied().map(message).collect(), ..Contents::default() },
        Contents { messages: late.iter().copied().map(message).collect(), ..Contents::default() },
        Contents { entries: POSITIONS.into_iter().map(entry).collect(), ..Contents::default() },
    ]
}

fn arriving() -> FrozenHead {
    FrozenHead { generation: generation(), last: LAST, time: time(0) }
}

async fn arrive(store: &Embedded, name: &str) -> QueueKey {
    let key = key(name);
    store.receive(&key, ID, arriving(), time(0)).await.unwrap();
    for part in contents(name) {
        assert!(store.import(&key, ID, &part, time(0)).await.unwrap());
    }
    store.thaw(&key, ID).await.unwrap();
    key
}

fn query(after: Option<MessageId>) -> ListQuery {
    let (include_claimed, include_delayed) = (true, true);
    ListQuery { after, limit: 3, hide: None, include_claimed, include_delayed }
}

/// Positions and bodies, page by page.
async fn listed(store: &Embedded, key: &QueueKey) -> Vec<(u64, String)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(key, &query(after), time(1)).await.unwrap();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let one = |it: zaqar_core::storage::Message| (it.id.position.get(), text(it.payload.bytes));
        found.extend(page.messages.into_iter().map(one));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

fn expected(name: &str) -> Vec<(u64, String)> {
    POSITIONS.map(|position| (position, format!("{name} {position}"))).to_vec()
}

#[tokio::test]
async fn queues_with_the_same_positions_arrive_side_by_side() {
    let (store, directory) = store();
    store.open(&key("own"), generation(), time(0)).await.unwrap();
    let own = store.post(&key("own"), generation(), batch(2, 600), time(0)).await.unwrap();
    let queues = [arrive(&store, "a").await, arrive(&store, "b").await];
    store.shut_down().await.unwrap();
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    for queue in &queues {
        assert_eq!(listed(&store, queue).await, expected(queue.name.as_str()));
        let all = POSITIONS.map(id);
        assert_eq!(store.get(queue, &all, time(1)).await.unwrap().len(), 4);
        let held = store.claim_get(queue, ClaimId::new(5), time(1)).await.unwrap().unwrap();
        assert_eq!(held.messages.iter().map(|one| one.id).collect::<Vec<_>>(), [all[1]]);
        let deleted = store.delete(queue, all[1], None, time(1)).await.unwrap();
        assert_eq!(deleted, Deleted::Claimed);
        let stats = store.stats(queue, time(1)).await.unwrap().unwrap();
        assert_eq!((stats.free, stats.claimed), (3, 1));
        let ends = stats.ends.unwrap();
        assert_eq!((ends.0.id, ends.1.id), (all[0], all[3]));
    }
    let [a, b] = &queues;
    store.delete(a, id(POSITIONS[0]), None, time(1)).await.unwrap();
    assert_eq!(listed(&store, a).await, expected("a")[1..]);
    assert_eq!(listed(&store, b).await, expected("b"));
    // New ones come after those that have arrived, and claims take them in order.
    let zaqar_core::storage::Guarded::Done(new) =
        store.post(a, generation(), batch(1, 600), time(1)).await.unwrap()
    else {
        panic!("the queue is there");
    };
    assert!(new[0].position > LAST);
    let popped = PopQuery { limit: 2, after: None, keys: Vec::new() };
    let popped = store.pop(a, &popped, time(1)).await.unwrap().messages;
    let popped: Vec<_> = popped.iter().map(|one| one.id).collect();
    assert_eq!(popped, [id(POSITIONS[2]), id(POSITIONS[3])]);
    // After the claim has ended, its message is claimed first again.
    let freed = store.claim_release(a, ClaimId::new(5), time(1)).await.unwrap();
    assert_eq!(freed, 1);
    store.claim(a, generation(), &request(6, 60), time(1)).await.unwrap();
    let taken = store.claim_get(a, ClaimId::new(6), time(1)).await.unwrap().unwrap();
    let taken: Vec<_> = taken.messages.iter().map(|one| one.id).collect();
    assert_eq!(taken, [id(POSITIONS[1]), new[0]]);
    // A marker that no store has assigned is past the end.
    let page = store.list(b, &query(Some(id(u64::MAX))), time(1)).await.unwrap();
    assert_eq!(page.messages, []);
    let zaqar_core::storage::Guarded::Done(own) = own else { panic!("the queue is there") };
    assert_eq!(store.get(&key("own"), &own, time(1)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn entries_with_the_same_positions_arrive_side_by_side() {
    let (store, _directory) = store();
    let incarnation = generation().incarnation;
    for name in ["a", "b"] {
        let queue = arrive(&store, name).await;
        let new = NewSubscription {
            id: SubscriptionId::new(1),
            subscriber: "http://a".to_owned(),
            ttl: 600,
            options: "{}".to_owned(),
            confirmed: true,
            lease: None,
        };
        store.subscribe(&queue, generation(), &new, time(1)).await.unwrap();
    }
    for name in ["a", "b"] {
        let queue = key(name);
        let start = Position::new(0);
        let all = store.follow(&queue, incarnation, start, 9, time(1)).await.unwrap();
        let firsts: Vec<_> = all.iter().map(|entry| entry.first.get()).collect();
        assert_eq!(firsts, POSITIONS);
        let rest = store.follow(&queue, incarnation, all[1].first, 9, time(1)).await.unwrap();
        assert_eq!(rest, all[2..]);
        let lease = LeaseRequest { until: time(90), limit: 1, bytes: 1000 };
        let leased = store.lease(&queue, &lease, time(1)).await.unwrap();
        assert_eq!(leased, all[..1]);
        assert_eq!(leased[0].messages[0].payload, payload(format!("{name} {}", POSITIONS[0])));
        store.settle(&queue, incarnation, &[leased[0].first]).await.unwrap();
        let next = store.lease(&queue, &lease, time(1)).await.unwrap();
        assert_eq!(next, all[1..2]);
    }
}

#[tokio::test]
async fn a_queue_that_arrived_leaves_with_the_same_positions() {
    let (store, _directory) = store();
    arrive(&store, "b").await;
    let queue = arrive(&store, "a").await;
    store.freeze(&queue, ID, time(1)).await.unwrap();
    let (mut parts, mut mark) = (Contents::default(), Some(ContentsMark::START));
    while let Some(from) = mark {
        let part = store.export(&queue, ID, from, 3, time(1)).await.unwrap().unwrap();
        parts.claims.extend(part.contents.claims);
        parts.messages.extend(part.contents.messages);
        parts.entries.extend(part.contents.entries);
        mark = part.next;
    }
    let imported = contents("a");
    assert_eq!(parts.claims, imported[0].claims);
    assert_eq!(
        parts.messages,
        [imported[1].messages.clone(), imported[2].messages.clone()].concat()
    );
    assert_eq!(parts.entries, imported[3].entries);
}

#[tokio::test]
async fn an_import_that_cannot_be_stored_is_rejected_as_a_whole() {
    let (store, _directory) = store();
    let queue = key("a");
    let far = FrozenHead { last: Position::new((1 << 62) + 1), ..arriving() };
    let refused = store.receive(&queue, ID, far, time(0)).await.unwrap_err();
    let said = format!("{refused:?}");
    assert!(said.contains("more than 4611686018427387904"), "{said}");
    assert_eq!(store.generation(&queue).await.unwrap(), None);
    store.receive(&queue, ID, arriving(), time(0)).await.unwrap();
    let parts = contents("a");
    assert!(store.import(&queue, ID, &parts[2], time(0)).await.unwrap());
    let refused = store.import(&queue, ID, &parts[1], time(0)).await.unwrap_err();
    assert!(matches!(refused, Error::Failed { .. }), "{refused}: an earlier part");
    store.discard(&queue, ID).await.unwrap();
    // As in a store that has reserved all of its positions.
    let exhaust = "UPDATE arrivals SET next = -100";
    store.write(move |state| state.conn.execute(exhaust, [])).await.unwrap();
    store.receive(&queue, ID, arriving(), time(0)).await.unwrap();
    let refused = store.import(&queue, ID, &parts[1], time(0)).await.unwrap_err();
    let said = format!("{refused:?}");
    assert!(said.contains("reserved all positions"), "{said}");
    store.thaw(&queue, ID).await.unwrap();
    assert_eq!(listed(&store, &queue).await, []);
}

/// Hidden messages are parts of a post by a process that died.
#[tokio::test]
async fn hidden_messages_are_not_exported() {
    let (store, _directory) = store();
    let queue = key("q");
    store.open(&queue, generation(), time(0)).await.unwrap();
    store.post(&queue, generation(), batch(2, 600), time(0)).await.unwrap();
    let own = queue.clone();
    let hide = move |state: &mut crate::writer_state::WriterState<'_>| {
        let head = state.head(&own)?.unwrap();
        let first = state.hide_next(&head, 3, &Arc::new(()))?;
        (first..first + 3).try_for_each(|at| state.insert_free(head.number, at, i64::MAX))
    };
    store.write(hide).await.unwrap();
    store.post(&queue, generation(), batch(2, 600), time(0)).await.unwrap();
    store.freeze(&queue, ID, time(0)).await.unwrap();
    let mark = ContentsMark::Messages(Position::new(0));
    let part = store.export(&queue, ID, mark, 3, time(0)).await.unwrap().unwrap();
    assert_eq!(part.contents.messages.len(), 3);
    let part = store.export(&queue, ID, part.next.unwrap(), 3, time(0)).await.unwrap().unwrap();
    assert_eq!(part.contents.messages.len(), 1);
}
