//! Counting in the stores.

use std::sync::Arc;

use zaqar_api::Amount;
use zaqar_core::storage::{Error, ListQuery, ManagementStore, MessageStore};
use zaqar_core::{Clock, Kind, ProjectId, QueueKey};

use super::counter::Counter;

/// Queues per page.
const PAGE: usize = 200;
/// Subscriptions per page.
const SUBSCRIPTIONS: usize = 500;
/// Messages that are read for their mean size.
const SAMPLE: usize = 5;

const KINDS: [Kind; 2] = [Kind::Queue, Kind::Topic];

/// The stores that are counted.
pub(super) struct Stores {
    pub(super) management: Arc<dyn ManagementStore>,
    pub(super) messages: Arc<dyn MessageStore>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Stores {
    /// The messages of a queue, and their bytes on request. Cost: one store step, and another the
    /// first time that bytes are requested.
    pub(super) async fn queue(
        &self,
        key: &QueueKey,
        counter: &Counter,
        with_bytes: bool,
    ) -> Result<Amount, Error> {
        let stats = self.messages.stats(key, self.clock.now()).await?.unwrap_or_default();
        let messages = stats.free.saturating_add(stats.claimed).saturating_add(stats.delayed);
        if !with_bytes {
            return Ok(Amount { messages, bytes: 0 });
        }
        if counter.needs_sample(messages) {
            counter.sampled(self.mean_size(key).await?);
        }
        Ok(Amount { messages, bytes: counter.bytes_of(messages) })
    }

    /// The mean size of the first messages of a queue.
    async fn mean_size(&self, key: &QueueKey) -> Result<u64, Error> {
        let query = ListQuery {
            after: None,
            limit: SAMPLE,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.messages.list(key, &query, self.clock.now()).await?;
        let sizes = page.messages.iter().map(|message| message.payload.bytes.len() as u64);
        Ok(sizes.sum::<u64>().checked_div(page.messages.len() as u64).unwrap_or_default())
    }

    /// The messages of a project. `counter_of` returns the counter with a queue's sizes. Cost: one
    /// store step for each queue and topic.
    pub(super) async fn project(
        &self,
        project: &ProjectId,
        with_bytes: bool,
        counter_of: impl Fn(&QueueKey) -> Arc<Counter> + Send,
    ) -> Result<Amount, Error> {
        let mut sum = Amount::default();
        let mut queues = Queues::new(project);
        while let Some(page) = queues.next(self).await? {
            for key in page {
                let held = match with_bytes {
                    true => self.queue(&key, &counter_of(&key), true).await?,
                    false => self.queue(&key, &Counter::default(), false).await?,
                };
                sum.messages = sum.messages.saturating_add(held.messages);
                sum.bytes = sum.bytes.saturating_add(held.bytes);
            }
        }
        Ok(sum)
    }

    /// The queues and topics of a project.
    pub(super) async fn queues(&self, project: &ProjectId) -> Result<u64, Error> {
        let mut count = 0;
        for kind in KINDS {
            count += self.management.count(project, kind).await?;
        }
        Ok(count)
    }

    /// The subscriptions of a project; counting stops at `enough`.
    pub(super) async fn subscriptions(
        &self,
        project: &ProjectId,
        enough: u64,
    ) -> Result<u64, Error> {
        let mut count = 0;
        let mut queues = Queues::new(project);
        while let Some(page) = queues.next(self).await? {
            for key in page {
                count += self.subscriptions_of(&key, enough.saturating_sub(count)).await?;
                if count >= enough {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }

    async fn subscriptions_of(&self, key: &QueueKey, enough: u64) -> Result<u64, Error> {
        let (mut count, mut after) = (0, None);
        loop {
            let now = self.clock.now();
            let page = self.messages.subscriptions(key, after, SUBSCRIPTIONS, now).await?;
            count += page.len() as u64;
            match page.last() {
                Some(last) if page.len() == SUBSCRIPTIONS && count < enough => {
                    after = Some(last.id);
                }
                Some(_) | None => return Ok(count),
            }
        }
    }

    pub(super) async fn has_queue(&self, key: &QueueKey) -> Result<bool, Error> {
        Ok(self.management.get(key).await?.is_some())
    }
}

/// Pages of the queues and topics of a project.
struct Queues<'a> {
    project: &'a ProjectId,
    kinds: &'static [Kind],
    after: Option<zaqar_core::QueueName>,
}

impl<'a> Queues<'a> {
    fn new(project: &'a ProjectId) -> Self {
        Self { project, kinds: &KINDS, after: None }
    }

    async fn next(&mut self, stores: &Stores) -> Result<Option<Vec<QueueKey>>, Error> {
        let Some((&kind, rest)) = self.kinds.split_first() else { return Ok(None) };
        let after = self.after.as_ref();
        let rows = stores.management.list(self.project, kind, after, PAGE).await?;
        if rows.len() < PAGE {
            (self.kinds, self.after) = (rest, None);
        } else {
            self.after = rows.last().map(|(name, _)| name.clone());
        }
        let key = |name| QueueKey { project: self.project.clone(), kind, name };
        Ok(Some(rows.into_iter().map(|(name, _)| key(name)).collect()))
    }
}
