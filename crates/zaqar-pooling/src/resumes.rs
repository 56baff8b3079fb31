//! Goes on with moves that were left half done, by their records.

use std::sync::Arc;

use tracing::warn;
use zaqar_core::storage::{Error, QueueRow};
use zaqar_core::{Kind, QueueName, Timestamp};

use crate::deliveries::Moment;
use crate::mover::{Mover, OWNED_FOR};
use crate::moves::{Ended, Record};
use crate::rows;

/// Seconds for which the record of a move is kept.
const REMEMBERED_FOR: u64 = 600;
/// Records that are read at a time.
const PAGE: usize = 100;

impl Mover {
    /// Begins to look for moves that were left half done, and for pools to drain, unless that was
    /// done just now.
    pub(crate) fn resume_in_background(self: &Arc<Self>, now: Timestamp) {
        let mover = Arc::clone(self);
        self.resuming.start(now, async move {
            if let Err(error) = mover.resume(now).await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "moves of queues cannot be listed");
            }
        });
    }

    /// Goes on with moves, and drains pools.
    pub(crate) async fn resume(&self, now: Timestamp) -> Result<(), Error> {
        let time = Moment::new(now);
        let mut after: Option<QueueName> = None;
        loop {
            let page = self.records(after.as_ref()).await?;
            for (_, record) in &page {
                self.resume_one(record, time).await?;
            }
            match page.into_iter().last() {
                Some((name, _)) => after = Some(name),
                None => break,
            }
        }
        self.drain_all(time).await
    }

    /// A page of the records of moves, by the names of their rows.
    pub(crate) async fn records(
        &self,
        after: Option<&QueueName>,
    ) -> Result<Vec<(QueueName, Record)>, Error> {
        let store = self.registry.store();
        let page = store.list(&rows::moves()?, Kind::Internal, after, PAGE).await?;
        let read = |(name, row): (QueueName, QueueRow)| {
            let record = Record::read(row.metadata.as_object());
            record.map(|record| record.map(|record| (name, record))).transpose()
        };
        page.into_iter().filter_map(read).collect()
    }

    async fn resume_one(&self, record: &Record, time: Moment) -> Result<(), Error> {
        let key = &record.queue;
        if self.moving(key).await?.is_some() {
            self.drive_logged(key, time).await;
            return Ok(());
        }
        let now = time.now();
        match &record.ended {
            // Its server may be about to begin, or died before it noted the end.
            None if record.began.plus_secs(OWNED_FOR) <= now => {
                let place = self.registry.current_place(key).await?;
                let is_there = place.as_ref() == Some(&record.to);
                let problem = (!is_there).then(|| "it was interrupted".to_owned());
                let ended = Some(Ended { at: now, rows: 0, problem });
                self.change_record(key, |before| {
                    let before = before.filter(|before| before == record)?;
                    Some(Record { ended: ended.clone(), ..before })
                })
                .await
            }
            Some(ended) if ended.at.plus_secs(REMEMBERED_FOR) <= now => {
                let row = rows::record_of(key)?;
                let Some(found) = self.registry.store().get(&row).await? else { return Ok(()) };
                rows::remove(self.registry.store(), &row, found.generation).await.map(drop)
            }
            None | Some(_) => Ok(()),
        }
    }
}
