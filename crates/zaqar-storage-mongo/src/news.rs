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
use mongodb::error::Error as Driver;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};
use zaqar_core::storage::{Error, News, NewsStream, Posted};

use crate::Mongo;
use crate::broadcaster::{Announcement, SLACK};
use crate::error::is_transient;
use crate::query::Query;
use crate::schema::{self, queue_key};

/// The poll interval while a change stream is open.
const FALLBACK_POLL: Duration = Duration::from_secs(5);
/// The delay before another attempt to open a change stream: on a server that has none, and
/// otherwise.
const WATCH_RETRY: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_millis(500);

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

/// A change stream that is opened again after it has ended.
#[derive(Default)]
struct EventStream {
    changes: Option<ChangeStream<ChangeEvent>>,
    /// The last event of the stream that ended: the next stream continues after it.
    resume: Option<ResumeToken>,
    /// When it may be opened.
    next_attempt: Option<Instant>,
}

enum Next {
    /// There is no event yet.
    Nothing,
    Posted(Posted),
    /// The stream has ended.
    Ended,
}

impl EventStream {
    const fn is_open(&self) -> bool {
        self.changes.is_some()
    }

    /// Opens the stream if it is not open and the last attempt is long enough ago.
    async fn open(&mut self, store: &Mongo) {
        let start = Instant::now();
        if self.is_open() || self.next_attempt.is_some_and(|next| next > start) {
            return;
        }
        let mut opened = store.watch(self.resume.clone()).await;
        if self.resume.is_some() && opened.as_ref().is_err_and(is_permanent) {
            // The server no longer has the event, or cannot continue after it.
            self.resume = None;
            opened = store.watch(None).await;
        }
        let pause = match opened {
            Ok(changes) => {
                self.changes = Some(changes);
                RECONNECT
            }
            Err(error) => {
                tracing::debug!(?error, "no change stream: news are polled");
                if is_permanent(&error) { WATCH_RETRY } else { RECONNECT }
            }
        };
        self.next_attempt = Some(start + pause);
    }

    /// Waits for an event for at most `longest`, or until the stream is to be opened.
    async fn next(&mut self, longest: Duration) -> Next {
        let Some(changes) = &mut self.changes else {
            let until =
                self.next_attempt.map(|next| next.saturating_duration_since(Instant::now()));
            sleep(until.map_or(longest, |until| until.min(longest))).await;
            return Next::Nothing;
        };
        match timeout(longest, changes.next()).await {
            Err(_) => Next::Nothing,
            Ok(Some(Ok(change))) => change.read().map_or(Next::Nothing, Next::Posted),
            // The driver has tried to resume after an error that permits it.
            Ok(ended) => {
                tracing::debug!(?ended, "a change stream ended");
                self.resume = changes.resume_token().or(self.resume.take());
                self.changes = None;
                Next::Ended
            }
        }
    }
}

/// Whether another attempt to open a stream after the same event would fail, too. `None` is a
/// timeout.
fn is_permanent(error: &Option<Driver>) -> bool {
    error.as_ref().is_some_and(|error| !is_transient(error))
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
        let mut stream = EventStream::default();
        let mut next_poll = Instant::now();
        while !self.inner.news.has_no_listeners() {
            if self.inner.options.change_streams {
                stream.open(&self).await;
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
                next_poll = Instant::now() + if stream.is_open() { FALLBACK_POLL } else { poll };
            }
            match stream.next(poll).await {
                Next::Nothing => {}
                Next::Posted(posted) => self.inner.news.publish(posted, None),
                // A poll finds what the next stream may not report.
                Next::Ended => next_poll = Instant::now(),
            }
        }
    }

    /// Opens a change stream of posts, after the given event if there is one.
    async fn watch(
        &self,
        resume: Option<ResumeToken>,
    ) -> Result<ChangeStream<ChangeEvent>, Option<Driver>> {
        let posts = doc! { "$match": { "$or": [
            { "updateDescription.updatedFields.news": { "$exists": true } },
            { "operationType": "replace" },
        ] } };
        let mut watch = self.inner.heads.watch().pipeline([posts]);
        if let Some(resume) = resume {
            // Unlike `resumeAfter`, this also continues after the collection was dropped.
            watch = watch.start_after(resume);
        }
        match timeout(self.inner.options.command_timeout, watch).await {
            Ok(Ok(changes)) => Ok(changes.with_type()),
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
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
