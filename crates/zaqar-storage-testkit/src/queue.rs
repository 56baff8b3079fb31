//! A test's handle of a queue: the store's methods with the queue's key, its generation and the
//! current time filled in.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::sync::Arc;

use bytes::Bytes;
use zaqar_core::storage::{
    Batch, Claim, ClaimRequest, Claimed, DeadLetters, Deletable, Deleted, Guarded, Heads,
    ListQuery, Message, MessagePage, MessageStore, Messages, NewMessage, PopPage, PopQuery,
    Skipped, Stats,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, KeyId, ManualClock, MessageId, Payload, Position,
    QueueKey, Timestamp,
};

/// The largest limit of a page while a listing is followed.
const MAX_LIMIT: usize = 200;

/// Pages after which a listing is considered endless.
const MAX_PAGES: usize = 10_000;

/// The client that posts if a test does not specify one.
pub(crate) const CLIENT: &str = "3381af92cb4f4d308e9e5c5cd4f5a0d1";

/// More messages than one slice of a claim or a pop skips.
pub(crate) const MANY: usize = 1050;

#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) store: Arc<dyn MessageStore>,
    pub(crate) key: QueueKey,
    pub(crate) generation: Generation,
    pub(crate) clock: Arc<ManualClock>,
}

impl Queue {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn open(&self) -> Generation {
        Heads::open(&*self.store, &self.key, self.generation, self.now())
            .await
            .expect("open answers")
    }

    pub(crate) async fn head(&self) -> Option<Generation> {
        self.store.generation(&self.key).await.expect("generation answers")
    }

    pub(crate) async fn advance(&self, to: Generation) -> Guarded<()> {
        self.store.advance(&self.key, to).await.expect("advance answers")
    }

    pub(crate) async fn close(&self) -> Guarded<()> {
        let incarnation = self.generation.incarnation;
        Heads::close(&*self.store, &self.key, incarnation).await.expect("close answers")
    }

    /// Posts this many messages; their bodies are their numbers.
    pub(crate) async fn post(&self, count: usize) -> Vec<MessageId> {
        self.post_new((0..count).map(|n| message(&n.to_string())).collect()).await
    }

    pub(crate) async fn post_one(&self, message: NewMessage) -> MessageId {
        self.post_new(vec![message]).await[0]
    }

    /// Posts [`MANY`] messages sealed with the key `lost`, and then a plain one, whose id it
    /// returns.
    pub(crate) async fn post_after_many_sealed(&self) -> MessageId {
        for _ in 0..3 {
            self.post_new(vec![sealed("s", "lost"); MANY / 3]).await;
        }
        self.post_one(message("plain")).await
    }

    pub(crate) async fn post_new(&self, messages: Vec<NewMessage>) -> Vec<MessageId> {
        self.post_as(CLIENT, messages).await
    }

    pub(crate) async fn post_as(&self, client: &str, messages: Vec<NewMessage>) -> Vec<MessageId> {
        let count = messages.len();
        match self.try_post(self.generation, batch(client, messages)).await {
            Guarded::Done(ids) => {
                assert_eq!(ids.len(), count, "a post returns one id for each message");
                ids
            }
            refused => {
                panic!("a post that assumes the head's own generation was rejected: {refused:?}")
            }
        }
    }

    pub(crate) async fn try_post(
        &self,
        assumed: Generation,
        batch: Batch,
    ) -> Guarded<Vec<MessageId>> {
        self.store.post(&self.key, assumed, batch, self.now()).await.expect("post answers")
    }

    pub(crate) async fn page(&self, query: &ListQuery) -> MessagePage {
        let page =
            Messages::list(&*self.store, &self.key, query, self.now()).await.expect("list answers");
        check_page(query, &page);
        page
    }

    /// All messages of a listing, page by page until the end. Each page is larger than the one
    /// before, as some stores read all matches for each page.
    pub(crate) async fn follow(&self, mut query: ListQuery) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.page(&query).await;
            all.extend(page.messages);
            let Some(next) = page.next else { return all };
            query.after = Some(next);
            query.limit = (2 * query.limit).min(MAX_LIMIT);
        }
        panic!("a listing does not end after {MAX_PAGES} pages");
    }

    /// Every live message, whatever its state.
    pub(crate) async fn all(&self) -> Vec<Message> {
        self.follow(everything()).await
    }

    /// The ids of every live message.
    pub(crate) async fn ids(&self) -> Vec<MessageId> {
        ids(&self.all().await)
    }

    /// The ids of a default listing: neither claimed nor delayed messages.
    pub(crate) async fn shown(&self) -> Vec<MessageId> {
        ids(&self.follow(visible()).await)
    }

    pub(crate) async fn get(&self, ids: &[MessageId]) -> Vec<Message> {
        Messages::get(&*self.store, &self.key, ids, self.now()).await.expect("get answers")
    }

    /// Reads a message that must exist.
    pub(crate) async fn get_one(&self, id: MessageId) -> Message {
        let mut found = self.get(&[id]).await;
        assert_eq!(ids(&found), [id], "a live message is found by its id");
        found.remove(0)
    }

    pub(crate) async fn delete(&self, id: MessageId, claim: Option<ClaimId>) -> Deleted {
        self.store.delete(&self.key, id, claim, self.now()).await.expect("delete answers")
    }

    pub(crate) async fn delete_many(&self, ids: &[MessageId], which: &Deletable) {
        let deleted = self.store.delete_many(&self.key, ids, which, self.now()).await;
        deleted.expect("delete_many answers");
    }

    pub(crate) async fn pop(&self, limit: usize) -> Vec<Message> {
        let page = self.pop_readable(limit, None, &[]).await;
        assert_eq!(page.skipped, Skipped::default(), "all of this queue can be opened");
        page.messages
    }

    /// Pops messages after `after` that are plain or sealed with one of `keys`.
    pub(crate) async fn pop_readable(
        &self,
        limit: usize,
        after: Option<Position>,
        keys: &[KeyId],
    ) -> PopPage {
        let query = PopQuery { limit, after, keys: keys.to_vec() };
        let page = self.store.pop(&self.key, &query, self.now()).await.expect("pop answers");
        assert!(page.messages.len() <= limit, "a pop removes at most its limit");
        page
    }

    pub(crate) async fn purge(&self) {
        self.store.purge(&self.key, self.now()).await.expect("purge answers");
    }

    /// The statistics of a queue that has a head.
    pub(crate) async fn stats(&self) -> Stats {
        self.try_stats().await.expect("a queue with a head has stats")
    }

    pub(crate) async fn try_stats(&self) -> Option<Stats> {
        self.store.stats(&self.key, self.now()).await.expect("stats answers")
    }

    /// Claims for 100 seconds with a grace of 60. Returns the claim's id even if no claim was made.
    pub(crate) async fn claim(&self, limit: usize) -> (ClaimId, Vec<Message>) {
        let request = request(limit);
        (request.id, self.claim_with(&request).await)
    }

    pub(crate) async fn claim_with(&self, request: &ClaimRequest) -> Vec<Message> {
        self.claim_readable(request).await.0
    }

    /// As [`Queue::claim_with`], with what the claim skipped.
    pub(crate) async fn claim_readable(&self, request: &ClaimRequest) -> (Vec<Message>, Skipped) {
        match self.try_claim(self.generation, request).await {
            Guarded::Done(Claimed::Messages { messages, skipped, .. }) => (messages, skipped),
            refused => {
                panic!("a claim that assumes the right generations was rejected: {refused:?}")
            }
        }
    }

    /// Claims with these claims, one message each, for 100 seconds.
    pub(crate) async fn claim_each(&self, ids: &[ClaimId]) -> Guarded<Vec<Message>> {
        let claimed = self.store.claim_each(&self.key, self.generation, ids, 100, self.now()).await;
        claimed.expect("claim_each answers")
    }

    pub(crate) async fn try_claim(
        &self,
        assumed: Generation,
        request: &ClaimRequest,
    ) -> Guarded<Claimed> {
        let claimed =
            self.store.claim(&self.key, assumed, request, self.now()).await.expect("claim answers");
        if let Guarded::Done(Claimed::Messages { messages, .. }) = &claimed {
            assert!(messages.len() <= request.limit, "a claim gets at most its limit");
        }
        claimed
    }

    pub(crate) async fn claim_get(&self, id: ClaimId) -> Option<Claim> {
        self.store.claim_get(&self.key, id, self.now()).await.expect("claim_get answers")
    }

    pub(crate) async fn renew(&self, id: ClaimId, ttl: u64, grace: u64) -> bool {
        let renewed = self.store.claim_renew(&self.key, id, ttl, grace, self.now()).await;
        renewed.expect("claim_renew answers")
    }

    pub(crate) async fn release(&self, id: ClaimId) -> usize {
        let released = self.store.claim_release(&self.key, id, self.now()).await;
        released.expect("claim_release answers")
    }

    /// The dead-letter rule that moves messages here after `max` claims.
    pub(crate) fn as_target(&self, max: u32, ttl: Option<u64>) -> DeadLetters {
        DeadLetters {
            max_claim_count: max,
            target: self.key.clone(),
            generation: self.generation,
            ttl,
        }
    }
}

/// A message with this text as its JSON body, a ttl of one hour and no delay.
pub(crate) fn message(text: &str) -> NewMessage {
    let payload = Payload::plain(Bytes::from(format!("\"{text}\"")));
    NewMessage { payload, ttl: 3600, delay: 0 }
}

/// As [`message`], sealed with a key of this name; plain if it is empty.
pub(crate) fn sealed(text: &str, key: &str) -> NewMessage {
    let mut new = message(text);
    new.payload.sealed_with = (!key.is_empty()).then(|| KeyId(key.to_owned()));
    new
}

/// The texts of messages made by [`message`].
pub(crate) fn texts(messages: &[Message]) -> Vec<String> {
    let text = |message: &Message| String::from_utf8_lossy(&message.payload.bytes).replace('"', "");
    messages.iter().map(text).collect()
}

pub(crate) fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

pub(crate) fn batch(client: &str, messages: Vec<NewMessage>) -> Batch {
    Batch { request: rand::random(), client: ClientId::new(client), messages, notify: true }
}

/// A claim of 100 seconds with a grace of 60.
pub(crate) fn request(limit: usize) -> ClaimRequest {
    let id = ClaimId::new(rand::random());
    ClaimRequest { grace: 60, ..ClaimRequest::new(id, 100, limit) }
}

/// As [`request`], of a caller that has these keys.
pub(crate) fn request_with_keys(limit: usize, keys: &[&str]) -> ClaimRequest {
    ClaimRequest {
        keys: Some(keys.iter().map(|key| KeyId((*key).to_owned())).collect()),
        ..request(limit)
    }
}

/// Lists all messages, in pages of at first 7.
pub(crate) fn everything() -> ListQuery {
    ListQuery { after: None, limit: 7, hide: None, include_claimed: true, include_delayed: true }
}

/// Lists messages that are neither claimed nor delayed, in pages of at first 7.
pub(crate) fn visible() -> ListQuery {
    ListQuery { include_claimed: false, include_delayed: false, ..everything() }
}

/// Checks the invariants of a page.
fn check_page(query: &ListQuery, page: &MessagePage) {
    assert!(page.messages.len() <= query.limit, "a page has at most its limit of messages");
    assert!(page.messages.is_sorted_by(|a, b| a.id < b.id), "a page is in order");
    let last = page.messages.last().map(|message| message.id);
    assert!(page.next >= last, "a page with messages has a marker at or after its last message");
    let Some(next) = page.next else { return };
    let passed = query.after.filter(|after| after.incarnation == next.incarnation);
    assert!(Some(next) > passed, "a page makes progress");
}
