//! Posts, and deletions of single messages: see `groups`.

use zaqar_core::storage::{Batch, Deleted, Error, FOLLOWED_FOR, Guarded};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{Step, VERSION, arguments, millis, number};
use crate::error::Garbled;
use crate::groups::{Deletion, DeletionLine, MESSAGE, Post, PostLine, Posted, all_alike, refused};
use crate::messages::{claim_text, id, lane};
use crate::peer::Lane;
use crate::record;
use crate::reply::Outcome;
use crate::scripts;
use crate::server::Mode;

impl Redis {
    /// Posts a batch, together with others if it is small.
    pub(crate) async fn post_in_group(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Posted {
        let _permit = self.server().admit()?;
        for message in &batch.messages {
            self.server().check_size(record::length(&batch.client, &message.payload))?;
        }
        let line = PostLine { key: key.clone(), assumed, notify: batch.notify };
        let post = Post { batch, now };
        let (bytes, count) = (post.bytes(), post.batch.messages.len());
        if lane(count, bytes) == Lane::Large {
            let answer = self.post_group(&line, vec![post]).await.pop();
            return answer.unwrap_or_else(|| Err(Garbled.into()));
        }
        let store = self.clone();
        let send = move |line: PostLine, posts| {
            let store = store.clone();
            async move { store.post_group(&line, posts).await }
        };
        let posts = &self.inner.groups.posts;
        posts.submit(line, post, bytes + MESSAGE * count, send).await.unwrap_or_else(refused)
    }

    /// Deletes a message, together with others.
    pub(crate) async fn delete_in_group(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let _permit = self.server().admit()?;
        let assumed = Generation { incarnation: id.incarnation, version: Version::new(0) };
        let line = DeletionLine { key: key.clone(), assumed };
        let deletion = Deletion { position: id.position, claim, now };
        let store = self.clone();
        let send = move |line: DeletionLine, deletions| {
            let store = store.clone();
            async move { store.delete_group(&line, deletions).await }
        };
        let deletions = &self.inner.groups.deletions;
        deletions.submit(line, deletion, MESSAGE, send).await.unwrap_or_else(refused)
    }

    async fn post_group(&self, line: &PostLine, posts: Vec<Post>) -> Vec<Posted> {
        let sizes: Vec<_> = posts.iter().map(|post| post.batch.messages.len() as u64).collect();
        let (mut first, due) = match self.store_group(line, posts).await {
            Ok(Guarded::Done(stored)) => stored,
            Ok(Guarded::Absent) => return sizes.iter().map(|_| Ok(Guarded::Absent)).collect(),
            Ok(Guarded::Stale(generation)) => {
                return sizes.iter().map(|_| Ok(Guarded::Stale(generation))).collect();
            }
            Err(error) => return all_alike(error, sizes.len()),
        };
        if let Some(at) = due {
            self.announce_deliveries(&line.key, at).await;
        }
        let mut posted = Vec::with_capacity(sizes.len());
        for size in sizes {
            let ids = (first..first + size).map(|at| id(line.assumed.incarnation, at)).collect();
            posted.push(Ok(Guarded::Done(ids)));
            first += size;
        }
        if let Some(last) = first.checked_sub(1) {
            self.inner.hub.posted(&line.key, id(line.assumed.incarnation, last));
        }
        posted
    }

    /// Stores posts; the first position, and when deliveries come due that the schedule should hear
    /// of.
    async fn store_group(
        &self,
        line: &PostLine,
        posts: Vec<Post>,
    ) -> Result<Guarded<(u64, Option<u64>)>, Error> {
        // As a queue never goes back in time, the latest of them holds for all.
        let now = posts.iter().map(|post| post.now).max();
        let messages: usize = posts.iter().map(|post| post.batch.messages.len()).sum();
        let lane = match posts.as_slice() {
            [one] => lane(messages, one.bytes()),
            _ => Lane::Quick,
        };
        let mut arguments = arguments(Some(line.assumed));
        arguments.reserve(3 + 3 * messages);
        let followed = if line.notify { millis(FOLLOWED_FOR.as_secs()) } else { Vec::new() };
        let sizes: Vec<_> =
            posts.iter().map(|post| post.batch.messages.len().to_string()).collect();
        arguments.extend([Vec::new(), followed, sizes.join(" ").into_bytes()]);
        for Post { batch, .. } in posts {
            for message in &batch.messages {
                arguments.push(record::encode(
                    now.ok_or(Garbled)?,
                    &batch.client,
                    &message.payload,
                ));
                arguments.extend([millis(message.ttl), millis(message.delay)]);
            }
        }
        let step = Step::new(&scripts::POST, Mode::Write, now, arguments);
        let stored = self.step(&line.key, Step { lane, is_admitted: true, ..step }).await?;
        Ok(stored.guarded(|_, mut reply| Ok((reply.number()?, reply.some_number()?)))?)
    }

    async fn delete_group(
        &self,
        line: &DeletionLine,
        deletions: Vec<Deletion>,
    ) -> Vec<Result<Deleted, Error>> {
        let count = deletions.len();
        match self.delete_each(line, deletions).await {
            Ok(deleted) => deleted.into_iter().map(Ok).collect(),
            Err(error) => all_alike(error, count),
        }
    }

    async fn delete_each(
        &self,
        line: &DeletionLine,
        deletions: Vec<Deletion>,
    ) -> Result<Vec<Deleted>, Error> {
        let now = deletions.iter().map(|deletion| deletion.now).max();
        let mut arguments = arguments(Some(line.assumed));
        arguments[VERSION].clear();
        for deletion in &deletions {
            arguments.push(number(deletion.position.get()));
            arguments.push(deletion.claim.map_or_else(Vec::new, claim_text));
        }
        let step = Step::new(&scripts::DELETE, Mode::Write, now, arguments);
        let mut reply = match self.step(&line.key, Step { is_admitted: true, ..step }).await? {
            Outcome::Said(_, reply) => reply,
            Outcome::Absent | Outcome::Stale(_) => {
                return Ok(deletions.iter().map(|_| Deleted::Gone).collect());
            }
        };
        let mut read = |_| match reply.bytes()?.as_slice() {
            b"gone" => Ok(Deleted::Gone),
            b"claimed" => Ok(Deleted::Claimed),
            b"not claimed" => Ok(Deleted::NotClaimed),
            b"wrong claim" => Ok(Deleted::WrongClaim),
            _ => Err(Garbled.into()),
        };
        deletions.iter().map(&mut read).collect()
    }
}
