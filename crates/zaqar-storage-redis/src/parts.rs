//! Posts that are too large for one script. Redis executes nothing else while a script runs, so a
//! large post is sent in parts, and others' requests are executed between them.
//!
//! - **Stage.** Each part is one element of a list, `:u:ID`, which nothing else reads and which
//!   expires if the post goes no further. The list's length tells a repeated part from the next.
//! - **Commit.** One script of constant cost gives the whole post its positions and names it in the
//!   head, by the field `u`. From then on it is in the queue: later posts come after it.
//! - **Settle.** Each call moves one part from the list to the indexes of the queue. Whatever reads
//!   messages or entries settles first, so that it sees all of the post or nothing; this server
//!   settles before it answers, and the sweep settles what a server that died has left. A head has
//!   at most one post that is not settled.
//!
//! A part is a sequence of messages: ttl and delay in milliseconds, and the length of the rest, in
//! 8, 8 and 4 bytes, big-endian; then the rest, which is the record without its creation time.

use std::time::Instant;

use zaqar_core::storage::{Batch, Error, FOLLOWED_FOR, Guarded, NewMessage};
use zaqar_core::{ClientId, Generation, QueueKey, Timestamp};

use crate::Redis;
use crate::driver::{HeadCall, arguments, bounded_millis, millis, number};
use crate::error::Malformed;
use crate::groups::{Post, PostResult};
use crate::messages::id;
use crate::peer::Lane;
use crate::record;
use crate::reply::Outcome;
use crate::scripts::{self, Script};
use crate::server::Mode;

/// Bounds of one part, and so of one script: messages, and bytes of bodies.
const PART_MESSAGES: usize = 128;
const PART_BYTES: usize = 256 << 10;
/// Bounds of a post that is stored by one script.
const WHOLE_MESSAGES: usize = 128;
const WHOLE_BYTES: usize = 512 << 10;
/// Attempts for a post whose parts are lost, by a failover for example.
const ATTEMPTS: usize = 3;

/// Whether a post is sent in parts.
pub(crate) fn is_in_parts(messages: &[NewMessage]) -> bool {
    let bytes: usize = messages.iter().map(|message| message.payload.bytes.len()).sum();
    messages.len() > WHOLE_MESSAGES || (messages.len() > 1 && bytes > WHOLE_BYTES)
}

/// A post that is sent in parts.
struct PostInParts<'a> {
    key: &'a QueueKey,
    assumed: Generation,
    post: &'a Post,
    /// Names the list of its parts.
    list: String,
    started: Instant,
}

impl Redis {
    /// Posts a batch in parts.
    pub(crate) async fn post_in_parts(
        &self,
        key: &QueueKey,
        assumed: Generation,
        post: &Post,
    ) -> PostResult {
        for _ in 0..ATTEMPTS {
            let list = format!("{:032x}", rand::random::<u128>());
            let parts = PostInParts { key, assumed, post, list, started: Instant::now() };
            let (first, due) = match self.stage_and_commit(&parts).await? {
                Some(Guarded::Done(committed)) => committed,
                Some(Guarded::Absent) => return Ok(Guarded::Absent),
                Some(Guarded::Stale(generation)) => return Ok(Guarded::Stale(generation)),
                None => continue,
            };
            self.settle_post(key, assumed).await;
            if let Some(at) = due {
                self.announce_deliveries(key, at).await;
            }
            let count = post.batch.messages.len() as u64;
            let ids: Vec<_> =
                (first..first + count).map(|at| id(assumed.incarnation, at)).collect();
            if let Some(last) = ids.last() {
                self.inner.broadcaster.posted(key, *last);
            }
            return Ok(Guarded::Done(ids));
        }
        Err(Error::unavailable("the server has lost parts of a post repeatedly"))
    }

    /// Stages all parts and commits them. Returns the first position, and the due time of
    /// deliveries if the schedule must be updated; `None` if a part is lost.
    async fn stage_and_commit(
        &self,
        parts: &PostInParts<'_>,
    ) -> Result<Option<Guarded<(u64, Option<u64>)>>, Error> {
        let mut rest = parts.post.batch.messages.as_slice();
        let mut count = 0;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(part(rest));
            let encoded = self.encode_part(&parts.post.batch.client, part)?;
            let own = vec![parts.list.clone().into_bytes(), number(count), encoded];
            match self.call_part(parts, &scripts::STAGE, None, own).await? {
                Outcome::Answer("done", _) => {}
                Outcome::Answer(..) => return Ok(None),
                Outcome::Absent => return Ok(Some(Guarded::Absent)),
                Outcome::Stale(generation) => return Ok(Some(Guarded::Stale(generation))),
            }
            (rest, count) = (later, count + 1);
        }
        if self.server().max_clock_skew().is_some_and(|skew| parts.started.elapsed() > skew / 2) {
            // The post's time is too old by now.
            return Err(Error::unavailable("the server was too slow to store a large post"));
        }
        self.commit(parts, count).await
    }

    async fn commit(
        &self,
        parts: &PostInParts<'_>,
        count: u64,
    ) -> Result<Option<Guarded<(u64, Option<u64>)>>, Error> {
        let Batch { messages, notify, .. } = &parts.post.batch;
        let delay = messages.iter().map(|message| message.delay).min().unwrap_or(0);
        let own = vec![
            Vec::new(),
            if *notify { millis(FOLLOWED_FOR.as_secs()) } else { Vec::new() },
            parts.list.clone().into_bytes(),
            number(count),
            number(messages.len() as u64),
            millis(delay),
        ];
        match self.call_part(parts, &scripts::COMMIT, Some(parts.post.now), own).await? {
            Outcome::Answer("done", mut reply) => {
                Ok(Some(Guarded::Done((reply.number()?, reply.some_number()?))))
            }
            Outcome::Answer(..) => Ok(None),
            Outcome::Absent => Ok(Some(Guarded::Absent)),
            Outcome::Stale(generation) => Ok(Some(Guarded::Stale(generation))),
        }
    }

    async fn call_part(
        &self,
        parts: &PostInParts<'_>,
        script: &'static Script,
        now: Option<Timestamp>,
        own: Vec<Vec<u8>>,
    ) -> Result<Outcome, Error> {
        let mut arguments = arguments(Some(parts.assumed));
        arguments.extend(own);
        let call = HeadCall::new(script, Mode::Write, now, arguments);
        self.call_head(parts.key, HeadCall { lane: Lane::Large, is_admitted: true, ..call }).await
    }

    /// Settles what was committed. If that fails, the next reader or the sweep does it.
    async fn settle_post(&self, key: &QueueKey, assumed: Generation) {
        let arguments = arguments(Some(assumed));
        let call = HeadCall::new(&scripts::SETTLE, Mode::Background, None, arguments);
        let call = HeadCall { lane: Lane::Large, is_admitted: true, ..call };
        if let Err(error) = self.call_head(key, call).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(queue = %key, error, "a large post is settled later");
        }
    }

    fn encode_part(
        &self,
        client: &ClientId,
        messages: &[NewMessage],
    ) -> Result<Vec<u8>, Malformed> {
        let mut part = Vec::with_capacity(PART_BYTES);
        for message in messages {
            let life = self.server().life(message.ttl, message.delay == 0);
            let unknown = Timestamp::from_millis(0);
            let record = record::encode(unknown, client, &message.payload, life);
            let record = record.get(record::TIME..).ok_or(Malformed)?;
            part.extend(bounded_millis(message.ttl).to_be_bytes());
            part.extend(bounded_millis(message.delay).to_be_bytes());
            part.extend(u32::try_from(record.len()).map_err(|_| Malformed)?.to_be_bytes());
            part.extend_from_slice(record);
        }
        Ok(part)
    }
}

/// How many of these messages one part has, at least one.
fn part(messages: &[NewMessage]) -> usize {
    let mut left = PART_BYTES;
    let fits = |new: &&NewMessage| {
        let fits = left > 0;
        left = left.saturating_sub(new.payload.bytes.len());
        fits
    };
    messages.iter().take(PART_MESSAGES).take_while(fits).count()
}
