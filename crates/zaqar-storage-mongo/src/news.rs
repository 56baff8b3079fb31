//! News.
//!
//! A head stores the time of its last post by the server's clock, and an index finds the heads that
//! were posted to since a time. One task polls this for all listeners of this process. If the
//! server has change streams, they report each post to the task immediately, and polling is only a
//! fallback. Posts of this process are reported without polling.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};
use zaqar_core::storage::{Error, News, NewsStream, Posted};

use crate::Mongo;
use crate::broadcaster::{Announcement, SLACK};
use crate::query::Query;
use crate::schema::{self, queue_key};

/// The poll interval while a change stream is open.
const FALLBACK_POLL: Duration = Duration::from_secs(5);
/// The delay before another attempt to open a change stream.
const WATCH_RETRY: Duration = Duration::from_secs(5);

/// The fields of a head that news need.
#[derive(Deserialize)]
struct PostedHead {
    #[serde(rename = "_id")]
    queue: String,
    open: bool,
    incarnation: i64,
    next: i64,
    posted: Option<DateTime>,
}

/// An event of a change stream: the changed fields of a head, or all of it (MongoDB 4.2 and 4.4).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeEvent {
    document_key: Option<Document>,
    update_description: Option<Document>,
    full_document: Option<Document>,
}

impl ChangeEvent {
    /// The post that it reports.
    fn read(&self) -> Option<Posted> {
        let updated = self.update_description.as_ref();
        let updated = updated.and_then(|update| update.get_document("updatedFields").ok());
        let news = updated.or(self.full_document.as_ref())?.get_str("news").ok()?;
        let (incarnation, last) = schema::read_news(news)?;
        let key = queue_key(self.document_key.as_ref()?.get_str("_id").ok()?)?;
        let incarnation = schema::generation(incarnation, 0).incarnation;
        Some(Posted { key, last: schema::message_id(incarnation, last) })
    }
}

impl PostedHead {
    fn read(&self) -> Option<Posted> {
        let key = queue_key(&self.queue).filter(|_| self.open && self.next > 1)?;
        let incarnation = schema::generation(self.incarnation, 0).incarnation;
        Some(Posted { key, last: schema::message_id(incarnation, self.next - 1) })
    }
}

#[async_trait]
impl News for Mongo {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.run(async {
            // Read before this returns, so that later posts have later times.
            let since = minus_slack(self.server_time().await?);
            let Some((receiver, is_first)) = self.inner.news.listen() else {
                return Err(Error::Closed);
            };
            if is_first {
                let store = self.clone();
                let announcement = self.inner.background.spawn("news", store.run_news(since));
                // The task ends by itself.
                drop(announcement);
            }
            Ok(Box::pin(listen(self.clone(), receiver, since)) as NewsStream)
        })
        .await
    }
}

/// A listener and its pending news.
struct Listener {
    store: Mongo,
    receiver: Receiver<Announcement>,
    /// Posts before this time, by the server's clock, were reported.
    since: DateTime,
    /// Whether it has to poll: at first, and when it lagged.
    must_poll: bool,
    found: VecDeque<Posted>,
}

/// The stream of a listener.
fn listen(
    store: Mongo,
    receiver: Receiver<Announcement>,
    since: DateTime,
) -> impl Stream<Item = Posted> + Send {
    let listener = Listener { store, receiver, since, must_poll: true, found: VecDeque::new() };
    stream::unfold(listener, async |mut listener| {
        let posted = listener.next().await?;
        Some((posted, listener))
    })
}

impl Listener {
    async fn next(&mut self) -> Option<Posted> {
        loop {
            if let Some(posted) = self.found.pop_front() {
                return Some(posted);
            }
            if self.must_poll {
                self.poll().await?;
                continue;
            }
            match self.receiver.recv().await {
                Ok(announcement) => {
                    self.since = announcement.since.unwrap_or(self.since);
                    return Some(announcement.posted);
                }
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => self.must_poll = true,
            }
        }
    }

    /// Finds every queue that was posted to; `None` if the store is shut down.
    async fn poll(&mut self) -> Option<()> {
        if self.store.is_closing() {
            return None;
        }
        match self.store.posted_since(self.since).await {
            Ok(heads) => {
                self.found.extend(heads.iter().filter_map(PostedHead::read));
                self.must_poll = false;
            }
            Err(_) => sleep(self.store.inner.options.poll).await,
        }
        Some(())
    }
}

impl Mongo {
    /// The server's clock.
    pub(crate) async fn server_time(&self) -> Result<DateTime, Error> {
        let hello = self.send(|| self.inner.db.run_command(doc! { "hello": 1 })).await?;
        Ok(hello.get_datetime("localTime").copied().unwrap_or_else(|_| DateTime::now()))
    }

    async fn posted_since(&self, since: DateTime) -> Result<Vec<PostedHead>, Error> {
        let query = Query::new(doc! { "posted": { "$gte": since } })
            .sorted(doc! { "posted": 1 })
            .fields(doc! { "open": 1, "incarnation": 1, "next": 1, "posted": 1 });
        self.find(&self.inner.heads.clone_with_type(), &query).await
    }

    /// Reports posts until there are no listeners or the store is shut down.
    async fn run_news(self, mut since: DateTime) {
        let poll = self.inner.options.poll;
        let (mut stream, mut resume): (Option<ChangeStream<ChangeEvent>>, Option<ResumeToken>) =
            (None, None);
        let mut next_watch = Instant::now();
        let mut next_poll = Instant::now();
        while !self.inner.news.has_no_listeners() {
            if self.inner.options.change_streams && stream.is_none() && Instant::now() >= next_watch
            {
                stream = self.watch(resume.take()).await;
                next_watch = Instant::now() + WATCH_RETRY;
            }
            if Instant::now() >= next_poll {
                if let Ok(heads) = self.posted_since(since).await {
                    for head in &heads {
                        self.publish_head(head, Some(since));
                    }
                    let last = heads.iter().filter_map(|head| head.posted).max();
                    since = last.map_or(since, |last| since.max(minus_slack(last)));
                    self.inner.news.forget_old();
                }
                next_poll = Instant::now() + if stream.is_some() { FALLBACK_POLL } else { poll };
            }
            match &mut stream {
                None => sleep(poll).await,
                Some(changes) => match timeout(poll, changes.next()).await {
                    Ok(Some(Ok(change))) => {
                        if let Some(posted) = change.read() {
                            self.inner.news.publish(posted, None);
                        }
                    }
                    Ok(ended) => {
                        tracing::debug!(?ended, "a change stream ended");
                        // The next stream resumes after the last event, and a poll finds the rest.
                        resume = changes.resume_token();
                        stream = None;
                        next_poll = Instant::now();
                    }
                    Err(_) => {}
                },
            }
        }
    }

    /// Opens a change stream of posts, if the server supports it, after the given event if there is
    /// one.
    async fn watch(&self, resume: Option<ResumeToken>) -> Option<ChangeStream<ChangeEvent>> {
        let posts = doc! { "$match": { "$or": [
            { "updateDescription.updatedFields.news": { "$exists": true } },
            { "operationType": "replace" },
        ] } };
        let mut watch = self.inner.heads.watch().pipeline([posts]);
        let is_resumed = resume.is_some();
        if let Some(resume) = resume {
            watch = watch.resume_after(resume);
        }
        match watch.await {
            Ok(changes) => Some(changes.with_type()),
            Err(error) => {
                tracing::debug!(%error, is_resumed, "no change stream: news are polled");
                None
            }
        }
    }

    fn publish_head(&self, head: &PostedHead, since: Option<DateTime>) {
        if let Some(posted) = head.read() {
            self.inner.news.publish(posted, since);
        }
    }
}

fn minus_slack(from: DateTime) -> DateTime {
    let slack = i64::try_from(SLACK.as_millis()).unwrap_or(0);
    DateTime::from_millis(from.timestamp_millis().saturating_sub(slack))
}
