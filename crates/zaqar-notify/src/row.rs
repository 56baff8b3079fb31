//! How deliveries are stored: the names of internal queues, and the format of their messages.

use bytes::Bytes;
use serde_json::{Value, json};
use zaqar_core::{
    Kind, MessageId, Payload, ProjectId, QueueKey, QueueName, SubscriptionId, Timestamp,
};

/// Shards of the schedule. The number must not change: entries in a queue that no server reads
/// would be lost.
pub(crate) const SHARDS: usize = 8;

/// The project of the schedule's queues. A tenant of this name shares nothing with it, because the
/// kind differs.
const PROJECT: &str = "zaqar";

/// Identifies a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionKey {
    /// The queue or topic that it belongs to.
    pub(crate) queue: QueueKey,
    /// Its id.
    pub(crate) id: SubscriptionId,
}

impl SubscriptionKey {
    /// The internal queue with the subscription's deliveries.
    pub(crate) fn deliveries(&self) -> Option<QueueKey> {
        internal(self.queue.project.clone(), &format!("deliveries.{}", self.id))
    }

    /// The internal queues that are deleted with the subscription.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueKey> + use<> {
        let beside = [self.secrets(), self.log(), self.failed(), self.recovery()];
        self.deliveries().into_iter().chain(beside.into_iter().flatten())
    }

    /// The internal queue with the subscription's log of deliveries.
    pub(crate) fn log(&self) -> Option<QueueKey> {
        internal(self.queue.project.clone(), &format!("log.{}", self.id))
    }

    /// The internal queue with failed rows.
    pub(crate) fn failed(&self) -> Option<QueueKey> {
        internal(self.queue.project.clone(), &format!("failed.{}", self.id))
    }

    /// The internal queue with the record of the subscription's last recovery.
    pub(crate) fn recovery(&self) -> Option<QueueKey> {
        internal(self.queue.project.clone(), &format!("recovery.{}", self.id))
    }

    /// The internal queue with the subscription's signing keys.
    pub(crate) fn secrets(&self) -> Option<QueueKey> {
        internal(self.queue.project.clone(), &format!("secrets.{}", self.id))
    }

    /// The shard of the schedule that the subscription belongs to (FNV-1a).
    pub(crate) fn shard(&self) -> usize {
        let id = self.id.encode();
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        id.iter().fold(0x811c_9dc5, step) as usize % SHARDS
    }
}

fn internal(project: ProjectId, name: &str) -> Option<QueueKey> {
    Some(QueueKey { project, kind: Kind::Internal, name: QueueName::new(name).ok()? })
}

/// The internal queue with one shard of the schedule.
pub(crate) fn schedule(shard: usize) -> Option<QueueKey> {
    internal(ProjectId::new(PROJECT).ok()?, &format!("schedule.{shard}"))
}

/// The shard of the schedule that an internal queue holds.
pub(crate) fn shard_of(key: &QueueKey) -> Option<usize> {
    if key.kind != Kind::Internal || key.project.as_str() != PROJECT {
        return None;
    }
    let shard = key.name.as_str().strip_prefix("schedule.")?.parse().ok()?;
    (shard < SHARDS).then_some(shard)
}

/// The internal queue with bodies that several subscriptions of a project share.
pub(crate) fn bodies(project: &ProjectId) -> Option<QueueKey> {
    internal(project.clone(), "bodies")
}

/// One message for one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The message's id.
    pub(crate) message: MessageId,
    /// How long it lives from `created`, in seconds.
    pub(crate) ttl: u64,
    /// When it was posted.
    pub(crate) created: Timestamp,
    /// The kind of `body`.
    pub(crate) content: Content,
    /// Its body.
    pub(crate) body: Body,
}

/// The kind of a row's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A message's body.
    Message,
    /// The body of a test message, which was never posted.
    Test,
    /// All that is sent: a request to confirm a subscription, or a notice that it has ended.
    Confirmation,
    /// The task of a recovery, which is not sent.
    Recovery,
}

/// Where a row's body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// In the row.
    Here(Payload),
    /// A message of [`bodies`], with its size in bytes if the row has it.
    Shared(MessageId, Option<usize>),
}

/// The internal queue that holds events which wait to be posted.
pub(crate) fn events() -> Option<QueueKey> {
    internal(ProjectId::new(PROJECT).ok()?, "events")
}

impl Row {
    /// A line of JSON, followed by the body if it is in the row. An encrypted body stays encrypted.
    pub(crate) fn encode(&self) -> Payload {
        let mut head = json!({
            "id": self.message.to_string(),
            "ttl": self.ttl,
            "created": self.created.as_millis(),
        });
        match self.content {
            Content::Message => {}
            Content::Test => head["tests"] = true.into(),
            Content::Confirmation => head["confirms"] = true.into(),
            Content::Recovery => head["recovers"] = true.into(),
        }
        let (sealed_with, bytes) = match &self.body {
            Body::Here(payload) => (payload.sealed_with.clone(), payload.bytes.clone()),
            Body::Shared(id, size) => {
                head["body"] = id.to_string().into();
                if let Some(size) = size {
                    head["size"] = (*size).into();
                }
                (None, Bytes::new())
            }
        };
        let mut text = head.to_string().into_bytes();
        text.push(b'\n');
        text.extend_from_slice(&bytes);
        Payload { bytes: text.into(), sealed_with, checksum: None }
    }

    /// Reads what [`Row::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let end = payload.bytes.iter().position(|byte| *byte == b'\n')?;
        let head: Value = serde_json::from_slice(&payload.bytes[..end]).ok()?;
        let body = match head.get("body") {
            Some(id) => {
                let size = head.get("size").and_then(Value::as_u64);
                let size = size.and_then(|size| usize::try_from(size).ok());
                Body::Shared(id.as_str()?.parse().ok()?, size)
            }
            None => Body::Here(Payload {
                bytes: payload.bytes.slice(end + 1..),
                sealed_with: payload.sealed_with.clone(),
                checksum: None,
            }),
        };
        let content = match ["confirms", "tests", "recovers"].map(|name| head.get(name).is_some()) {
            [true, _, _] => Content::Confirmation,
            [false, true, _] => Content::Test,
            [false, false, true] => Content::Recovery,
            [false, false, false] => Content::Message,
        };
        Some(Self {
            content,
            message: head.get("id")?.as_str()?.parse().ok()?,
            ttl: head.get("ttl")?.as_u64()?,
            created: Timestamp::from_millis(head.get("created")?.as_u64()?),
            body,
        })
    }

    /// The bytes of its body, if that is in the row.
    pub(crate) fn bytes_here(&self) -> usize {
        match &self.body {
            Body::Here(payload) => payload.bytes.len(),
            Body::Shared(..) => 0,
        }
    }

    /// When the message expires.
    pub(crate) const fn expires(&self) -> Timestamp {
        self.created.plus_secs(self.ttl)
    }
}

/// An entry of the schedule: a subscription may have deliveries to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The subscription.
    pub(crate) subscription: SubscriptionKey,
    /// It exists as long as the subscription does, so that what belongs to the subscription is
    /// deleted with it.
    pub(crate) keeps: bool,
}

impl Ticket {
    pub(crate) fn encode(&self) -> Payload {
        let SubscriptionKey { queue, id } = &self.subscription;
        let text = json!({
            "project": queue.project.as_str(),
            "kind": queue.kind.as_str(),
            "queue": queue.name.as_str(),
            "subscription": id.to_string(),
            "keeps": self.keeps,
        });
        Payload::plain(text.to_string().into())
    }

    /// Reads what [`Ticket::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let text: Value = serde_json::from_slice(&payload.bytes).ok()?;
        let member = |name: &str| text.get(name)?.as_str();
        let kind = match member("kind")? {
            "queue" => Kind::Queue,
            "topic" => Kind::Topic,
            _ => return None,
        };
        let queue = QueueKey {
            project: ProjectId::new(member("project")?).ok()?,
            kind,
            name: QueueName::new(member("queue")?).ok()?,
        };
        let id = member("subscription")?.parse().ok()?;
        let keeps = text.get("keeps").and_then(Value::as_bool).unwrap_or(false);
        Some(Self { subscription: SubscriptionKey { queue, id }, keeps })
    }
}

/// An event about a subscriber that waits to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitingEvent {
    /// The project of its queue.
    pub(crate) project: ProjectId,
    /// The tenant's queue that it is for.
    pub(crate) queue: QueueName,
    /// What is posted there.
    pub(crate) body: Value,
}

impl WaitingEvent {
    pub(crate) fn encode(&self) -> Payload {
        let text = json!({
            "project": self.project.as_str(),
            "queue": self.queue.as_str(),
            "body": self.body,
        });
        Payload::plain(text.to_string().into())
    }

    /// Reads what [`WaitingEvent::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let mut text: Value = serde_json::from_slice(&payload.bytes).ok()?;
        let body = text.get_mut("body")?.take();
        let project = ProjectId::new(text.get("project")?.as_str()?).ok()?;
        let queue = QueueName::new(text.get("queue")?.as_str()?).ok()?;
        Some(Self { project, queue, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{Incarnation, KeyId, Position};

    fn subscription() -> SubscriptionKey {
        let queue = QueueKey {
            project: ProjectId::new("a/ü \"b\"").unwrap(),
            kind: Kind::Topic,
            name: QueueName::new("q.1").unwrap(),
        };
        SubscriptionKey { queue, id: SubscriptionId::new(7 << 80) }
    }

    fn id(position: u64) -> MessageId {
        MessageId { incarnation: Incarnation::new(3), position: Position::new(position) }
    }

    #[test]
    fn rows_read_back() {
        let sealed = Payload {
            bytes: Bytes::from_static(b"\n{}\0\xff\n"),
            sealed_with: Some(KeyId("k".into())),
            checksum: None,
        };
        for body in [
            Body::Here(Payload::plain(Bytes::from_static(b"{\n \"a\": 1}"))),
            Body::Here(sealed),
            Body::Shared(id(9), Some(5000)),
            Body::Shared(id(9), None),
        ] {
            let created = Timestamp::from_millis(1_795_000_000_123);
            for content in
                [Content::Message, Content::Test, Content::Confirmation, Content::Recovery]
            {
                let body = body.clone();
                let row = Row { message: id(4), ttl: 60, created, content, body };
                assert_eq!(Row::decode(&row.encode()), Some(row));
            }
        }
        for text in ["", "{}\n", "x\n1", "{\"id\":\"1\",\"ttl\":1,\"created\":1}\n"] {
            assert_eq!(Row::decode(&Payload::plain(text.into())), None, "{text:?}");
        }
    }

    #[test]
    fn tickets_read_back() {
        for keeps in [true, false] {
            let ticket = Ticket { subscription: subscription(), keeps };
            assert_eq!(Ticket::decode(&ticket.encode()), Some(ticket));
        }
        assert_eq!(Ticket::decode(&Payload::plain(Bytes::from_static(b"{}"))), None);
    }

    #[test]
    fn waiting_events_read_back() {
        let SubscriptionKey { queue, .. } = subscription();
        let body = json!({"zaqar_event": "resumed", "at": "x"});
        let event = WaitingEvent { project: queue.project, queue: queue.name, body };
        assert_eq!(WaitingEvent::decode(&event.encode()), Some(event));
        assert_eq!(WaitingEvent::decode(&Payload::plain(Bytes::from_static(b"{}"))), None);
    }

    #[test]
    fn every_part_of_the_schedule_is_used_and_known() {
        let mut used = [0; SHARDS];
        for bits in 0..1000_u128 {
            let subscription = SubscriptionKey { id: SubscriptionId::new(bits), ..subscription() };
            used[subscription.shard()] += 1;
            assert!(subscription.deliveries().is_some());
        }
        assert!(used.iter().all(|count| *count > 60), "{used:?}");
        for shard in 0..SHARDS {
            assert_eq!(shard_of(&schedule(shard).unwrap()), Some(shard));
        }
        assert_eq!(shard_of(&schedule(SHARDS).unwrap()), None);
        assert_eq!(shard_of(&bodies(&ProjectId::new("zaqar").unwrap()).unwrap()), None);
        let other = QueueKey { kind: Kind::Queue, ..schedule(0).unwrap() };
        assert_eq!(shard_of(&other), None, "a tenant's queue of that name");
    }
}
