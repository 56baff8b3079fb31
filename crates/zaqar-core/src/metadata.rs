//! A queue's metadata: a JSON object set by the user, whose reserved attributes configure the
//! queue.

use serde_json::{Map, Value};

use crate::limits::MIN_TTL;
use crate::{Kind, Limits, QueueName};

/// Seconds of one step of linear backoff, as in the original (`LINEAR_INTERVAL`). The range of
/// delays must hold two steps.
const LINEAR_INTERVAL: i64 = 5;
const DEFAULT_MINIMUM_DELAY: i64 = 5;
const DEFAULT_MAXIMUM_DELAY: i64 = 30;
const BACKOFF_FUNCTIONS: [&str; 4] = ["linear", "arithmetic", "geometric", "exponential"];

/// A queue's metadata document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Map<String, Value>);

/// A reserved attribute has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The wrong JSON type.
    #[error("{attribute} must be {expected}.")]
    Type {
        /// The attribute, or a member of `_retry_policy`.
        attribute: &'static str,
        /// The expected type, with its article.
        expected: &'static str,
    },
    /// An integer out of range.
    #[error("{attribute} must be at least {min} and may not be greater than {max}.")]
    Range {
        /// The attribute.
        attribute: &'static str,
        /// The smallest valid value.
        min: u64,
        /// The largest valid value.
        max: u64,
    },
    /// `_dead_letter_queue` is not a valid queue name.
    #[error("_dead_letter_queue must be the name of a queue: {reason}.")]
    DeadLetterQueue {
        /// What is wrong with the name.
        reason: String,
    },
    /// An unknown backoff function.
    #[error("retry_backoff_function must be one of linear, arithmetic, geometric, exponential.")]
    BackoffFunction,
    /// The minimum and maximum retry delay are too close.
    #[error(
        "maximum_delay must be at least {} seconds above minimum_delay.",
        2 * LINEAR_INTERVAL
    )]
    RetryDelays,
}

/// The parsed reserved attributes. Absent, null and false attributes are not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The maximum size of a post to this queue, in bytes.
    pub max_messages_post_size: Option<u64>,
    /// The ttl of a message without one, in seconds.
    pub default_message_ttl: Option<u64>,
    /// The delay of a message without one, in seconds.
    pub default_message_delay: Option<u64>,
    /// The dead-letter rule.
    pub dead_letters: Option<DeadLetterRule>,
    /// Whether bodies are encrypted before they are stored.
    pub encrypt: bool,
}

/// `_max_claim_count` and `_dead_letter_queue`: one without the other has no effect, as in the
/// original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRule {
    /// A message that was claimed this many times is not claimed again.
    pub max_claim_count: u32,
    /// The queue of the same project that it is moved to.
    pub queue: QueueName,
    /// Its ttl there, in seconds. `None` keeps its expiry.
    pub ttl: Option<u64>,
}

impl Metadata {
    /// Wraps an object without checking it.
    pub const fn new(object: Map<String, Value>) -> Self {
        Self(object)
    }

    /// Parses the output of [`Metadata::to_json`].
    ///
    /// # Errors
    /// Text that is not a JSON object.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(Self)
    }

    /// As JSON text, to be stored.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// The object.
    pub const fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The object, mutable.
    pub const fn as_object_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    /// Sets the reserved attributes that are absent or falsy to their defaults, as responses show
    /// them: seven attributes of a queue, three of a topic.
    #[must_use]
    pub fn with_defaults(mut self, kind: Kind, limits: &Limits) -> Self {
        for (attribute, default) in reserved_defaults(limits).into_iter().take(reserved(kind).len())
        {
            let is_unset = self.0.get(attribute).is_none_or(is_falsy);
            if is_unset {
                self.0.insert(attribute.to_owned(), default);
            }
        }
        self
    }

    /// Whether [`Metadata::with_defaults`] sets an attribute of this name.
    pub fn is_reserved(kind: Kind, attribute: &str) -> bool {
        reserved(kind).contains(&attribute)
    }

    /// Checks the reserved attributes.
    ///
    /// # Errors
    /// The first one with an invalid value.
    pub fn check(&self, limits: &Limits) -> Result<(), MetadataError> {
        self.check_integer("_default_message_ttl", MIN_TTL, limits.max_message_ttl)?;
        self.check_integer("_max_messages_post_size", 1, limits.max_messages_post_size)?;
        self.check_integer("_max_claim_count", 0, u64::from(u32::MAX))?;
        self.check_integer("_dead_letter_queue_messages_ttl", MIN_TTL, limits.max_message_ttl)?;
        self.check_integer("_default_message_delay", 0, limits.max_message_delay)?;
        self.check_dead_letter_queue()?;
        match self.0.get("_enable_encrypt_messages") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(_) => {
                return Err(MetadataError::Type {
                    attribute: "_enable_encrypt_messages",
                    expected: "a boolean",
                });
            }
        }
        check_retry_policy(self.0.get("_retry_policy"))
    }

    /// Parses the reserved attributes. Values that [`Metadata::check`] rejects are treated as not
    /// set.
    pub fn rules(&self) -> Rules {
        let positive = |attribute: &str| self.0.get(attribute)?.as_u64().filter(|n| *n > 0);
        Rules {
            max_messages_post_size: positive("_max_messages_post_size"),
            default_message_ttl: positive("_default_message_ttl"),
            default_message_delay: positive("_default_message_delay"),
            dead_letters: self.dead_letters(),
            encrypt: self.0.get("_enable_encrypt_messages") == Some(&Value::Bool(true)),
        }
    }

    fn dead_letters(&self) -> Option<DeadLetterRule> {
        let count = self.0.get("_max_claim_count")?.as_u64().filter(|n| *n > 0)?;
        let queue = self.0.get("_dead_letter_queue")?.as_str()?;
        Some(DeadLetterRule {
            max_claim_count: u32::try_from(count).unwrap_or(u32::MAX),
            queue: QueueName::new(queue).ok()?,
            ttl: self.0.get("_dead_letter_queue_messages_ttl").and_then(Value::as_u64),
        })
    }

    fn check_integer(
        &self,
        attribute: &'static str,
        min: u64,
        max: u64,
    ) -> Result<(), MetadataError> {
        match self.0.get(attribute) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Number(number)) if !number.is_f64() => match number.as_u64() {
                Some(n) if (min..=max).contains(&n) => Ok(()),
                _ => Err(MetadataError::Range { attribute, min, max }),
            },
            Some(_) => Err(MetadataError::Type { attribute, expected: "an integer" }),
        }
    }

    fn check_dead_letter_queue(&self) -> Result<(), MetadataError> {
        match self.0.get("_dead_letter_queue") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(name)) => match QueueName::new(name) {
                Ok(_) => Ok(()),
                Err(e) => Err(MetadataError::DeadLetterQueue { reason: e.to_string() }),
            },
            Some(_) => {
                Err(MetadataError::Type { attribute: "_dead_letter_queue", expected: "a string" })
            }
        }
    }
}

/// Checks a `_retry_policy`, of a queue or among a subscription's options.
///
/// # Errors
/// The first member with an invalid value.
pub fn check_retry_policy(policy: Option<&Value>) -> Result<(), MetadataError> {
    let policy = match policy {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(policy)) => policy,
        Some(_) => {
            return Err(MetadataError::Type { attribute: "retry_policy", expected: "a dict" });
        }
    };
    match policy.get("retry_backoff_function") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if BACKOFF_FUNCTIONS.contains(&name.as_str()) => {}
        Some(Value::String(_)) => return Err(MetadataError::BackoffFunction),
        Some(_) => {
            let attribute = "retry_backoff_function";
            return Err(MetadataError::Type { attribute, expected: "a string" });
        }
    }
    match policy.get("ignore_subscription_override") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(_) => {
            let attribute = "ignore_subscription_override";
            return Err(MetadataError::Type { attribute, expected: "a boolean" });
        }
    }
    for attribute in ["retries_with_no_delay", "minimum_delay_retries", "maximum_delay_retries"] {
        retry_integer(policy, attribute, 0)?;
    }
    let least = retry_integer(policy, "minimum_delay", DEFAULT_MINIMUM_DELAY)?;
    let most = retry_integer(policy, "maximum_delay", DEFAULT_MAXIMUM_DELAY)?;
    if most.saturating_sub(least) < 2 * LINEAR_INTERVAL {
        return Err(MetadataError::RetryDelays);
    }
    Ok(())
}

fn retry_integer(
    policy: &Map<String, Value>,
    attribute: &'static str,
    default: i64,
) -> Result<i64, MetadataError> {
    const MAX: i64 = u32::MAX as i64;
    match policy.get(attribute) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Number(number)) if !number.is_f64() => match number.as_i64() {
            Some(n) if (0..=MAX).contains(&n) => Ok(n),
            _ => Err(MetadataError::Range { attribute, min: 0, max: MAX as u64 }),
        },
        Some(_) => Err(MetadataError::Type { attribute, expected: "an integer" }),
    }
}

const RESERVED: [&str; 7] = [
    "_max_messages_post_size",
    "_default_message_ttl",
    "_default_message_delay",
    "_dead_letter_queue",
    "_dead_letter_queue_messages_ttl",
    "_max_claim_count",
    "_enable_encrypt_messages",
];

/// Topics have no claims and no dead letters.
fn reserved(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Queue => &RESERVED,
        Kind::Topic => &RESERVED[..3],
        Kind::Internal => &[],
    }
}

fn reserved_defaults(limits: &Limits) -> [(&'static str, Value); 7] {
    let values = [
        limits.max_messages_post_size.into(),
        limits.default_message_ttl.into(),
        limits.default_message_delay.into(),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Bool(false),
    ];
    let mut values = values.into_iter();
    RESERVED.map(|attribute| (attribute, values.next().unwrap_or_default()))
}

/// Whether Python treats the value as false: the original shows the default instead.
fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(value: Value) -> Metadata {
        Metadata::from_json(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn reserved_attributes_have_bounds() {
        let limits = Limits::default();
        for good in [
            json!({}),
            json!({"_default_message_ttl": 60, "x": [1]}),
            json!({"_default_message_ttl": 1_209_600, "_default_message_delay": 900}),
            json!({"_max_messages_post_size": 262_144, "_max_claim_count": 0}),
            json!({"_dead_letter_queue": null, "_enable_encrypt_messages": null}),
            json!({"_dead_letter_queue": "a.b", "_dead_letter_queue_messages_ttl": 60}),
            json!({"_retry_policy": {"minimum_delay": 5, "maximum_delay": 15}}),
        ] {
            assert_eq!(metadata(good.clone()).check(&limits), Ok(()), "{good}");
        }
        for (bad, says) in [
            (
                json!({"_default_message_ttl": 59}),
                "at least 60 and may not be greater than 1209600",
            ),
            (json!({"_default_message_ttl": 1_209_601}), "greater than 1209600"),
            (json!({"_default_message_ttl": "60"}), "_default_message_ttl must be an integer."),
            (json!({"_default_message_ttl": 60.0}), "must be an integer"),
            (json!({"_default_message_ttl": true}), "must be an integer"),
            (json!({"_max_messages_post_size": 0}), "at least 1"),
            (json!({"_max_messages_post_size": 262_145}), "greater than 262144"),
            (json!({"_max_claim_count": -1}), "at least 0"),
            (json!({"_dead_letter_queue_messages_ttl": 1}), "at least 60"),
            (json!({"_default_message_delay": 901}), "greater than 900"),
            (json!({"_dead_letter_queue": "a b"}), "must be the name of a queue"),
            (json!({"_dead_letter_queue": 3}), "must be a string"),
            (json!({"_enable_encrypt_messages": 1}), "must be a boolean"),
            (json!({"_retry_policy": 1}), "must be a dict"),
            (json!({"_retry_policy": {"retry_backoff_function": "x"}}), "must be one of linear"),
            (
                json!({"_retry_policy": {"minimum_delay": 6, "maximum_delay": 15}}),
                "10 seconds above",
            ),
        ] {
            let error = metadata(bad.clone()).check(&limits).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn defaults_replace_absent_and_falsy_attributes() {
        let shown = metadata(json!({"a": 1, "_default_message_ttl": 0, "_max_claim_count": 3}))
            .with_defaults(Kind::Queue, &Limits::default());
        assert_eq!(
            Value::Object(shown.0),
            json!({"a": 1, "_default_message_ttl": 3600, "_max_claim_count": 3,
                "_max_messages_post_size": 262_144, "_default_message_delay": 0,
                "_dead_letter_queue": null, "_dead_letter_queue_messages_ttl": null,
                "_enable_encrypt_messages": false})
        );
    }

    #[test]
    fn a_topic_shows_only_attributes_of_topics() {
        let shown = Metadata::default().with_defaults(Kind::Topic, &Limits::default());
        assert_eq!(
            Value::Object(shown.0),
            json!({"_max_messages_post_size": 262_144, "_default_message_ttl": 3600,
                "_default_message_delay": 0})
        );
        assert!(!Metadata::is_reserved(Kind::Topic, "_max_claim_count"));
        assert!(Metadata::is_reserved(Kind::Queue, "_max_claim_count"));
    }

    #[test]
    fn dead_letters_need_a_count_and_a_queue() {
        assert_eq!(metadata(json!({"_max_claim_count": 3})).rules().dead_letters, None);
        assert_eq!(metadata(json!({"_dead_letter_queue": "d"})).rules().dead_letters, None);
        let both = metadata(json!({"_dead_letter_queue": "d", "_max_claim_count": 3}));
        assert_eq!(
            both.rules().dead_letters,
            Some(DeadLetterRule {
                max_claim_count: 3,
                queue: QueueName::new("d").unwrap(),
                ttl: None
            })
        );
    }
}
