//! Starting, reading and cancelling recoveries.

use zaqar_core::delivery::{BeginRecovery, Recovery, RecoveryId, RecoveryRange, RecoveryState};
use zaqar_core::storage::Error;
use zaqar_core::{Incarnation, MessageId, Position, QueueKey, SubscriptionId};

use crate::ask::{key, serve_now};
use crate::recovery::{LONGEST, Record, count, end, progress, read, write};
use crate::row::{Body, Content, Row};
use crate::workers::Handle;

impl Handle {
    /// Starts to deliver failed messages again, those posted in a range of times. A subscription
    /// has one recovery at a time.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn recover(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        range: RecoveryRange,
    ) -> Result<BeginRecovery, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let now = context.parts.clock.now();
        let before = read(context, &key, now).await?;
        if let Some(before) = &before
            && progress(context, &key, before, now).await?.state == RecoveryState::Running
        {
            return Ok(BeginRecovery::Runs(before.id));
        }
        let id = RecoveryId::new(rand::random());
        let state = RecoveryState::Running;
        // Read the last row first, then count the rows up to it.
        let last = context.deliveries.last_kept(&key, now).await?;
        let mut record = Record { id, state, range, last, total: 0, started: now };
        record.total = count(context, &key, &record, now).await?;
        let row = Row {
            message: MessageId {
                incarnation: Incarnation::new(rand::random::<u64>() >> 1),
                position: Position::new(0),
            },
            ttl: LONGEST,
            created: now,
            content: Content::Recovery,
            body: Body::Here(record.encode()),
        };
        context.deliveries.add(&key, &[(row, now)], now).await?;
        let before = before.map(|before| before.id);
        if !write(context, &key, &record, before, now).await? {
            return Ok(BeginRecovery::Contended);
        }
        serve_now(context, key.clone(), now).await?;
        Ok(BeginRecovery::Begun(progress(context, &key, &record, now).await?))
    }

    /// The progress of a recovery; `None` for any but the subscription's last one.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<Option<Recovery>, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let now = context.parts.clock.now();
        match read(context, &key, now).await?.filter(|record| record.id == recovery) {
            Some(record) => Ok(Some(progress(context, &key, &record, now).await?)),
            None => Ok(None),
        }
    }

    /// Cancels a recovery; what it has taken already is delivered. `false` for any but the
    /// subscription's last one.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn cancel_recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<bool, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let now = context.parts.clock.now();
        let found = read(context, &key, now).await?.filter(|record| record.id == recovery);
        let Some(record) = found else { return Ok(false) };
        if progress(context, &key, &record, now).await?.state != RecoveryState::Running {
            return Ok(true);
        }
        end(context, &key, record, RecoveryState::Cancelled, now).await
    }
}
