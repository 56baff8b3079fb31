//! Operations on queues.

use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use zaqar_core::limits::DEFAULT_PAGE;
use zaqar_core::storage::Stats;
use zaqar_core::{Kind, Metadata, QueueKey, QueueName, SubscriptionId};

use crate::filter::{self, Filter};
use crate::seal::MIN_SECRET_CHARS;
use crate::{
    Api, Change, Context, CreateQueue, Error, ListQueues, ListedQueue, Part, PatchQueue, Purge,
    QueueList, QueueRef, checked_limit,
};

/// Subscriptions of a deleted queue whose own data is deleted at once.
const CLEANED: usize = 100;
/// Of these, read at once.
const PAGE: usize = 20;
/// Of these, deleted at once.
const AT_ONCE: usize = 16;

impl Api {
    /// Lists queues of the caller's project by name. Cost: one row read a queue shown; filtered, at
    /// most [`crate::MAX_ROWS_FILTERED`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of bounds or a pattern that cannot be used;
    /// [`Error::Storage`].
    pub(crate) async fn list_queues(
        &self,
        context: &Context,
        mut request: ListQueues,
    ) -> Result<QueueList, Error> {
        let limits = &self.inner.limits;
        let limit =
            checked_limit(request.limit, DEFAULT_PAGE, limits.max_queues_per_page, |max| {
                Error::request(format!("Limit must be at least 1 and no greater than {max}."))
            })?;
        let filter = Filter::new(&mut request)?;
        // A marker that is not a valid queue name starts at the beginning.
        let after = request.marker.as_deref().and_then(|marker| QueueName::new(marker).ok());
        let store = self.inner.management.as_ref();
        let found = filter::page(store, &request, &context.project, after, limit, &filter).await?;
        let count = match request.with_count {
            true => Some(store.count(&context.project, request.kind).await?),
            false => None,
        };
        let shown = |metadata: Metadata| request.detailed.then_some(metadata);
        let queues = found.rows.into_iter();
        Ok(QueueList {
            queues: queues
                .map(|(name, row)| ListedQueue { name, metadata: shown(row.metadata) })
                .collect(),
            next: found.next,
            count,
        })
    }

    /// Creates a queue unless it exists, and returns whether this request created it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a reserved attribute with a wrong value; [`Error::Storage`].
    pub(crate) async fn create_queue(
        &self,
        context: &Context,
        request: CreateQueue,
    ) -> Result<bool, Error> {
        self.check_metadata(&request.metadata, Part::Request)?;
        let key = context.key(request.queue);
        self.place(&key, &request.metadata).await?;
        self.inner.directory.create(&key, request.metadata, self.inner.clock.now()).await
    }

    /// A queue's metadata as it was given, without defaults; `None` if the queue does not exist.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn get_queue(
        &self,
        context: &Context,
        queue: QueueRef,
    ) -> Result<Option<Metadata>, Error> {
        let row = self.inner.management.get(&context.key(queue)).await?;
        Ok(row.map(|row| row.metadata))
    }

    /// Changes a queue's metadata, all changes or none, and returns all of it, without defaults.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`]; [`Error::Conflict`] for a change of a missing attribute;
    /// [`Error::Invalid`] for a reserved attribute with a wrong value and for metadata past
    /// `max_queue_metadata` bytes; [`Error::Storage`].
    pub(crate) async fn patch_queue(
        &self,
        context: &Context,
        request: PatchQueue,
    ) -> Result<Metadata, Error> {
        let limits = &self.inner.limits;
        let key = context.key(request.queue);
        let change = |metadata: &mut Metadata| {
            let before = metadata.clone();
            for change in &request.changes {
                apply(metadata, &before, key.kind, change)?;
            }
            self.check_metadata(metadata, Part::Body)?;
            let max = limits.max_queue_metadata;
            if metadata.to_json().len() as u64 > max {
                let reason = format!("Queue metadata is too large. Max size: {max}");
                return Err(Error::Invalid { part: Part::Body, reason });
            }
            Ok(())
        };
        self.check_flavors(context, &request.changes).await?;
        self.inner.directory.update(&key, change).await
    }

    /// Deletes a queue and everything in it, in constant time. A missing queue is not an error.
    /// What its subscriptions have by themselves, as rows of deliveries and secrets, is deleted now
    /// for the first [`CLEANED`] of them, and within a day for others.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn delete_queue(
        &self,
        context: &Context,
        queue: QueueRef,
    ) -> Result<(), Error> {
        let key = context.key(queue);
        let subscribed = self.subscribed(&key).await?;
        self.inner.directory.delete(&key, self.inner.clock.now()).await?;
        self.inner.pusher.queue_deleted(&key);
        self.clean(&key, &subscribed).await;
        Ok(())
    }

    /// Counts the messages of a queue; `None` if the queue does not exist.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn stats(
        &self,
        context: &Context,
        queue: QueueRef,
    ) -> Result<Option<Stats>, Error> {
        let key = context.key(queue);
        let stats = self.inner.messages.stats(&key, self.inner.clock.now()).await?;
        match stats {
            Some(stats) => Ok(Some(stats)),
            // A row without a head (it was lost in a crash, or nothing was posted): the queue
            // exists and is empty.
            None => Ok(self.inner.management.get(&key).await?.map(|_| Stats::default())),
        }
    }

    /// Removes the messages or subscriptions of a queue, in constant time. A missing queue is not
    /// an error. What subscriptions have by themselves is deleted as with the queue.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn purge(&self, context: &Context, request: Purge) -> Result<(), Error> {
        let key = context.key(request.queue);
        if request.messages {
            self.inner.messages.purge(&key, self.inner.clock.now()).await?;
        }
        if request.subscriptions {
            let subscribed = self.subscribed(&key).await?;
            self.inner.pusher.begin_leaving(&key, None, context.connection.as_ref());
            self.inner.messages.unsubscribe_all(&key, self.inner.clock.now()).await?;
            self.inner.pusher.removed(&key, None);
            self.clean(&key, &subscribed).await;
        }
        Ok(())
    }

    /// The subscriptions of a queue, at most [`CLEANED`], if messages are delivered.
    async fn subscribed(&self, key: &QueueKey) -> Result<Vec<SubscriptionId>, Error> {
        let mut ids = Vec::new();
        while self.subscribers().is_some() && ids.len() < CLEANED {
            let (after, now) = (ids.last().copied(), self.inner.clock.now());
            let page = self.inner.messages.subscriptions(key, after, PAGE, now).await?;
            ids.extend(page.iter().map(|subscription| subscription.id));
            if page.len() < PAGE {
                break;
            }
        }
        Ok(ids)
    }

    /// Deletes what the removed subscriptions of a queue have by themselves.
    async fn clean(&self, key: &QueueKey, subscribed: &[SubscriptionId]) {
        if let Some(subscribers) = self.subscribers() {
            let deletions = subscribed.iter().map(|id| subscribers.deleted(key, *id));
            stream::iter(deletions).for_each_concurrent(AT_ONCE, |deletion| deletion).await;
        }
    }

    fn check_metadata(&self, metadata: &Metadata, part: Part) -> Result<(), Error> {
        metadata.check(&self.inner.limits).map_err(|e| Error::metadata(part, &e))?;
        if metadata.rules().encrypt && self.inner.keyring.is_none() {
            let reason = format!(
                "_enable_encrypt_messages needs a key: [transport] message_encryption_key, of at \
                 least {MIN_SECRET_CHARS} characters, is not configured."
            );
            return Err(Error::Invalid { part, reason });
        }
        Ok(())
    }
}

/// Applies one change of a patch; `before` is the metadata before the patch.
fn apply(
    metadata: &mut Metadata,
    before: &Metadata,
    kind: Kind,
    change: &Change,
) -> Result<(), Error> {
    let missing = |verb: &str, attribute: &str| Error::Conflict {
        reason: format!("Can't {verb} non-existent object {attribute}."),
    };
    let object = metadata.as_object_mut();
    match change {
        Change::Add { attribute, value } => {
            object.insert(attribute.clone(), value.clone());
        }
        Change::Replace { attribute, value } => {
            if !object.contains_key(attribute) && !Metadata::is_reserved(kind, attribute) {
                return Err(missing("replace", attribute));
            }
            object.insert(attribute.clone(), value.clone());
        }
        // Clients may remove a reserved attribute that is shown with its default but not stored:
        // that changes nothing.
        Change::Remove { attribute }
            if Metadata::is_reserved(kind, attribute)
                && before.as_object().get(attribute).is_none_or(Value::is_null) => {}
        Change::Remove { attribute } => {
            // `shift_remove` keeps the order of the other attributes.
            if object.shift_remove(attribute).is_none() && !Metadata::is_reserved(kind, attribute) {
                return Err(missing("remove", attribute));
            }
        }
    }
    Ok(())
}
