//! Messages.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClaimId, Link, MessageId};

/// A message's body: the JSON that was posted, unparsed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(Box<RawValue>);

impl Body {
    /// Reads it as a type of the caller's.
    ///
    /// # Errors
    /// The body is JSON, but not of this type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Its JSON.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl From<Box<RawValue>> for Body {
    fn from(json: Box<RawValue>) -> Self {
        Self(json)
    }
}

/// A message in a queue or topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    #[serde(default = "nowhere")]
    pub id: MessageId,
    /// Its path; of a claimed message with the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub href: String,
    /// Seconds that it lives, from its post.
    pub ttl: u64,
    /// Seconds since its post.
    #[serde(deserialize_with = "super::age")]
    pub age: u64,
    /// What was posted.
    pub body: Body,
    /// `MD5:` and a digest, where the server makes checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// How often it was claimed, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_count: Option<u64>,
    /// The claim that holds it, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<ClaimId>,
}

/// Older servers give a message's path alone.
fn nowhere() -> MessageId {
    MessageId::new("")
}

impl Message {
    /// Takes id and claim from the path where the server gives them only there.
    pub(crate) fn completed(mut self) -> Self {
        let (path, query) = self.href.split_once('?').unwrap_or((&self.href, ""));
        if self.id.as_str().is_empty() {
            self.id = MessageId::new(path.rsplit('/').next().unwrap_or_default());
        }
        if self.claim_id.is_none() {
            let claim = query.split('&').find_map(|pair| pair.strip_prefix("claim_id="));
            self.claim_id = claim.map(ClaimId::new);
        }
        self
    }
}

/// A message that was popped: it is out of its queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Popped {
    /// The id that it had.
    pub id: MessageId,
    /// Seconds that it would have lived.
    pub ttl: u64,
    /// Seconds since its post.
    #[serde(deserialize_with = "super::age")]
    pub age: u64,
    /// What was posted.
    pub body: Body,
    /// How often it was claimed.
    #[serde(default)]
    pub claim_count: u64,
    /// `MD5:` and a digest, where the server makes checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// A message to post.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewMessage {
    body: Body,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
}

impl NewMessage {
    /// A message with anything that has a JSON form.
    ///
    /// # Errors
    /// The body has no JSON form: a map whose keys are no texts, say.
    pub fn new(body: impl Serialize) -> Result<Self, serde_json::Error> {
        let body = Body(serde_json::value::to_raw_value(&body)?);
        Ok(Self { body, ttl: None, delay: None })
    }

    /// A message whose body is JSON text.
    ///
    /// # Errors
    /// The text is no JSON.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        Ok(Self { body: Body(RawValue::from_string(text)?), ttl: None, delay: None })
    }

    /// Seconds that it lives; else the queue says, else the server. Servers take 60 to 1 209 600.
    #[must_use]
    pub const fn ttl(mut self, seconds: u64) -> Self {
        self.ttl = Some(seconds);
        self
    }

    /// Seconds until it can be seen; else the queue says. Servers take up to 900.
    #[must_use]
    pub const fn delay(mut self, seconds: u64) -> Self {
        self.delay = Some(seconds);
        self
    }

    /// Its body.
    pub const fn body(&self) -> &Body {
        &self.body
    }
}

impl From<Body> for NewMessage {
    /// A message with the body of another.
    fn from(body: Body) -> Self {
        Self { body, ttl: None, delay: None }
    }
}

/// Which messages a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Those that this client posted, too. `true` by default, unlike the server's own default.
    pub echo: bool,
    /// Claimed ones, too.
    pub claimed: bool,
    /// Those whose delay is not over, too.
    pub delayed: bool,
    /// Messages of a page; servers allow 1 to 20 unless configured otherwise.
    pub page: Option<u32>,
}

impl Default for Listed {
    fn default() -> Self {
        Self { echo: true, claimed: false, delayed: false, page: None }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Post {
    pub(crate) messages: Vec<NewMessage>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Posted {
    pub(crate) resources: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageList {
    pub(crate) messages: Vec<Message>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PoppedList {
    pub(crate) messages: Vec<Popped>,
}
