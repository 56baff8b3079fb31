//! Subscribers with `trust+http` and `trust+https`: webhooks that are sent with a Keystone token of
//! the subscription's owner.
//!
//! The subscription's option `trust_id` names the trust that tokens are issued for. A token is sent
//! only over https or to hosts that the operator lists; the log of deliveries never contains it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::time::Instant;
use zaqar_core::{ProjectId, Secret};

use crate::channel::{Channel, Outgoing, Webhooks};
use crate::outcome::{Answer, Attempt, Failure};
use crate::target::{Origin, Target};

/// The timeout for a token: together with the longest attempt, less than the lease of a row.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(8);
/// If a receiver rejects a cached token this soon, a new token is tried at once: the second request
/// still ends within the lease of the row.
const SOON: Duration = Duration::from_secs(1);
/// Replaces a token in an answer that repeats it.
const MASK: &[u8] = b"***";

/// Issues tokens of trusts.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token of a trust that is for `project`, valid long enough for a request.
    ///
    /// # Errors
    /// [`Failure::NoToken`] if a later attempt may get one, else [`Failure::Unusable`].
    async fn token(&self, trust: &str, project: &ProjectId) -> Result<Secret<String>, Failure>;

    /// Drops a token that a receiver rejected. Returns whether it may have been an old one.
    async fn forget(&self, trust: &str, token: &Secret<String>) -> bool;
}

/// Hosts that a token may be sent to without TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlainHosts(Vec<String>);

/// The target must not get a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is not sent to {origin} without TLS: use trust+https, or have the operator list the \
     host in [notification] trust_http_hosts"
)]
pub struct NotSecure {
    origin: Origin,
}

impl PlainHosts {
    /// These hosts, in any case; an IPv6 address with or without brackets.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        let bare = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
            host.to_ascii_lowercase()
        };
        Self(hosts.into_iter().map(|host| bare(&host)).collect())
    }

    /// Whether a token may be sent to a target.
    ///
    /// # Errors
    /// [`NotSecure`].
    pub fn check(&self, target: &Target) -> Result<(), NotSecure> {
        let origin = target.origin();
        let host = origin.host().trim_start_matches('[').trim_end_matches(']');
        if origin.is_secure() || self.0.iter().any(|plain| plain == host) {
            return Ok(());
        }
        Err(NotSecure { origin: origin.clone() })
    }
}

/// The webhook's URI of a subscriber with `trust+`; `None` for any other.
pub fn webhook_of(subscriber: &str) -> Option<&str> {
    let (scheme, rest) = subscriber.split_at_checked("trust+".len())?;
    scheme.eq_ignore_ascii_case("trust+").then_some(rest)
}

/// Sends webhooks with a token.
pub struct Trusts {
    webhooks: Webhooks,
    tokens: Arc<dyn TokenSource>,
    plain: PlainHosts,
}

impl std::fmt::Debug for Trusts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trusts").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Trusts {
    /// Sends webhooks with tokens of a source.
    pub fn new(webhooks: Webhooks, tokens: Arc<dyn TokenSource>, plain: PlainHosts) -> Self {
        Self { webhooks, tokens, plain }
    }

    fn target(&self, subscriber: &str) -> Result<Target, String> {
        let webhook = webhook_of(subscriber).ok_or("the subscriber's scheme is not trust+…")?;
        let target = Target::parse(webhook).map_err(|error| error.to_string())?;
        self.plain.check(&target).map_err(|error| error.to_string())?;
        Ok(target)
    }

    async fn token(&self, trust: &str, project: &ProjectId) -> Result<Secret<String>, Failure> {
        let asked = self.tokens.token(trust, project);
        tokio::time::timeout(TOKEN_TIMEOUT, asked).await.unwrap_or_else(|_| {
            let millis = TOKEN_TIMEOUT.as_millis();
            Err(Failure::NoToken(format!("Keystone did not answer within {millis} ms")))
        })
    }
}

#[async_trait]
impl Channel for Trusts {
    fn origin(&self, subscriber: &str) -> Result<Origin, String> {
        Ok(self.target(subscriber)?.origin().clone())
    }

    fn takes_batches(&self) -> bool {
        self.webhooks.takes_batches()
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        let unusable = |text: String| Attempt::Failed(Failure::Unusable(text));
        let target = match self.target(outgoing.subscriber) {
            Ok(target) => target,
            Err(text) => return unusable(text),
        };
        let Some(trust) = trust_id(outgoing.options) else {
            return unusable("the subscription has no option trust_id".to_owned());
        };
        // One more attempt with a new token if the token was cached: it may have been revoked.
        let (began, mut is_last) = (Instant::now(), false);
        loop {
            let token = match self.token(trust, &outgoing.queue.project).await {
                Ok(token) => token,
                Err(failure) => return Attempt::Failed(failure),
            };
            let attempt = self.webhooks.send_to(&target, outgoing, Some(&token)).await;
            let is_rejected = matches!(&attempt, Attempt::Answered(answer) if answer.status == 401);
            if is_rejected && !is_last && self.tokens.forget(trust, &token).await {
                if began.elapsed() > SOON {
                    let text = "the receiver rejected a token that may have been revoked";
                    return Attempt::Failed(Failure::NoToken(text.to_owned()));
                }
                is_last = true;
                continue;
            }
            return without(attempt, &token);
        }
    }
}

fn trust_id(options: &Map<String, Value>) -> Option<&str> {
    options.get("trust_id").and_then(Value::as_str).filter(|id| !id.is_empty())
}

/// The attempt, with the token masked in an answer that repeats it, whole or cut off at the end.
fn without(attempt: Attempt, token: &Secret<String>) -> Attempt {
    let Attempt::Answered(answer) = attempt else { return attempt };
    let body = starred(&answer.body, token.expose().as_bytes());
    Attempt::Answered(Answer { body, ..answer })
}

fn starred(body: &Bytes, token: &[u8]) -> Bytes {
    /// A shorter prefix at the end is not masked: it reveals nothing.
    const LEAST: usize = 8;
    let Some(first) = token.first() else { return body.clone() };
    let mut out = Vec::with_capacity(body.len());
    let mut rest = &body[..];
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        let is_cut = from.len() >= LEAST && from.len() < token.len() && token.starts_with(from);
        if from.starts_with(token) || is_cut {
            out.extend_from_slice(MASK);
            rest = &from[token.len().min(from.len())..];
        } else {
            out.push(from[0]);
            rest = &from[1..];
        }
    }
    out.extend_from_slice(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_or_to_a_listed_host() {
        let plain = PlainHosts::new(["Mistral.example.".to_owned(), "[::1]".to_owned()]);
        let check = |plain: &PlainHosts, target: &str| {
            plain.check(&Target::parse(target).unwrap()).map_err(|error| error.to_string())
        };
        for target in ["https://any.example/", "http://MISTRAL.example:8989/v2", "http://[::1]/"] {
            assert_eq!(check(&plain, target), Ok(()), "{target}");
        }
        for target in ["http://any.example/", "http://xmistral.example/", "http://127.0.0.1/"] {
            let error = check(&plain, target).unwrap_err();
            assert!(error.contains("trust_http_hosts"), "{error}");
        }
        assert!(check(&PlainHosts::default(), "http://mistral.example/").is_err());
    }

    #[test]
    fn the_webhook_of_a_trust_is_what_follows() {
        for (subscriber, webhook) in [
            ("trust+http://h/x", Some("http://h/x")),
            ("Trust+HTTPS://h", Some("HTTPS://h")),
            ("http://h", None),
            ("trust", None),
            ("tr\u{fc}st+", None),
            ("", None),
        ] {
            assert_eq!(webhook_of(subscriber), webhook, "{subscriber}");
        }
    }

    #[test]
    fn no_answer_shows_the_token() {
        let token = b"gAAAAABsecret";
        for (body, expected) in [
            ("", ""),
            ("{\"ok\": true}", "{\"ok\": true}"),
            ("got gAAAAABsecret, gAAAAABsecret", "got ***, ***"),
            ("ggAAAAABsecret", "g***"),
            ("cut off: gAAAAABse", "cut off: ***"),
            ("no token: gAAAA", "no token: gAAAA"),
            ("gAAAAABother", "gAAAAABother"),
        ] {
            let found = starred(&Bytes::from_static(body.as_bytes()), token);
            assert_eq!(found, expected.as_bytes(), "{body}");
        }
        assert_eq!(starred(&Bytes::from_static(b"x"), b""), "x");
    }
}
