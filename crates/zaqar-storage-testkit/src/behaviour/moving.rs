//! Moves: every line of [`zaqar_core::storage::Moves`]. A store that moves no queues passes.
//!
//! The queue moves to another name in the same store, as a store cannot tell.

use zaqar_core::storage::{
    ClaimRequest, Claims, Contents, ContentsMark, Deletable, Error, FrozenHead, Heads,
    LeaseRequest, Messages, MoveEnd, MoveId, Moves, NewSubscription, PopQuery, SubscriptionChange,
};
use zaqar_core::{Checksum, KeyId, Kind, Payload, SubscriptionId, Timestamp};

use super::messages::{with_delay, with_ttl};
use crate::kit::Kit;
use crate::queue::{Queue, batch, everything, message, request};
use crate::subscriber::{keep, on_lease, subscription};

/// Calls after which a walk is considered to be in a loop.
const MAX_STEPS: usize = 10_000;

fn new_move() -> MoveId {
    MoveId::new(rand::random())
}

async fn frozen(moves: &dyn Moves, queue: &Queue, id: MoveId) -> FrozenHead {
    let frozen = moves.freeze(&queue.key, id, queue.now()).await.expect("freeze answers");
    frozen.expect("the head exists")
}

/// All contents of a frozen head, in parts of about this many rows.
async fn parts(moves: &dyn Moves, queue: &Queue, id: MoveId, limit: usize) -> Vec<Contents> {
    let (mut all, mut mark) = (Vec::new(), ContentsMark::START);
    for _ in 0..MAX_STEPS {
        let part = moves.export(&queue.key, id, mark, limit, queue.now()).await;
        let part = part.expect("export answers").expect("the head is frozen by this move");
        all.push(part.contents);
        match part.next {
            Some(next) => mark = next,
            None => return all,
        }
    }
    panic!("an export does not end after {MAX_STEPS} parts");
}

/// Moves everything of a queue to another name; returns the queue of that name.
async fn moved(kit: &Kit, moves: &dyn Moves, from: &Queue, times: usize) -> Queue {
    let id = new_move();
    let head = frozen(moves, from, id).await;
    let to = kit.queue_at(kit.key("arrived"), from.generation);
    for _ in 0..2 {
        moves.receive(&to.key, id, head, kit.now()).await.expect("a head is opened once");
    }
    for part in parts(moves, from, id, 3).await {
        for _ in 0..times {
            let imported = moves.import(&to.key, id, &part, kit.now()).await;
            assert!(imported.expect("import answers"), "the head is this move's");
        }
    }
    moves.thaw(&to.key, id).await.expect("thaw answers");
    to
}

/// Whether a call was refused, as the head is frozen by this move.
fn is_moved<T>(answer: Result<T, Error>, id: MoveId) -> bool {
    matches!(answer, Err(Error::Moved { id: of, .. }) if of == id)
}

/// "A *frozen* head rejects every call of the other traits with [`Error::Moved`], which does
/// nothing then".
pub(crate) async fn a_frozen_head_rejects_every_call(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = kit.queue("q").await;
    let posted = queue.post(2).await;
    let (claim, _) = queue.claim(1).await;
    let id = new_move();
    frozen(moves, &queue, id).await;
    let (store, key, generation, now) = (kit.store(), &queue.key, queue.generation, kit.now());
    let pop = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let (subscriber, change) = (subscription(1, "http://a"), SubscriptionChange::default());
    let (lease, incarnation, first) = (kit.lease(1), generation.incarnation, posted[0].position);
    let posting = store.post(key, generation, batch("c", vec![message("late")]), now).await;
    let listing = store.list(key, &everything(), now).await;
    let leased = store.leased_subscriptions(key, lease, None, 1, now).await;
    let changing = store.change_subscription(key, subscriber.id, &change, now).await;
    let any = &Deletable::Any;
    for (call, is_rejected) in [
        ("open", is_moved(Heads::open(store, key, generation, now).await, id)),
        ("generation", is_moved(store.generation(key).await, id)),
        ("advance", is_moved(store.advance(key, generation).await, id)),
        ("close", is_moved(Heads::close(store, key, incarnation).await, id)),
        ("post", is_moved(posting, id)),
        ("list", is_moved(listing, id)),
        ("get", is_moved(Messages::get(store, key, &posted, now).await, id)),
        ("delete", is_moved(store.delete(key, posted[1], None, now).await, id)),
        ("delete_many", is_moved(store.delete_many(key, &posted, any, now).await, id)),
        ("pop", is_moved(store.pop(key, &pop, now).await, id)),
        ("purge", is_moved(store.purge(key, now).await, id)),
        ("stats", is_moved(store.stats(key, now).await, id)),
        ("claim", is_moved(Claims::claim(store, key, generation, &request(1), now).await, id)),
        ("claim_each", is_moved(store.claim_each(key, generation, &[claim], 60, now).await, id)),
        ("claim_get", is_moved(store.claim_get(key, claim, now).await, id)),
        ("claim_renew", is_moved(store.claim_renew(key, claim, 60, 60, now).await, id)),
        ("claim_release", is_moved(store.claim_release(key, claim, now).await, id)),
        ("subscribe", is_moved(store.subscribe(key, generation, &subscriber, now).await, id)),
        ("subscription", is_moved(store.subscription(key, subscriber.id, now).await, id)),
        ("subscriptions", is_moved(store.subscriptions(key, None, 1, now).await, id)),
        ("leased_subscriptions", is_moved(leased, id)),
        ("change_subscription", is_moved(changing, id)),
        ("unsubscribe", is_moved(store.unsubscribe(key, subscriber.id, now).await, id)),
        ("unsubscribe_all", is_moved(store.unsubscribe_all(key, now).await, id)),
        ("lease", is_moved(store.lease(key, &lease_one(now), now).await, id)),
        ("settle", is_moved(store.settle(key, incarnation, &[first]).await, id)),
        ("follow", is_moved(store.follow(key, incarnation, first, 1, now).await, id)),
    ] {
        assert!(is_rejected, "{call} of a frozen head");
    }
    // A dead letter to a frozen queue stays where it is.
    let source = kit.queue("source").await;
    source.post(1).await;
    let (exhausted, _) = source.claim(1).await;
    source.release(exhausted).await;
    let rule = Some(queue.as_target(1, None));
    let request = ClaimRequest { dead_letters: rule, ..request(1) };
    let claimed = Claims::claim(store, &source.key, source.generation, &request, now).await;
    assert!(is_moved(claimed, id), "a claim whose dead letters go to a frozen head");
    moves.thaw(key, id).await.expect("thaw answers");
    assert_eq!(queue.ids().await, posted, "no rejected call did anything");
}

/// `thaw`: "Ends the freeze of a head, which serves from now on".
pub(crate) async fn a_head_that_thaws_serves_as_before(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = kit.queue("q").await;
    queue.subscribe_new(&subscription(1, "http://a")).await;
    queue.post(3).await;
    let (claim, held) = queue.claim(1).await;
    let before = (queue.all().await, queue.stats().await);
    let id = new_move();
    let head = frozen(moves, &queue, id).await;
    assert_eq!(head.generation, queue.generation);
    assert_eq!(frozen(moves, &queue, id).await, head, "a repeat");
    moves.thaw(&queue.key, id).await.expect("thaw answers");
    assert_eq!((queue.all().await, queue.stats().await), before);
    assert_eq!(queue.claim_get(claim).await.expect("the claim lives").messages, held);
    assert_eq!(queue.lease().await.expect("the entry is due").messages.len(), 3);
    let missing = kit.queue_at(kit.key("missing"), queue.generation);
    let frozen = moves.freeze(&missing.key, id, kit.now()).await.expect("freeze answers");
    assert_eq!(frozen, None, "a queue without a head");
}

fn lease_one(until: Timestamp) -> LeaseRequest {
    LeaseRequest { until, limit: 1, bytes: usize::MAX }
}

/// A queue with messages in every state, claims, subscriptions and entries.
async fn full(kit: &Kit) -> Queue {
    let queue = kit.queue("q").await;
    let lease = kit.lease(7);
    assert!(keep(kit, lease, 1_000_000).await);
    queue.post_as("early", vec![message("silent"), with_ttl(5)]).await;
    for number in 1..=4 {
        let options = format!(r#"{{"n":{number}}}"#);
        let subscriber = format!("http://{number}");
        let confirmed = number % 2 == 0;
        let new = subscription(number, &subscriber);
        queue.subscribe_new(&NewSubscription { options, confirmed, ..new }).await;
    }
    queue.subscribe_new(&on_lease(lease, 9)).await;
    kit.pass(1);
    let sealed = Some(KeyId("key".to_owned()));
    let checksum = Some(Checksum([7; 16]));
    let mut odd = message("odd");
    odd.payload = Payload { sealed_with: sealed, checksum, ..odd.payload };
    queue.post_new(vec![odd, with_delay(30), message("two"), message("three")]).await;
    kit.pass_millis(500);
    queue.post_as("late", (0..5).map(|n| message(&format!("more {n}"))).collect()).await;
    let (exhausted, _) = queue.claim(2).await;
    queue.release(exhausted).await;
    kit.pass(5);
    let entry = queue.lease().await.expect("the first entry is due");
    queue.settle(entry.messages[0].id).await;
    queue
}

/// What can be read of a queue that changes nothing.
async fn readings(queue: &Queue) -> impl PartialEq + std::fmt::Debug + use<> {
    let subscriptions =
        queue.store.subscriptions(&queue.key, None, 100, queue.now()).await.expect("it answers");
    let entries = queue.entries(queue.generation.incarnation, 0, 100).await;
    (queue.all().await, queue.shown().await, queue.stats().await, subscriptions, entries)
}

/// `lease`: "A leased entry blocks those after it", wherever the queue is.
pub(crate) async fn a_leased_entry_blocks_others_after_a_move(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = kit.queue("q").await;
    queue.subscribe(&subscription(1, "http://a")).await;
    let posted = [queue.post(1).await[0], queue.post(1).await[0]];
    queue.lease().await.expect("the first entry is due");
    let to = moved(kit, moves, &queue, 1).await;
    assert_eq!(to.lease().await, None, "the second entry waits for the first");
    kit.pass(60);
    let firsts: Vec<_> = to.lease_many(10, usize::MAX).await.iter().map(|one| one.first).collect();
    assert_eq!(firsts, posted.map(|id| id.position));
}

/// `export`: "messages with their positions, ages, expiry, delays, claims and claim counts; claims;
/// subscriptions; outbox entries with a reader". `import`: "every read returns what the source
/// would have".
pub(crate) async fn everything_arrives(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = full(kit).await;
    let (claim, held) = queue.claim(2).await;
    let (second, _) = queue.claim(3).await;
    let before = readings(&queue).await;
    let to = moved(kit, moves, &queue, 1).await;
    assert_eq!(readings(&to).await, before);
    assert_eq!(to.head().await, Some(queue.generation));
    // Everything goes on as before the move.
    assert_eq!(to.claim_get(claim).await.expect("the claim lives").messages, held);
    assert!(to.renew(claim, 100, 60).await);
    to.release(second).await;
    assert_eq!(to.stats().await.claimed, 2);
    let entry = to.lease().await.expect("the second entry is due");
    assert_eq!(entry.messages.len(), 5);
    to.settle(entry.messages[0].id).await;
    assert_eq!(to.lease().await, None);
    kit.pass(30);
    kit.sweep().await;
    let stats = to.stats().await;
    assert_eq!((stats.claimed, stats.delayed), (2, 0), "the delay is over: {stats:?}");
    let last = to.all().await.last().expect("there are messages").id;
    let next = to.post(1).await[0];
    assert!(next > last, "positions go on");
    kit.pass(101);
    kit.sweep().await;
    assert_eq!(to.stats().await.claimed, 0, "the claim has expired");
    assert_eq!(to.claim(100).await.1.len(), to.all().await.len());
    let change = SubscriptionChange { ttl: Some(7), ..SubscriptionChange::default() };
    to.change(SubscriptionId::new(3), &change).await;
    kit.pass(7);
    kit.sweep().await;
    assert_eq!(to.subscribed().await, [1, 2, 4, 9]);
    kit.pass(3600);
    kit.sweep().await;
    assert_eq!(to.all().await, [], "they expire");
    assert_eq!(to.subscribed().await, [9]);
}

/// `import`: "A repeat changes nothing". `receive`: "One that this move opened: it does not
/// change".
pub(crate) async fn a_repeated_import_changes_nothing(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = full(kit).await;
    let (claim, held) = queue.claim(2).await;
    let before = readings(&queue).await;
    let to = moved(kit, moves, &queue, 2).await;
    assert_eq!(readings(&to).await, before);
    assert_eq!(to.claim_get(claim).await.expect("the claim lives").messages, held);
    to.release(claim).await;
    assert_eq!(to.stats().await.claimed, 0);
}

/// "Each call here names its move, and does nothing to a head that another one froze".
pub(crate) async fn a_call_of_another_move_does_nothing(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let (queue, to) = (kit.queue("q").await, kit.key("arrived"));
    let posted = queue.post(2).await;
    let (id, other, now) = (new_move(), new_move(), kit.now());
    let head = frozen(moves, &queue, id).await;
    moves.receive(&to, id, head, now).await.expect("a head is opened");
    let contents = parts(moves, &queue, id, 100).await;
    assert!(is_moved(moves.freeze(&queue.key, other, now).await, id));
    assert!(is_moved(moves.receive(&to, other, head, now).await, id));
    let end = moves.receive(&queue.key, id, head, now).await;
    assert!(matches!(end, Err(Error::Moved { end: MoveEnd::Source, .. })), "{end:?}");
    let end = moves.freeze(&to, id, now).await;
    assert!(matches!(end, Err(Error::Moved { end: MoveEnd::Target, .. })), "{end:?}");
    let exported = moves.export(&queue.key, other, ContentsMark::START, 10, now).await;
    assert_eq!(exported.expect("export answers"), None);
    for key in [&queue.key, &to] {
        moves.thaw(key, other).await.expect("thaw answers");
        moves.discard(key, other).await.expect("discard answers");
        assert!(is_moved(kit.store().generation(key).await, id), "it is as frozen as before");
    }
    for part in &contents {
        let imported = moves.import(&to, other, part, now).await;
        assert!(!imported.expect("import answers"));
    }
    moves.thaw(&queue.key, id).await.expect("thaw answers");
    assert_eq!(queue.ids().await, posted);
    let again = moves.export(&queue.key, id, ContentsMark::START, 10, now).await;
    assert_eq!(again.expect("export answers"), None, "a head that is not frozen");
    let open = moves.receive(&queue.key, id, head, now).await;
    assert!(matches!(open, Err(Error::Failed { .. })), "{open:?}");
}

/// `discard`: "Closes a head that this move froze".
pub(crate) async fn a_head_that_is_discarded_is_gone(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let queue = full(kit).await;
    let id = new_move();
    let head = frozen(moves, &queue, id).await;
    let contents = parts(moves, &queue, id, 100).await;
    moves.discard(&queue.key, id).await.expect("discard answers");
    assert_eq!(queue.head().await, None);
    assert_eq!(queue.all().await, []);
    // And back, before its rows are swept.
    let back = new_move();
    moves.receive(&queue.key, back, head, kit.now()).await.expect("a head is opened");
    for part in &contents {
        let imported = moves.import(&queue.key, back, part, kit.now()).await;
        assert!(imported.expect("import answers"));
    }
    moves.thaw(&queue.key, back).await.expect("thaw answers");
    let messages: usize = contents.iter().map(|part| part.messages.len()).sum();
    kit.sweep().await;
    assert_eq!(queue.all().await.len(), messages);
    assert_eq!(queue.claim(100).await.1.len(), messages - 1, "all but the delayed one");
}

/// `heads`: "A head that exists all the while is returned at least once".
pub(crate) async fn every_head_is_listed(kit: &mut Kit) {
    let Some(moves) = kit.store().moves() else { return };
    let mut keys: Vec<_> = (0..20).map(|number| kit.key(&format!("q{number}"))).collect();
    keys.push(kit.key_of(Kind::Topic, "q1"));
    for key in &keys {
        kit.open(key.clone()).await;
    }
    kit.open(kit.key_of(Kind::Internal, "own")).await;
    if matches!(moves.heads(None, 7).await, Err(Error::Failed { .. })) {
        return;
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..MAX_STEPS {
        let (page, next) = moves.heads(cursor, 7).await.expect("heads answers");
        found.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(cursor.is_none(), "a walk does not end after {MAX_STEPS} pages");
    for key in &keys {
        assert!(found.contains(key), "{key} is not listed");
    }
    assert!(found.iter().all(|key| key.kind != Kind::Internal), "own queues are not listed");
}
