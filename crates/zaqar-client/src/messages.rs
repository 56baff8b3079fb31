//! Messages of a queue or topic.

use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::{self, TryStreamExt};
use http::Method;

use crate::Error;
use crate::client::Call;
use crate::pages;
use crate::query::{self, Query, encoded};
use crate::resource::{Kind, Resource};
use crate::retry::Repeat;
use crate::types::{
    Listed, Message, MessageId, MessageList, NewMessage, Popped, PoppedList, Post, Posted,
};

/// Ids of one request, at most: what servers take unless configured otherwise.
pub(crate) const IDS: usize = 20;

impl<K: Kind> Resource<K> {
    /// Posts messages, all or none, and returns their ids in order.
    ///
    /// It is sent again only if the server cannot have stored it, or
    /// [`Retries::posts_may_repeat`](crate::Retries) allows more.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// use futures_util::TryStreamExt;
    /// use zaqar_client::{Listed, NewMessage};
    ///
    /// let queue = client.queue("greetings")?;
    /// let ids = queue.post([NewMessage::new("hello").unwrap().ttl(300)]).await?;
    /// let messages: Vec<_> = queue.messages(&Listed::default()).try_collect().await?;
    /// assert_eq!(messages[0].id, ids[0]);
    /// assert_eq!(messages[0].body.parse::<String>().unwrap(), "hello");
    /// queue.delete_message(&ids[0]).await?;
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// 400 past a limit: 256 KiB for all of it, unless queue or server say otherwise. An error for
    /// which [`Error::may_be_done`] is true leaves open whether the messages are stored.
    pub async fn post(
        &self,
        messages: impl IntoIterator<Item = NewMessage>,
    ) -> Result<Vec<MessageId>, Error> {
        let post = Post { messages: messages.into_iter().collect() };
        let call = Call::new(Method::POST, self.path("/messages")).body(&post)?;
        let posted: Posted = self.client.call(call.repeat(Repeat::Post)).await?.json()?;
        let id = |path: String| MessageId::new(path.rsplit('/').next().unwrap_or_default());
        Ok(posted.resources.into_iter().map(id).collect())
    }

    /// The messages, oldest first: each one once, also while others post and delete. It ends where
    /// there is none for now.
    pub fn messages(
        &self,
        listed: &Listed,
    ) -> impl Stream<Item = Result<Message, Error>> + Send + Unpin + use<K> {
        pages::rows::<MessageList>(self.client.clone(), self.list_path(listed))
    }

    /// One page of messages: those behind `marker`, or the first.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn page(
        &self,
        listed: &Listed,
        marker: Option<&MessageId>,
    ) -> Result<Vec<Message>, Error> {
        self.page_and_marker(listed, marker).await.map(|(messages, _)| messages)
    }

    /// As [`Self::page`], with the marker of the next page, if there are messages. It may not be
    /// the id of a message: OpenStack's server on MongoDB counts messages.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn page_and_marker(
        &self,
        listed: &Listed,
        marker: Option<&MessageId>,
    ) -> Result<(Vec<Message>, Option<MessageId>), Error> {
        let query = self.list_query(listed).with_some("marker", marker.map(MessageId::as_str));
        let (messages, next) = pages::page::<MessageList>(&self.client, &query.end()).await?;
        let marker = next.and_then(|next| query::parameter(&next, "marker")).map(MessageId::new);
        Ok((messages, marker))
    }

    /// The messages, and those that are posted later: where there is none, it asks again every
    /// `interval`. It ends with the first error that retries do not mend.
    pub fn tail(
        &self,
        listed: &Listed,
        interval: Duration,
    ) -> impl Stream<Item = Result<Message, Error>> + Send + Unpin + use<K> {
        self.tail_of(listed, interval, false)
    }

    /// As [`Self::tail`], without the messages that are there when it is first polled: it reads
    /// them to find their end.
    pub fn tail_new(
        &self,
        listed: &Listed,
        interval: Duration,
    ) -> impl Stream<Item = Result<Message, Error>> + Send + Unpin + use<K> {
        self.tail_of(listed, interval, true)
    }

    /// `skips` drops what is read before the first end.
    fn tail_of(
        &self,
        listed: &Listed,
        interval: Duration,
        skips: bool,
    ) -> impl Stream<Item = Result<Message, Error>> + Send + Unpin + use<K> {
        let state = (self.client.clone(), self.list_path(listed), false, skips);
        let pages = stream::try_unfold(state, move |(client, path, waits, skips)| async move {
            if waits {
                tokio::time::sleep(interval).await;
            }
            let (mut rows, next) = pages::page::<MessageList>(&client, &path).await?;
            // An empty page has no link: the same one is read again.
            let waits = rows.is_empty();
            if skips {
                rows.clear();
            }
            let skips = skips && !(waits && next.is_none());
            let path = next.unwrap_or(path);
            let rows = stream::iter(rows.into_iter().map(Ok));
            Ok::<_, Error>(Some((rows, (client, path, waits, skips))))
        });
        Box::pin(pages.try_flatten())
    }

    fn list_path(&self, listed: &Listed) -> String {
        self.list_query(listed).end()
    }

    fn list_query(&self, listed: &Listed) -> Query {
        Query::new(self.path("/messages"))
            .with_flag("echo", listed.echo)
            .with_flag("include_claimed", listed.claimed)
            .with_flag("include_delayed", listed.delayed)
            .with_number("limit", listed.page)
    }

    /// One message.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn message(&self, id: &MessageId) -> Result<Message, Error> {
        let path = self.path(&format!("/messages/{}", encoded(id.as_str())));
        Ok(self.client.call(Call::get(path)).await?.json::<Message>()?.completed())
    }

    /// The messages of these ids that are there, in requests of 20.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn messages_by_id(&self, ids: &[MessageId]) -> Result<Vec<Message>, Error> {
        let mut found = Vec::new();
        for ids in ids.chunks(IDS) {
            let path = Query::new(self.path("/messages")).with("ids", joined(ids)).end();
            match self.client.call(Call::get(path)).await {
                Ok(answer) => {
                    let page: MessageList = answer.json()?;
                    found.extend(page.messages.into_iter().map(Message::completed));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Deletes a message that no claim holds. One that is not there is no error.
    ///
    /// # Errors
    /// 403 where a claim holds it: [`Claim::delete`](crate::Claim::delete) deletes it then.
    pub async fn delete_message(&self, id: &MessageId) -> Result<(), Error> {
        let path = self.path(&format!("/messages/{}", encoded(id.as_str())));
        self.client.call(Call::new(Method::DELETE, path)).await.map(drop)
    }

    /// Deletes messages, claimed or not, in requests of 20. Those that are not there are no error.
    ///
    /// # Errors
    /// 403 on a server that wants claims for claimed messages. Earlier requests have been done.
    pub async fn delete_messages(&self, ids: &[MessageId]) -> Result<(), Error> {
        for ids in ids.chunks(IDS) {
            let path = Query::new(self.path("/messages")).with("ids", joined(ids)).end();
            self.client.call(Call::new(Method::DELETE, path)).await?;
        }
        Ok(())
    }

    /// Takes up to `count` of the first free messages out. It is never sent again: with the answer
    /// the messages would be lost. Work that must survive its worker is claimed instead.
    ///
    /// # Errors
    /// 400 for more than the server allows, 20 unless configured otherwise.
    pub async fn pop(&self, count: u32) -> Result<Vec<Popped>, Error> {
        let path = Query::new(self.path("/messages")).with("pop", count.to_string()).end();
        let call = Call::new(Method::DELETE, path).repeat(Repeat::Unsafe);
        let answer = self.client.call(call).await?;
        if answer.body.is_empty() {
            return Ok(Vec::new());
        }
        Ok(answer.json::<PoppedList>()?.messages)
    }
}

pub(crate) fn joined(ids: &[MessageId]) -> String {
    ids.iter().map(MessageId::as_str).collect::<Vec<_>>().join(",")
}
