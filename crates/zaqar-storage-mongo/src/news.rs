//! News.
//!
//! A head says when it was last posted to, by the server's clock, and an index finds those that
//! were posted to since a time. One task looks this up now and then for all who listen in this
//! process; where the server has change streams it tells the task of each post at once, and the
//! look-up is only the net behind it. Posts of this process are named without a look.

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
use crate::news_hub::{Announcement, SLACK};
use crate::query::Query;
use crate::schema::{self, queue_key};

/// How often is looked where a change stream tells of posts.
const NET: Duration = Duration::from_secs(5);
/// A pause before a change stream is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is read of a head.
#[derive(Deserialize)]
struct PostedHead {
    #[serde(rename = "_id")]
    queue: String,
    open: bool,
    incarnation: i64,
    next: i64,
    posted: Option<DateTime>,
}

/// What a change stream tells of a head: what changed, or all of it (MongoDB 4.2 and 4.4).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    document_key: Option<Document>,
    update_description: Option<Document>,
    full_document: Option<Document>,
}

impl Change {
    /// The post that it tells of.
    fn read(&self) -> Option<Posted> {
        let updated = self.update_description.as_ref();
        let updated = updated.and_then(|update| update.get_document("updatedFields").ok());
        let news = updated.or(self.full_document.as_ref())?.get_str("news").ok()?;
        let (incarnation, last) = schema::read_news(news)?;
        let key = queue_key(self.document_key.as_ref()?.get_str("_id").ok()?)?;
        let incarnation = schema::generation(incarnation, 0).incarnation;
        Some(Posted { key, last: schema::place(incarnation, last) })
    }
}

impl PostedHead {
    fn read(&self) -> Option<Posted> {
        let key = queue_key(&self.queue).filter(|_| self.open && self.next > 1)?;
        let incarnation = schema::generation(self.incarnation, 0).incarnation;
        Some(Posted { key, last: schema::place(incarnation, self.next - 1) })
    }
}

#[async_trait]
impl News for Mongo {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.act(async {
            // Before anything is promised: a later post has a later time.
            let since = back(self.server_time().await?);
            let Some((receiver, is_first)) = self.inner.news.listen() else {
                return Err(Error::Closed);
            };
            if is_first {
                let store = self.clone();
                let told = self.inner.background.spawn("news", store.tell_news(since));
                // It ends by itself.
                drop(told);
            }
            Ok(Box::pin(listen(self.clone(), receiver, since)) as NewsStream)
        })
        .await
    }
}

/// One listener and what it is still to be told.
struct Listener {
    store: Mongo,
    receiver: Receiver<Announcement>,
    /// Posts before this server's time were named.
    since: DateTime,
    /// Whether it has to look for itself: at first, and when it was too slow.
    is_behind: bool,
    found: VecDeque<Posted>,
}

/// One listener's news.
fn listen(
    store: Mongo,
    receiver: Receiver<Announcement>,
    since: DateTime,
) -> impl Stream<Item = Posted> + Send {
    let listener = Listener { store, receiver, since, is_behind: true, found: VecDeque::new() };
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
            if self.is_behind {
                self.look().await?;
                continue;
            }
            match self.receiver.recv().await {
                Ok(told) => {
                    self.since = told.since.unwrap_or(self.since);
                    return Some(told.posted);
                }
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => self.is_behind = true,
            }
        }
    }

    /// Looks for every queue that was posted to; `None` where the store is shut down.
    async fn look(&mut self) -> Option<()> {
        if self.store.is_closing() {
            return None;
        }
        match self.store.posted_since(self.since).await {
            Ok(notices) => {
                self.found.extend(notices.iter().filter_map(PostedHead::read));
                self.is_behind = false;
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
            .of(doc! { "open": 1, "incarnation": 1, "next": 1, "posted": 1 });
        self.find(&self.inner.heads.clone_with_type(), &query).await
    }

    /// Tells of posts until nobody listens or the store is shut down.
    async fn tell_news(self, mut since: DateTime) {
        let poll = self.inner.options.poll;
        let (mut stream, mut resume): (Option<ChangeStream<Change>>, Option<ResumeToken>) =
            (None, None);
        let mut ask_again = Instant::now();
        let mut next_look = Instant::now();
        while !self.inner.news.is_deserted() {
            if self.inner.options.change_streams && stream.is_none() && Instant::now() >= ask_again
            {
                stream = self.watch(resume.take()).await;
                ask_again = Instant::now() + AGAIN;
            }
            if Instant::now() >= next_look {
                if let Ok(notices) = self.posted_since(since).await {
                    for notice in &notices {
                        self.tell(notice, Some(since));
                    }
                    let last = notices.iter().filter_map(|notice| notice.posted).max();
                    since = last.map_or(since, |last| since.max(back(last)));
                    self.inner.news.forget_old();
                }
                next_look = Instant::now() + if stream.is_some() { NET } else { poll };
            }
            match &mut stream {
                None => sleep(poll).await,
                Some(changes) => match timeout(poll, changes.next()).await {
                    Ok(Some(Ok(change))) => {
                        if let Some(posted) = change.read() {
                            self.inner.news.tell(posted, None);
                        }
                    }
                    Ok(ended) => {
                        tracing::debug!(?ended, "a change stream ended");
                        // It goes on behind what it has told, and a look finds the rest.
                        resume = changes.resume_token();
                        stream = None;
                        next_look = Instant::now();
                    }
                    Err(_) => {}
                },
            }
        }
    }

    /// The server's own word of posts, where it gives it; behind what was told before, if that is
    /// still known.
    async fn watch(&self, resume: Option<ResumeToken>) -> Option<ChangeStream<Change>> {
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
                tracing::debug!(%error, is_resumed, "no change stream: news are looked up");
                None
            }
        }
    }

    fn tell(&self, notice: &PostedHead, since: Option<DateTime>) {
        if let Some(posted) = notice.read() {
            self.inner.news.tell(posted, since);
        }
    }
}

fn back(from: DateTime) -> DateTime {
    let slack = i64::try_from(SLACK.as_millis()).unwrap_or(0);
    DateTime::from_millis(from.timestamp_millis().saturating_sub(slack))
}
