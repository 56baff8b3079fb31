//! Posts, and deletions of single messages: see `groups`.

use zaqar_core::storage::{Batch, Deleted, Error, FOLLOWED_FOR, Guarded};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{HeadCall, VERSION, arguments, millis, number};
use crate::error::Malformed;
use crate::groups::{
    Deletion, DeletionKey, MESSAGE_OVERHEAD, Post, PostKey, PostResult, flatten, same_error,
};
use crate::messages::{claim_text, id, lane};
use crate::parts;
use crate::peer::Lane;
use crate::record;
use crate::reply::Outcome;
use crate::scripts;
use crate::server::Mode;

impl Redis {
    /// Posts a batch, grouped with others if it is small.
    pub(crate) async fn post_in_group(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> PostResult {
        let _permit = self.server().admit()?;
        for message in &batch.messages {
            self.server().check_size(record::length(&batch.client, &message.payload))?;
        }
        let group = PostKey { key: key.clone(), assumed, notify: batch.notify };
        let post = Post { batch, now };
        if parts::is_in_parts(&post.batch.messages) {
            return self.post_in_parts(key, assumed, &post).await;
        }
        let (bytes, count) = (post.bytes(), post.batch.messages.len());
        if lane(count, bytes) == Lane::Large {
            let answer = self.post_group(&group, vec![post]).await.pop();
            return answer.unwrap_or_else(|| Err(Malformed.into()));
        }
        let store = self.clone();
        let send = move |group: PostKey, posts| {
            let store = store.clone();
            async move { store.post_group(&group, posts).await }
        };
        let posts = &self.inner.groups.posts;
        posts
            .submit(group, post, bytes + MESSAGE_OVERHEAD * count, send)
            .await
            .unwrap_or_else(flatten)
    }

    /// Deletes a message, grouped with others.
    pub(crate) async fn delete_in_group(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let _permit = self.server().admit()?;
        let assumed = Generation { incarnation: id.incarnation, version: Version::new(0) };
        let group = DeletionKey { key: key.clone(), assumed };
        let deletion = Deletion { position: id.position, claim, now };
        let store = self.clone();
        let send = move |group: DeletionKey, deletions| {
            let store = store.clone();
            async move { store.delete_group(&group, deletions).await }
        };
        let deletions = &self.inner.groups.deletions;
        deletions.submit(group, deletion, MESSAGE_OVERHEAD, send).await.unwrap_or_else(flatten)
    }

    async fn post_group(&self, group: &PostKey, posts: Vec<Post>) -> Vec<PostResult> {
        let sizes: Vec<_> = posts.iter().map(|post| post.batch.messages.len() as u64).collect();
        let (mut first, due) = match self.store_group(group, posts).await {
            Ok(Guarded::Done(stored)) => stored,
            Ok(Guarded::Absent) => return sizes.iter().map(|_| Ok(Guarded::Absent)).collect(),
            Ok(Guarded::Stale(generation)) => {
                return sizes.iter().map(|_| Ok(Guarded::Stale(generation))).collect();
            }
            Err(error) => return same_error(error, sizes.len()),
        };
        if let Some(at) = due {
            self.announce_deliveries(&group.key, at).await;
        }
        let mut posted = Vec::with_capacity(sizes.len());
        for size in sizes {
            let ids = (first..first + size).map(|at| id(group.assumed.incarnation, at)).collect();
            posted.push(Ok(Guarded::Done(ids)));
            first += size;
        }
        if let Some(last) = first.checked_sub(1) {
            self.inner.broadcaster.posted(&group.key, id(group.assumed.incarnation, last));
        }
        posted
    }

    /// Stores posts. Returns the first position, and the due time of deliveries if the schedule
    /// must be updated.
    async fn store_group(
        &self,
        group: &PostKey,
        posts: Vec<Post>,
    ) -> Result<Guarded<(u64, Option<u64>)>, Error> {
        // A queue's time never goes back, so the latest time applies to all posts.
        let now = posts.iter().map(|post| post.now).max();
        let messages: usize = posts.iter().map(|post| post.batch.messages.len()).sum();
        let lane = match posts.as_slice() {
            [one] => lane(messages, one.bytes()),
            _ => Lane::Small,
        };
        let mut arguments = arguments(Some(group.assumed));
        arguments.reserve(3 + 3 * messages);
        let followed = if group.notify { millis(FOLLOWED_FOR.as_secs()) } else { Vec::new() };
        let sizes: Vec<_> =
            posts.iter().map(|post| post.batch.messages.len().to_string()).collect();
        arguments.extend([Vec::new(), followed, sizes.join(" ").into_bytes()]);
        for Post { batch, .. } in posts {
            for message in &batch.messages {
                let life = self.server().life(message.ttl, message.delay == 0);
                let now = now.ok_or(Malformed)?;
                arguments.push(record::encode(now, &batch.client, &message.payload, life));
                arguments.extend([millis(message.ttl), millis(message.delay)]);
            }
        }
        let call = HeadCall::new(&scripts::POST, Mode::Write, now, arguments);
        let stored =
            self.call_head(&group.key, HeadCall { lane, is_admitted: true, ..call }).await?;
        Ok(stored.guarded(|_, mut reply| Ok((reply.number()?, reply.some_number()?)))?)
    }

    async fn delete_group(
        &self,
        group: &DeletionKey,
        deletions: Vec<Deletion>,
    ) -> Vec<Result<Deleted, Error>> {
        let count = deletions.len();
        match self.delete_each(group, deletions).await {
            Ok(deleted) => deleted.into_iter().map(Ok).collect(),
            Err(error) => same_error(error, count),
        }
    }

    async fn delete_each(
        &self,
        group: &DeletionKey,
        deletions: Vec<Deletion>,
    ) -> Result<Vec<Deleted>, Error> {
        let now = deletions.iter().map(|deletion| deletion.now).max();
        let mut arguments = arguments(Some(group.assumed));
        arguments[VERSION].clear();
        for deletion in &deletions {
            arguments.push(number(deletion.position.get()));
            arguments.push(deletion.claim.map_or_else(Vec::new, claim_text));
        }
        let call = HeadCall::new(&scripts::DELETE, Mode::Write, now, arguments);
        let mut reply =
            match self.call_head(&group.key, HeadCall { is_admitted: true, ..call }).await? {
                Outcome::Answer(_, reply) => reply,
                Outcome::Absent | Outcome::Stale(_) => {
                    return Ok(deletions.iter().map(|_| Deleted::Gone).collect());
                }
            };
        let mut read = |_| match reply.bytes()?.as_slice() {
            b"gone" => Ok(Deleted::Gone),
            b"claimed" => Ok(Deleted::Claimed),
            b"not claimed" => Ok(Deleted::NotClaimed),
            b"wrong claim" => Ok(Deleted::WrongClaim),
            _ => Err(Malformed.into()),
        };
        deletions.iter().map(&mut read).collect()
    }
}
