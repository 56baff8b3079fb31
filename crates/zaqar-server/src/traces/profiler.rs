//! OSprofiler's signed headers and events.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha1::Sha1;
use time::OffsetDateTime;
use zaqar_api::ProfilerHeaders;
use zaqar_core::Secret;

use super::span::{Profile, Span, nanos};

/// The longest `X-Trace-Info`, in bytes: it has two UUIDs.
const MAX_INFO: usize = 1024;

/// The position of a request in a trace of OSprofiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traced {
    pub(super) base: String,
    pub(super) parent: String,
    /// Which of the keys signed it.
    pub(super) key: usize,
}

/// Parses headers that are signed with one of the keys; `None` for all others, whose requests are
/// served untraced.
pub(super) fn verify(headers: &ProfilerHeaders, keys: &[Secret<String>]) -> Option<Traced> {
    if headers.info.len() > MAX_INFO || headers.signature.is_empty() {
        return None;
    }
    let signature = hex(&headers.signature)?;
    let signed = |key| Some(mac(&headers.info, key)?.verify_slice(&signature).is_ok());
    let key = keys.iter().position(|key| signed(key) == Some(true))?;
    let document = URL_SAFE.decode(&headers.info).ok()?;
    let info: Map<String, Value> = serde_json::from_slice(&document).ok()?;
    // The original rejects any other member.
    if info.keys().any(|name| name != "base_id" && name != "parent_id") {
        return None;
    }
    let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
    let base = text("base_id").filter(|base| !base.is_empty())?;
    let parent = text("parent_id").unwrap_or_else(|| base.clone());
    Some(Traced { base, parent, key })
}

/// The headers of a request that goes on from a span.
pub(super) fn sign(base: &str, parent: &str, key: &Secret<String>) -> Option<ProfilerHeaders> {
    let info = URL_SAFE.encode(json!({ "base_id": base, "parent_id": parent }).to_string());
    let signature = mac(&info, key)?.finalize().into_bytes();
    let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(ProfilerHeaders { info, signature })
}

/// A key of any length can be used.
fn mac(info: &str, key: &Secret<String>) -> Option<Hmac<Sha1>> {
    let mac = Hmac::<Sha1>::new_from_slice(key.expose().as_bytes()).ok()?;
    Some(mac.chain_update(info.as_bytes()))
}

/// The two events of a span, as OSprofiler's drivers store them.
pub(super) fn events(span: &Span, profile: &Profile, service: &str) -> [Value; 2] {
    let event = |what: &str, at, info: Value| {
        json!({
            "name": format!("{}-{what}", profile.name),
            "base_id": profile.base,
            "trace_id": span.id.uuid(),
            "parent_id": profile.parent,
            "timestamp": timestamp(at),
            "info": info,
            "project": "Zaqar",
            "service": service,
        })
    };
    let mut stopped = json!({ "host": profile.info["host"] });
    if let Some(error) = span.error {
        stopped["etype"] = error.into();
    }
    [event("start", span.began, profile.info.clone()), event("stop", span.ended, stopped)]
}

/// A time in UTC in Python's format `%Y-%m-%dT%H:%M:%S.%f`.
fn timestamp(at: std::time::SystemTime) -> String {
    let nanos = i128::try_from(nanos(at)).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second, micros) = (at.hour(), at.minute(), at.second(), at.microsecond());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}")
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From osprofiler 4.4.0, `utils.signed_pack`.
    const INFO: &str = "eyJiYXNlX2lkIjogIjdjMmIzYzFlLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMSIsICJwYXJlbnRfaWQiOiAiN2MyYjNjMWUtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAyIn0=";
    const SIGNATURE: &str = "8127a5453f9344890dd623e7ce7a6a9dc8bc89d8";

    fn verified(info: &str, signature: &str, keys: &[&str]) -> Option<Traced> {
        let headers = ProfilerHeaders { info: info.to_owned(), signature: signature.to_owned() };
        let keys: Vec<_> = keys.iter().map(|key| Secret::new((*key).to_owned())).collect();
        verify(&headers, &keys)
    }

    fn signed(document: &str) -> Option<Traced> {
        let info = URL_SAFE.encode(document);
        let mac = mac(&info, &Secret::new("k".to_owned())).unwrap().finalize().into_bytes();
        let signature: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        verified(&info, &signature, &["k"])
    }

    #[test]
    fn headers_of_the_original_are_verified() {
        let traced = Traced {
            base: "7c2b3c1e-0000-4000-8000-000000000001".to_owned(),
            parent: "7c2b3c1e-0000-4000-8000-000000000002".to_owned(),
            key: 1,
        };
        assert_eq!(verified(INFO, SIGNATURE, &["other", "SECRET_KEY"]), Some(traced));
        assert_eq!(verified(INFO, SIGNATURE, &["other"]), None);
        assert_eq!(verified(INFO, SIGNATURE, &[]), None);
        assert_eq!(verified(INFO, "", &["SECRET_KEY"]), None);
        assert_eq!(
            verified(INFO, "é8127a5453f9344890dd623e7ce7a6a9dc8bc89d8", &["SECRET_KEY"]),
            None
        );
        assert_eq!(verified(&INFO[4..], SIGNATURE, &["SECRET_KEY"]), None);
    }

    #[test]
    fn signed_headers_must_be_valid_for_the_original() {
        let base = Traced { base: "b".to_owned(), parent: "b".to_owned(), key: 0 };
        assert_eq!(signed(r#"{"base_id":"b"}"#), Some(base));
        for document in
            [r#"{"parent_id":"p"}"#, r#"{"base_id":"b","more":1}"#, r#"{"base_id":1}"#, "[]", "x"]
        {
            assert_eq!(signed(document), None, "{document}");
        }
    }

    #[test]
    fn outgoing_headers_are_signed_like_incoming_ones() {
        let headers = sign("b", "p", &Secret::new("k".to_owned())).unwrap();
        let traced = Traced { base: "b".to_owned(), parent: "p".to_owned(), key: 0 };
        assert_eq!(verified(&headers.info, &headers.signature, &["k"]), Some(traced));
        assert_eq!(verified(&headers.info, &headers.signature, &["other"]), None);
    }

    #[test]
    fn a_time_is_written_as_python_writes_it() {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_micros(1_460_994_162_000_007);
        assert_eq!(timestamp(at), "2016-04-18T15:42:42.000007");
    }
}
