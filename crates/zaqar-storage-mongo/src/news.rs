//! News.
//!
//! A head says when it was last posted to, by the server's clock, and an index finds those that were posted to since a time. One task
//! looks this up now and then for all who listen in this process; where the server has change streams it tells the task of each post
//! at once, and the look-up is only the net behind it. Posts of this process are named without a look.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use mongodb::bson::{DateTime, doc};
use mongodb::options::FullDocumentType;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};
use zaqar_core::storage::{Error, News, NewsStream, Posted};
use zaqar_core::{MessageId, QueueKey};

use crate::Mongo;
use crate::query::Query;
use crate::schema::{self, queue_key};

/// News that wait for a listener; one that is slower is told which queues were posted to.
const WAITING: usize = 1024;
/// A post may become visible this much later than it was timed: each look goes back that far.
const SLACK: Duration = Duration::from_secs(10);
/// How often is looked where a change stream tells of posts.
const NET: Duration = Duration::from_secs(5);
/// A pause before a change stream is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// Who listens in this process, and what they have been told.
#[derive(Default)]
pub(crate) struct Newsroom {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Told>>,
    /// The last message named of each queue that was posted to lately, and when.
    told: HashMap<QueueKey, (MessageId, Instant)>,
    has_ended: bool,
}

/// News, and the server's time of the look that found it.
#[derive(Clone)]
struct Told {
    posted: Posted,
    since: Option<DateTime>,
}

/// What is read of a head.
#[derive(Deserialize)]
struct Notice {
    #[serde(rename = "_id")]
    queue: String,
    open: bool,
    incarnation: i64,
    next: i64,
    posted: Option<DateTime>,
}

impl Notice {
    fn read(&self) -> Option<Posted> {
        let key = queue_key(&self.queue).filter(|_| self.open && self.next > 1)?;
        let incarnation = schema::generation(self.incarnation, 0).incarnation;
        Some(Posted { key, last: schema::place(incarnation, self.next - 1) })
    }
}

impl Newsroom {
    /// Names a post.
    pub(crate) fn announce(&self, key: &QueueKey, last: MessageId) {
        self.tell(Posted { key: key.clone(), last }, None);
    }

    fn tell(&self, posted: Posted, since: Option<DateTime>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { sender: Some(sender), told, .. } = &mut *state else { return };
        let is_known = told.get(&posted.key).is_some_and(|(last, _)| {
            last.incarnation == posted.last.incarnation && last.position >= posted.last.position
        });
        if is_known {
            return;
        }
        told.insert(posted.key.clone(), (posted.last, Instant::now()));
        // Without a listener it is lost, as it should be.
        drop(sender.send(Told { posted, since }));
    }

    /// Forgets what no look can find again.
    fn forget_old(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.told.retain(|_, (_, when)| when.elapsed() < 3 * SLACK);
    }

    /// A receiver, and whether nobody else listens so that the task must be started.
    fn listen(&self) -> Option<(Receiver<Told>, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return None;
        }
        if let Some(sender) = &state.sender {
            return Some((sender.subscribe(), false));
        }
        let (sender, receiver) = broadcast::channel(WAITING);
        state.sender = Some(sender);
        state.told.clear();
        Some((receiver, true))
    }

    /// Whether the task may end: nobody listens any more.
    fn is_deserted(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_deserted = state.sender.as_ref().is_none_or(|sender| sender.receiver_count() == 0);
        if is_deserted {
            state.sender = None;
        }
        is_deserted
    }

    /// Ends all streams.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        state.sender = None;
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
                tokio::spawn(self.clone().tell_news(since));
            }
            Ok(Box::pin(listen(self.clone(), receiver, since)) as NewsStream)
        })
        .await
    }
}

/// One listener and what it is still to be told.
struct Listener {
    store: Mongo,
    receiver: Receiver<Told>,
    /// Posts before this server's time were named.
    since: DateTime,
    /// Whether it has to look for itself: at first, and when it was too slow.
    is_behind: bool,
    found: VecDeque<Posted>,
}

/// One listener's news.
fn listen(
    store: Mongo,
    receiver: Receiver<Told>,
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
                self.found.extend(notices.iter().filter_map(Notice::read));
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

    async fn posted_since(&self, since: DateTime) -> Result<Vec<Notice>, Error> {
        let query = Query::new(doc! { "posted": { "$gte": since } })
            .sorted(doc! { "posted": 1 })
            .of(doc! { "open": 1, "incarnation": 1, "next": 1, "posted": 1 });
        self.find(&self.inner.heads.clone_with_type(), &query).await
    }

    /// Tells of posts until nobody listens or the store is shut down.
    async fn tell_news(self, mut since: DateTime) {
        let poll = self.inner.options.poll;
        let mut stream = None;
        let mut ask_again = Instant::now();
        let mut next_look = Instant::now();
        while !self.inner.news.is_deserted() {
            if self.inner.options.change_streams && stream.is_none() && Instant::now() >= ask_again
            {
                stream = self.watch().await;
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
                        if let Some(notice) = &change {
                            self.tell(notice, None);
                        }
                    }
                    Ok(Some(Err(()))) | Ok(None) => {
                        stream = None;
                        next_look = Instant::now();
                    }
                    Err(_) => {}
                },
            }
        }
    }

    /// The server's own word of posts, where it gives it.
    async fn watch(&self) -> Option<impl Stream<Item = Result<Option<Notice>, ()>> + Unpin + Send> {
        let posts = doc! { "$match": {
            "operationType": "update", "updateDescription.updatedFields.posted": { "$exists": true },
        } };
        let heads = self.inner.heads.clone_with_type::<Notice>();
        let changes =
            heads.watch().pipeline([posts]).full_document(FullDocumentType::UpdateLookup).await;
        match changes {
            Ok(changes) => Some(changes.map(|change| match change {
                Ok(change) => Ok(change.full_document),
                Err(error) => {
                    tracing::debug!(%error, "a change stream ended");
                    Err(())
                }
            })),
            Err(error) => {
                tracing::debug!(%error, "no change streams here: news are looked up");
                None
            }
        }
    }

    fn tell(&self, notice: &Notice, since: Option<DateTime>) {
        if let Some(posted) = notice.read() {
            self.inner.news.tell(posted, since);
        }
    }
}

fn back(from: DateTime) -> DateTime {
    let slack = i64::try_from(SLACK.as_millis()).unwrap_or(0);
    DateTime::from_millis(from.timestamp_millis().saturating_sub(slack))
}
