//! Operations on messages.

use zaqar_core::limits::MIN_TTL;
use zaqar_core::metadata::Rules;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Guarded, ListQuery, Message, MessagePage, NewMessage, PopQuery,
};
use zaqar_core::{Checksum, ClaimId, KeyId, Limits, MessageId, Payload, ProjectId, QueueKey};

use crate::directory::ATTEMPTS;
use crate::seal;
use crate::{
    Api, Context, DeleteMessage, DeleteMessages, Error, ListMessages, PopMessages, PostMessages,
    PostedMessage, QueueRef, ReadMessages, checked_limit, checked_seconds, page_limit,
};

/// Maximum number of store steps in which one list, claim or pop looks for readable messages. Each
/// examines about 1 000 messages.
pub(crate) const MAX_SLICES: usize = 100;

/// Messages of a post that get their checksums and are encrypted before other tasks run.
const PAYLOADS_AT_ONCE: usize = 1000;

impl Api {
    /// Stores messages, all or none, and returns their ids in order. Creates the queue if it does
    /// not exist. Cost: one store step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a document, ttl or delay past its limit and for an empty batch;
    /// [`Error::Storage`].
    pub(crate) async fn post_messages(
        &self,
        context: &Context,
        request: PostMessages,
    ) -> Result<Vec<MessageId>, Error> {
        let limits = &self.inner.limits;
        let notify = request.notify;
        check_posted_size(request.size, limits.max_messages_post_size)?;
        let key = context.key(request.queue);
        let now = self.inner.clock.now();
        let directory = &self.inner.directory;
        let id = rand::random();
        let mut known = None;
        for _ in 0..ATTEMPTS {
            let queue = match known.take() {
                Some(known) => known,
                // Checks limits before the queue is created: an invalid request must not create it.
                None => match directory.find(&key).await? {
                    Some(known) => known,
                    None => {
                        new_messages(&request.messages, &Rules::default(), limits)?;
                        directory.find_or_create(&key, now).await?
                    }
                },
            };
            check_queue_size(request.size, &queue.rules, limits)?;
            let mut messages = new_messages(&request.messages, &queue.rules, limits)?;
            for part in messages.chunks_mut(PAYLOADS_AT_ONCE) {
                for message in part {
                    self.finish_payload(&key.project, &queue.rules, &mut message.payload)?;
                }
                if request.messages.len() > PAYLOADS_AT_ONCE {
                    tokio::task::yield_now().await;
                }
            }
            let batch = Batch { request: id, client: context.client.clone(), messages, notify };
            match self.inner.messages.post(&key, queue.generation, batch, now).await? {
                Guarded::Done(ids) => return Ok(ids),
                Guarded::Absent | Guarded::Stale(_) => {
                    known = Some(directory.reconcile(&key, now).await?);
                }
            }
        }
        Err(Error::Contended)
    }

    /// Checks the size of a document against `max_messages_post_size` and the limit of its queue,
    /// as [`Api::post_messages`] does.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the limit; [`Error::Storage`].
    pub(crate) async fn check_post_size(
        &self,
        context: &Context,
        queue: QueueRef,
        size: u64,
    ) -> Result<(), Error> {
        check_posted_size(size, self.inner.limits.max_messages_post_size)?;
        match self.inner.directory.find(&context.key(queue)).await? {
            Some(known) => check_queue_size(size, &known.rules, &self.inner.limits),
            None => Ok(()),
        }
    }

    /// Lists messages in order. Cost: the messages returned, and a bounded number of hidden ones.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of bounds; [`Error::Storage`].
    pub(crate) async fn list_messages(
        &self,
        context: &Context,
        request: ListMessages,
    ) -> Result<MessagePage, Error> {
        let limit = self.message_limit(request.limit)?;
        let after = match request.marker.as_deref().map(str::parse::<MessageId>) {
            None => None,
            Some(Ok(id)) => Some(id),
            // A malformed marker gives an empty page.
            Some(Err(_)) => return Ok(MessagePage::default()),
        };
        let mut query = ListQuery {
            after,
            limit,
            hide: (!request.echo).then(|| context.client.clone()),
            include_claimed: request.include_claimed,
            include_delayed: request.include_delayed,
        };
        let key = context.key(request.queue);
        for _ in 0..MAX_SLICES {
            let mut page = self.inner.messages.list(&key, &query, self.inner.clock.now()).await?;
            self.open(&key, &mut page.messages);
            if !page.messages.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            query.after = page.next;
            tokio::task::yield_now().await;
        }
        Ok(MessagePage { messages: Vec::new(), next: query.after })
    }

    /// Reads messages by id, in the queue's order. Missing ones are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no or too many ids; [`Error::Storage`].
    pub(crate) async fn read_messages(
        &self,
        context: &Context,
        request: ReadMessages,
    ) -> Result<Vec<Message>, Error> {
        self.check_ids(&request.ids)?;
        let ids = parse_ids(&request.ids);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let key = context.key(request.queue);
        let mut messages = self.inner.messages.get(&key, &ids, self.inner.clock.now()).await?;
        self.open(&key, &mut messages);
        Ok(messages)
    }

    /// Deletes one message. A missing message is not an error.
    ///
    /// # Errors
    /// [`Error::MessageClaimed`], [`Error::MessageNotClaimed`], [`Error::WrongClaim`];
    /// [`Error::Storage`].
    pub(crate) async fn delete_message(
        &self,
        context: &Context,
        request: DeleteMessage,
    ) -> Result<(), Error> {
        let Ok(id) = request.id.parse() else { return Ok(()) };
        let key = context.key(request.queue);
        let now = self.inner.clock.now();
        let (claim, is_malformed) = match request.claim.map(|claim| claim.parse::<ClaimId>()) {
            None => (None, false),
            Some(Ok(claim)) => (Some(claim), false),
            // A malformed claim id matches no claim, but the answer still depends on whether the
            // message exists.
            Some(Err(_)) => (Some(ClaimId::new(rand::random())), true),
        };
        match self.inner.messages.delete(&key, id, claim, now).await? {
            Deleted::Gone => Ok(()),
            Deleted::Claimed => Err(Error::MessageClaimed),
            Deleted::NotClaimed if !is_malformed => Err(Error::MessageNotClaimed),
            Deleted::NotClaimed | Deleted::WrongClaim => Err(Error::WrongClaim),
        }
    }

    /// Deletes messages by id, in one step. Missing ones are not an error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no or too many ids, and for no or too many claims if the
    /// configuration requires them; [`Error::Storage`].
    pub(crate) async fn delete_messages(
        &self,
        context: &Context,
        request: DeleteMessages,
    ) -> Result<(), Error> {
        let limits = &self.inner.limits;
        let which = match (limits.message_delete_with_claim_id, &request.claims) {
            (false, _) => Deletable::Any,
            (true, Some(claims)) => {
                let max = limits.max_messages_per_page;
                if claims.len() as u64 > max {
                    return Err(Error::request(format!(
                        "claim_ids parameter should not have more than {max} values."
                    )));
                }
                Deletable::HeldBy(claims.iter().filter_map(|id| id.parse().ok()).collect())
            }
            (true, None) => {
                return Err(Error::request(
                    "The request should have both \"ids\" and \"claim_ids\" parameter in the \
                     request when message_delete_with_claim_id is True.",
                ));
            }
        };
        self.check_ids(&request.ids)?;
        let key = context.key(request.queue);
        let ids = parse_ids(&request.ids);
        if ids.is_empty() {
            return Ok(());
        }
        Ok(self.inner.messages.delete_many(&key, &ids, &which, self.inner.clock.now()).await?)
    }

    /// Removes the first free messages from the queue and returns them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of bounds; [`Error::Storage`].
    pub(crate) async fn pop_messages(
        &self,
        context: &Context,
        request: PopMessages,
    ) -> Result<Vec<Message>, Error> {
        let max = self.inner.limits.max_messages_per_claim_or_pop;
        let limit = checked_limit(Some(request.limit), max, max, |max| {
            Error::request(format!(
                "Pop value must be at least 1 and may not be greater than {max}."
            ))
        })?;
        let key = context.key(request.queue);
        let mut query = PopQuery { limit, after: None, keys: self.key_ids() };
        for _ in 0..MAX_SLICES {
            let page = self.inner.messages.pop(&key, &query, self.inner.clock.now()).await?;
            let (mut messages, next) = (page.messages, page.skipped.next);
            seal::report_skipped(page.skipped.key.as_ref());
            self.open(&key, &mut messages);
            // Popped messages are returned before another step can fail.
            if !messages.is_empty() || next.is_none() {
                return Ok(messages);
            }
            query.after = next;
        }
        Ok(Vec::new())
    }

    /// Decrypts messages, and leaves out those that cannot be decrypted.
    pub(crate) fn open(&self, key: &QueueKey, messages: &mut Vec<Message>) {
        seal::open_readable(self.inner.keyring.as_deref(), &key.project, messages);
    }

    /// The keys of messages that can be decrypted.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        self.inner.keyring.as_ref().map(|ring| ring.key_ids()).unwrap_or_default()
    }

    /// Adds the checksum of the plain body, then encrypts it, as configured for the server and the
    /// queue.
    fn finish_payload(
        &self,
        project: &ProjectId,
        rules: &Rules,
        payload: &mut Payload,
    ) -> Result<(), Error> {
        if self.inner.checksums {
            let checksum = Checksum::of_body(&payload.bytes);
            payload.checksum = checksum.map_err(|e| Error::request(e.to_string()))?;
        }
        if rules.encrypt {
            let keyring = self.inner.keyring.as_ref().ok_or(Error::CannotSeal)?;
            *payload = keyring.seal(project, payload.clone())?;
        }
        Ok(())
    }

    fn check_ids(&self, ids: &[String]) -> Result<(), Error> {
        let max = self.inner.limits.max_messages_per_page;
        if ids.is_empty() || ids.len() as u64 > max {
            return Err(Error::request(format!(
                "ids parameter should have at least 1 and not greater than {max} values."
            )));
        }
        Ok(())
    }

    fn message_limit(&self, limit: Option<i64>) -> Result<usize, Error> {
        page_limit(limit, self.inner.limits.max_messages_per_page)
    }
}

fn parse_ids(ids: &[String]) -> Vec<MessageId> {
    ids.iter().filter_map(|id| id.parse().ok()).collect()
}

fn check_posted_size(size: u64, max: u64) -> Result<(), Error> {
    if size > max {
        let reason = format!("Message collection size is too large. Max size {max}");
        return Err(Error::request(reason));
    }
    Ok(())
}

fn check_queue_size(size: u64, rules: &Rules, limits: &Limits) -> Result<(), Error> {
    let Some(queue_max) = rules.max_messages_post_size else { return Ok(()) };
    let config_max = limits.max_messages_post_size;
    let max = queue_max.min(config_max);
    if size > max {
        return Err(Error::request(format!(
            "Message collection size is too large. The max size for current queue is {max}. It is \
             calculated by max size = min(max_messages_post_size_config: {config_max}, \
             max_messages_post_size_queue: {queue_max})."
        )));
    }
    Ok(())
}

fn new_messages(
    posted: &[PostedMessage],
    rules: &Rules,
    limits: &Limits,
) -> Result<Vec<NewMessage>, Error> {
    if posted.is_empty() {
        return Err(Error::request("No messages to enqueu."));
    }
    posted.iter().map(|message| new_message(message, rules, limits)).collect()
}

fn new_message(
    message: &PostedMessage,
    rules: &Rules,
    limits: &Limits,
) -> Result<NewMessage, Error> {
    let ttl = match message.ttl {
        None => rules.default_message_ttl.unwrap_or(limits.default_message_ttl),
        Some(ttl) => checked_seconds(ttl, MIN_TTL, limits.max_message_ttl, |max, min| {
            Error::request(format!(
                "The TTL for a message may not exceed {max} seconds, and must be at least {min} \
                 seconds long."
            ))
        })?,
    };
    let delay = match message.delay {
        None => rules.default_message_delay.unwrap_or(limits.default_message_delay),
        Some(delay) => checked_seconds(delay, 0, limits.max_message_delay, |max, min| {
            Error::request(format!(
                "The Delay TTL for a message may not exceed {max} seconds, and must be at least \
                 {min} seconds long."
            ))
        })?,
    };
    Ok(NewMessage { payload: Payload::plain(message.body.clone()), ttl, delay })
}
