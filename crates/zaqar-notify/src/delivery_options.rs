//! Options of a subscription for its delivery: `ordered`, `max_in_flight`, `timeout`, `max_rate`,
//! `batch`, `signing`; and the check of `failure_queue`.

use std::time::Duration;

use serde_json::{Map, Value};
use zaqar_core::QueueName;

use crate::signature::Scheme;

/// Messages of a batch, at most.
const MAX_BATCH: u64 = 100;

/// How a subscription is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// One delivery at a time, in the order of the messages: one that fails blocks the later ones
    /// until it has ended.
    pub ordered: bool,
    /// Deliveries in flight on each server, at most; `None` means the destination's limit.
    pub max_in_flight: Option<usize>,
    /// The timeout of one attempt; never longer than the server's.
    pub timeout: Option<Duration>,
    /// The time between two deliveries on each server, from `max_rate`; `None` means no limit.
    pub pause: Option<Duration>,
    /// Messages of one request, at most, which are sent as an array; `None` sends them one by one.
    pub batch: Option<usize>,
    /// How webhooks are signed by the Standard Webhooks specification; `None` where they are not.
    pub signing: Option<Scheme>,
}

/// An option with an invalid value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the option {option} must be {expected}")]
pub struct DeliveryOptionsError {
    /// Its name.
    pub option: &'static str,
    /// What is valid, with an article.
    pub expected: &'static str,
}

impl DeliveryOptions {
    /// Parses the options; absent and null ones have their defaults, unknown ones are ignored.
    ///
    /// # Errors
    /// [`DeliveryOptionsError`] for the first invalid one.
    pub fn parse(options: &Map<String, Value>) -> Result<Self, DeliveryOptionsError> {
        let given = |option: &str| options.get(option).filter(|value| !value.is_null());
        let wrong = |option, expected| DeliveryOptionsError { option, expected };
        let ordered = match given("ordered") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| wrong("ordered", "a boolean"))?,
        };
        let max_in_flight = match given("max_in_flight") {
            None => None,
            Some(value) => {
                let count = value.as_u64().filter(|count| (1..=1000).contains(count));
                let count = count.and_then(|count| usize::try_from(count).ok());
                Some(count.ok_or_else(|| wrong("max_in_flight", "an integer from 1 to 1000"))?)
            }
        };
        let timeout = match given("timeout") {
            None => None,
            Some(value) => {
                let secs = value.as_f64().filter(|secs| (0.1..=60.0).contains(secs));
                let secs = secs.ok_or_else(|| wrong("timeout", "seconds from 0.1 to 60"))?;
                Some(Duration::from_secs_f64(secs))
            }
        };
        let pause = match given("max_rate") {
            None => None,
            Some(value) => {
                let rate = value.as_f64().filter(|rate| (0.001..=1000.0).contains(rate));
                let rate = rate.ok_or_else(|| wrong("max_rate", "a number from 0.001 to 1000"))?;
                Some(Duration::from_secs_f64(1.0 / rate))
            }
        };
        let signing = match given("signing") {
            None => None,
            Some(Value::String(scheme)) if scheme == "hmac" => Some(Scheme::Hmac),
            Some(Value::String(scheme)) if scheme == "ed25519" => Some(Scheme::Ed25519),
            Some(value) => {
                let is_signed = value.as_bool();
                let is_signed =
                    is_signed.ok_or_else(|| wrong("signing", "a boolean, hmac or ed25519"))?;
                is_signed.then_some(Scheme::Hmac)
            }
        };
        let batch = match given("batch") {
            None => None,
            Some(value) => {
                let count = value.as_u64().filter(|count| (1..=MAX_BATCH).contains(count));
                let count = count.and_then(|count| usize::try_from(count).ok());
                Some(count.ok_or_else(|| wrong("batch", "an integer from 1 to 100"))?)
            }
        };
        if let Some(value) = given("failure_queue") {
            let is_name = value.as_str().is_some_and(|name| QueueName::new(name).is_ok());
            if !is_name {
                return Err(wrong("failure_queue", "the name of a queue"));
            }
        }
        Ok(Self { ordered, max_in_flight, timeout, pause, batch, signing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(options: Value) -> Result<DeliveryOptions, DeliveryOptionsError> {
        DeliveryOptions::parse(options.as_object().unwrap())
    }

    #[test]
    fn each_option_is_read_and_checked() {
        assert_eq!(parse(json!({"ordered": null, "x": 1})), Ok(DeliveryOptions::default()));
        let read = parse(json!({"ordered": true, "max_in_flight": 3, "timeout": 0.5})).unwrap();
        let timeout = Some(Duration::from_millis(500));
        let (ordered, max_in_flight) = (true, Some(3));
        let expected =
            DeliveryOptions { ordered, max_in_flight, timeout, ..DeliveryOptions::default() };
        assert_eq!(read, expected);
        assert_eq!(parse(json!({"batch": 100})).unwrap().batch, Some(100));
        let slow = parse(json!({"max_rate": 0.5})).unwrap();
        assert_eq!(slow.pause, Some(Duration::from_secs(2)));
        for (given, expected) in [
            (json!(true), Some(Scheme::Hmac)),
            (json!("hmac"), Some(Scheme::Hmac)),
            (json!("ed25519"), Some(Scheme::Ed25519)),
            (json!(false), None),
        ] {
            assert_eq!(parse(json!({ "signing": given })).unwrap().signing, expected);
        }
        for (options, option) in [
            (json!({"ordered": 1}), "ordered"),
            (json!({"max_in_flight": 0}), "max_in_flight"),
            (json!({"max_in_flight": 1.5}), "max_in_flight"),
            (json!({"timeout": 0}), "timeout"),
            (json!({"timeout": "5"}), "timeout"),
            (json!({"timeout": 61}), "timeout"),
            (json!({"signing": "rsa"}), "signing"),
            (json!({"signing": 1}), "signing"),
            (json!({"failure_queue": 1}), "failure_queue"),
            (json!({"failure_queue": ""}), "failure_queue"),
            (json!({"failure_queue": "a b"}), "failure_queue"),
            (json!({"batch": 0}), "batch"),
            (json!({"batch": 101}), "batch"),
            (json!({"batch": true}), "batch"),
            (json!({"max_rate": 0}), "max_rate"),
            (json!({"max_rate": 1001}), "max_rate"),
            (json!({"max_rate": "1"}), "max_rate"),
        ] {
            assert_eq!(parse(options).unwrap_err().option, option);
        }
    }
}
