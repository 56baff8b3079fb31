//! Processes that die or stop between two commands, and continue late: nobody waits for them,
//! operations stay atomic, and no documents are left.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

mod claims;
mod dead_letters;
mod moves;
mod posts;

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, DeadLetters, Guarded, Heads, ListQuery, Message,
    Messages, NewMessage, PopQuery,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, MessageId, Payload, ProjectId,
    QueueKey, QueueName, SystemClock, Timestamp, Version,
};

use crate::Mongo;
use crate::draft::{Draft, Group};
use crate::posting::first_position_of;
use crate::schema::queue_id;
use crate::stored::Head;

#[path = "../../tests/store/support/server.rs"]
mod server;

/// A store, one queue, and a time that the test moves.
struct Scene {
    name: String,
    store: Mongo,
    key: QueueKey,
    generation: Generation,
    now: Timestamp,
}

impl Scene {
    async fn new() -> Self {
        let name = server::name();
        let store = server::open(&name).await;
        let now = SystemClock.now();
        let scene = Self { name, store, key: key("q"), generation: generation(1), now };
        scene.open(&scene.key).await;
        scene
    }

    /// Another process on the same database.
    async fn another(&self) -> Mongo {
        server::open(&self.name).await
    }

    async fn open(&self, key: &QueueKey) {
        let opened = Heads::open(&self.store, key, self.generation, self.now).await.unwrap();
        assert_eq!(opened, self.generation);
    }

    fn queue(&self) -> String {
        queue_id(&self.key)
    }

    fn pass(&mut self, secs: u64) {
        self.now = self.now.plus_secs(secs);
    }

    /// A post of these messages, before its commit.
    fn draft(&self, texts: &[&str]) -> Group {
        self.draft_of(&batch(texts))
    }

    fn draft_of(&self, batch: &Batch) -> Group {
        let now = self.store.effective_time(self.now);
        let draft = Draft::new(&self.key, self.generation, batch, now, now).unwrap();
        Group::new(vec![draft])
    }

    /// Applies the intent that a head lists for a post. Returns the ids of its messages.
    async fn apply(&self, store: &Mongo, group: &Group, head: &Head) -> Vec<MessageId> {
        let intent = head.intent(&group.op).expect("it is listed");
        store.apply_and_remove(&self.queue(), intent).await.unwrap();
        group.drafts[0].ids(first_position_of(intent).unwrap())
    }

    async fn post(&self, texts: &[&str]) -> Vec<MessageId> {
        let posted = self.store.post(&self.key, self.generation, batch(texts), self.now).await;
        done(posted.unwrap())
    }

    async fn texts(&self) -> Vec<String> {
        self.texts_of(&self.key).await
    }

    async fn positions(&self) -> Vec<i64> {
        self.ids().await.iter().map(|id| id.position.get().cast_signed()).collect()
    }

    async fn ids(&self) -> Vec<MessageId> {
        self.messages_of(&self.key).await.iter().map(|message| message.id).collect()
    }

    async fn texts_of(&self, key: &QueueKey) -> Vec<String> {
        texts(&self.messages_of(key).await)
    }

    async fn messages_of(&self, key: &QueueKey) -> Vec<Message> {
        // From a new process, which knows only what is stored.
        let query = ListQuery {
            after: None,
            limit: 100,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = Messages::list(&self.another().await, key, &query, self.now).await.unwrap();
        page.messages
    }

    async fn claim(&self, request: &ClaimRequest) -> Vec<Message> {
        let claimed = self.store.claim(&self.key, self.generation, request, self.now).await;
        match done(claimed.unwrap()) {
            Claimed::Messages { messages, .. } => messages,
            Claimed::TargetChanged => panic!("the target has the assumed generation"),
        }
    }

    async fn pop(&self, key: &QueueKey, limit: usize) -> Vec<Message> {
        let query = PopQuery { limit, after: None, keys: Vec::new() };
        self.store.pop(key, &query, self.now).await.unwrap().messages
    }

    async fn sweep(&self) {
        zaqar_storage_testkit::sweep(&self.store, self.now, 100).await;
    }

    async fn head(&self) -> Head {
        self.store.any_head(&self.queue()).await.unwrap().unwrap()
    }

    /// Documents of a collection.
    async fn count(&self, collection: &str) -> u64 {
        let db = server::database(&self.name).await;
        db.collection::<Document>(collection).count_documents(doc! {}).await.unwrap()
    }

    async fn end(self) {
        server::database(&self.name).await.drop().await.unwrap();
    }
}

fn key(name: &str) -> QueueKey {
    let project = ProjectId::new("p").unwrap();
    QueueKey { project, kind: Kind::Queue, name: QueueName::new(name).unwrap() }
}

fn generation(version: u64) -> Generation {
    let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
    Generation { incarnation, version: Version::new(version) }
}

fn batch(texts: &[&str]) -> Batch {
    let message = |text: &&str| NewMessage {
        payload: Payload::plain(Bytes::from(text.to_string())),
        ttl: 3600,
        delay: 0,
    };
    Batch {
        request: rand::random(),
        client: ClientId::new("c"),
        messages: texts.iter().map(message).collect(),
        notify: true,
    }
}

fn request(limit: usize, dead_letters: Option<DeadLetters>) -> ClaimRequest {
    ClaimRequest {
        grace: 60,
        dead_letters,
        ..ClaimRequest::new(ClaimId::new(rand::random()), 100, limit)
    }
}

fn done<T: std::fmt::Debug>(guarded: Guarded<T>) -> T {
    match guarded {
        Guarded::Done(done) => done,
        refused => panic!("{refused:?}"),
    }
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8(m.payload.bytes.to_vec()).unwrap()).collect()
}
