//! Recoveries as those who ask see them: begun, read, cancelled.

use zaqar_core::delivery::{BeginRecovery, Recovery, RecoveryId, RecoveryRange, RecoveryState};
use zaqar_core::storage::Error;
use zaqar_core::{Incarnation, MessageId, Position, QueueKey, SubscriptionId};

use crate::ask::{key, look_at};
use crate::recovery::{LONGEST, Record, count, end, progress, read, write};
use crate::row::{Body, Content, Row};
use crate::workers::Handle;

impl Handle {
    /// Begins to deliver once more what failed, in a range of times at which messages were posted.
    /// One recovery of a subscription runs at a time.
    ///
    /// # Errors
    /// What the store says.
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
        // The last row of all, then what is taken of those up to it.
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
        look_at(context, key.clone(), now).await?;
        Ok(BeginRecovery::Begun(progress(context, &key, &record, now).await?))
    }

    /// How far a recovery is; `None` for any but the last of the subscription.
    ///
    /// # Errors
    /// What the store says.
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

    /// Ends a recovery before it is done; what it has taken already is delivered. `false` for any
    /// but the last of the subscription.
    ///
    /// # Errors
    /// What the store says.
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
