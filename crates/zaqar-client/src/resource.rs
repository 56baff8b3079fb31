//! Queues and topics as a whole.

use std::fmt;
use std::marker::PhantomData;

use futures_core::Stream;
use http::Method;
use serde::Serialize;
use zaqar_core::QueueName;

use crate::Error;
use crate::auth::SignedUrl;
use crate::client::{Call, Client};
use crate::pages;
use crate::query::Query;
use crate::retry::Repeat;
use crate::types::{
    MetadataChange, Object, QueueEntry, QueueFilter, QueuePage, Share, Stats, StatsDocument,
};

/// The type of a metadata change.
const PATCH: &str = "application/openstack-messaging-v2.0-json-patch";

/// Whether a [`Resource`] is a queue or a topic.
pub trait Kind: fmt::Debug + Clone + Send + Sync + 'static {
    /// The segment of its paths.
    const COLLECTION: &'static str;
}

/// See [`Queue`].
#[derive(Debug, Clone, Copy)]
pub enum QueueKind {}

/// See [`Topic`].
#[derive(Debug, Clone, Copy)]
pub enum TopicKind {}

impl Kind for QueueKind {
    const COLLECTION: &'static str = "queues";
}

impl Kind for TopicKind {
    const COLLECTION: &'static str = "topics";
}

/// A queue: its messages wait until somebody claims and deletes them.
pub type Queue = Resource<QueueKind>;
/// A topic: its messages go to subscribers.
pub type Topic = Resource<TopicKind>;

/// A queue or a topic, by its name. It need not exist: posts and subscriptions create it.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
/// # use support::*;
/// # block_on(async |client: zaqar_client::Client| {
/// use serde_json::json;
/// use zaqar_client::MetadataChange;
///
/// let queue = client.queue("jobs")?;
/// queue.create(json!({"_max_claim_count": 5, "_dead_letter_queue": "jobs.dead"})).await?;
/// queue.change(&[MetadataChange::Set("team".to_owned(), json!("shop"))]).await?;
/// assert_eq!(queue.metadata().await?["team"], "shop");
/// assert_eq!(queue.stats().await?.total, 0);
/// queue.delete().await?;
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Resource<K> {
    pub(crate) client: Client,
    name: String,
    kind: PhantomData<K>,
}

impl<K: Kind> Resource<K> {
    pub(crate) fn new(client: Client, name: &str) -> Result<Self, Error> {
        QueueName::new(name).map_err(|error| Error::config(format!("name {name:?}"), error))?;
        Ok(Self { client, name: name.to_owned(), kind: PhantomData })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path below it.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/v2/{}/{}{below}", K::COLLECTION, self.name)
    }

    /// Creates it, and says whether it was not there. One that is there keeps its metadata.
    ///
    /// # Errors
    /// 400 for metadata that breaks a limit.
    pub async fn create(&self, metadata: impl Serialize) -> Result<bool, Error> {
        let call = Call::new(Method::PUT, self.path("")).body(&metadata)?;
        Ok(self.client.call(call).await?.status == 201)
    }

    /// Its metadata, with defaults; of one that is not there, the defaults.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn metadata(&self) -> Result<Object, Error> {
        self.client.call(Call::get(self.path(""))).await?.json()
    }

    /// Changes its metadata, all or nothing, and returns it.
    ///
    /// # Errors
    /// 404 where it is not there, 409 for the removal of an attribute that is not there.
    pub async fn change(&self, changes: &[MetadataChange]) -> Result<Object, Error> {
        let document: Vec<_> = changes.iter().map(MetadataChange::document).collect();
        let mut call = Call::new(Method::PATCH, self.path("")).body(&document)?;
        call.content_type = PATCH;
        // The second removal of an attribute is a conflict.
        let removes = changes.iter().any(|change| matches!(change, MetadataChange::Remove(_)));
        let repeat = if removes { Repeat::Unsafe } else { Repeat::Safe };
        self.client.call(call.repeat(repeat)).await?.json()
    }

    /// Deletes it and everything in it. One that is not there is no error.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete(&self) -> Result<(), Error> {
        self.client.call(Call::new(Method::DELETE, self.path(""))).await.map(drop)
    }

    /// Counts its messages; zeros where it is not there.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let answer = self.client.call(Call::get(self.path("/stats"))).await?;
        Ok(answer.json::<StatsDocument>()?.messages)
    }

    /// Removes its messages, claimed ones too, and its subscriptions if `what` says so.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn purge(&self, what: Purge) -> Result<(), Error> {
        let types: &[&str] = match what {
            Purge::Messages => &["messages"],
            Purge::Subscriptions => &["subscriptions"],
            Purge::Everything => &["messages", "subscriptions"],
        };
        let document = serde_json::json!({"resource_types": types});
        let call = Call::new(Method::POST, self.path("/purge")).body(&document)?;
        self.client.call(call.repeat(Repeat::Unsafe)).await.map(drop)
    }
}

/// What a purge removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// Messages.
    Messages,
    /// Subscriptions.
    Subscriptions,
    /// Both.
    Everything,
}

impl Queue {
    /// Signs a URL that opens parts of it to whoever has it: see
    /// [`Builder::signed`](crate::Builder::signed).
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// use zaqar_client::{Client, NewMessage, Share};
    ///
    /// let queue = client.queue("reports")?;
    /// let share = Share { methods: vec!["POST".to_owned()], ..Share::default() };
    /// let url = queue.share(&share).await?;
    ///
    /// // Somebody else, without a token:
    /// # let address = client_url();
    /// let guest = Client::builder().url(address).signed(url).build()?;
    /// guest.queue("reports")?.post([NewMessage::new("signed").unwrap()]).await?;
    /// assert!(guest.queue("reports")?.stats().await.is_err());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// 400 where the server has no `[signed_url] secret_key`.
    pub async fn share(&self, share: &Share) -> Result<SignedUrl, Error> {
        let call = Call::new(Method::POST, self.path("/share")).body(share)?;
        self.client.call(call.repeat(Repeat::Safe)).await?.json()
    }
}

impl Client {
    /// A queue, which need not exist.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is not 1 to 64 letters, digits, `_`, `.` and `-`.
    pub fn queue(&self, name: &str) -> Result<Queue, Error> {
        Queue::new(self.clone(), name)
    }

    /// A topic, which need not exist.
    ///
    /// # Errors
    /// As [`Client::queue`].
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        Topic::new(self.clone(), name)
    }

    /// The project's queues by name.
    pub fn queues(
        &self,
        filter: &QueueFilter,
    ) -> impl Stream<Item = Result<QueueEntry, Error>> + Send + Unpin + use<> {
        pages::rows::<QueuePage>(self.clone(), list_path(QueueKind::COLLECTION, filter))
    }

    /// The project's topics by name.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// use futures_util::TryStreamExt;
    /// use zaqar_client::{NewMessage, QueueFilter};
    ///
    /// client.topic("news")?.post([NewMessage::new("hello").unwrap()]).await?;
    /// let topics: Vec<_> = client.topics(&QueueFilter::default()).try_collect().await?;
    /// assert_eq!(topics[0].name, "news");
    /// # Ok(()) });
    /// ```
    pub fn topics(
        &self,
        filter: &QueueFilter,
    ) -> impl Stream<Item = Result<QueueEntry, Error>> + Send + Unpin + use<> {
        pages::rows::<QueuePage>(self.clone(), list_path(TopicKind::COLLECTION, filter))
    }

    /// How many queues the project has.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn count_queues(&self) -> Result<u64, Error> {
        let path = Query::new("/v2/queues").with("limit", "1").with_flag("with_count", true).end();
        let page: QueuePage = self.call(Call::get(path)).await?.json()?;
        Ok(page.count.unwrap_or(0))
    }
}

fn list_path(collection: &str, filter: &QueueFilter) -> String {
    let mut query = Query::new(format!("/v2/{collection}"));
    if filter.detailed {
        query = query.with_flag("detailed", true);
    }
    query = query.with_number("limit", filter.page).with_some("name", filter.name.as_deref());
    for (name, value) in &filter.attributes {
        query = query.with(name, value);
    }
    query.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_a_path() {
        let client = Client::new("http://h", "p").unwrap();
        for name in ["", "a/b", "a?b", "ä", &"x".repeat(65)] {
            assert!(client.queue(name).is_err() && client.topic(name).is_err(), "{name}");
        }
        assert_eq!(client.topic("a.b-c_9").unwrap().path("/stats"), "/v2/topics/a.b-c_9/stats");
    }
}
