//! What every request must say of itself, in the order in which the original looks at it.

use http::header::{self, HeaderMap};
use zaqar_api::{Caller, QueueRef, SignedHeaders};
use zaqar_core::limits::ClientIds;
use zaqar_core::{ClientId, Kind, Limits, NameError, ProjectId, QueueName};

use crate::error::HttpError;

/// The type of a metadata patch, the one media type that is asked for.
pub(crate) const PATCH_TYPE: &str = "application/openstack-messaging-v2.0-json-patch";

/// Refuses the type that HTML forms (and `curl -d` without a header) send with a body.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == "application/x-www-form-urlencoded");
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if is_form && has_body { Err(HttpError::FormContent) } else { Ok(()) }
}

/// Whether a body is said to be a metadata patch.
pub(crate) fn is_patch(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PATCH_TYPE))
}

/// Checks that the caller takes JSON. `also` is another type that the resource serves.
pub(crate) fn check_accept(headers: &HeaderMap, also: &str) -> Result<(), HttpError> {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    if ranges.peek().is_none() || ranges.any(|range| takes_json(range, also)) {
        return Ok(());
    }
    Err(HttpError::NotAcceptable)
}

fn takes_json(range: &str, also: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let refused = parts
        .filter_map(|parameter| parameter.strip_prefix("q="))
        .any(|q| q.parse().is_ok_and(|q: f32| q <= 0.0));
    let matches = ["application/json", "application/*", "*/*", "*", also]
        .iter()
        .any(|accepted| accepted.eq_ignore_ascii_case(kind));
    matches && !refused
}

/// Who asks, from `Client-ID`, `X-Project-ID` and `X-Roles`.
pub(crate) fn caller(
    headers: &HeaderMap,
    kind: Kind,
    limits: &Limits,
) -> Result<Caller, HttpError> {
    let client = client(headers, limits)?;
    let mut caller = Caller::new(project(headers, kind)?, client);
    if let Some(roles) = text(headers, "x-roles") {
        caller.roles = roles.split(',').map(|role| role.trim().to_owned()).collect();
    }
    Ok(caller)
}

/// The signature that a request comes with instead of a token. An empty one is a signature too, one that never holds.
pub(crate) fn signed(headers: &HeaderMap) -> Option<SignedHeaders<'_>> {
    let signature = headers.get("url-signature")?;
    Some(SignedHeaders {
        project: text(headers, "x-project-id").unwrap_or_default(),
        paths: text(headers, "url-paths").unwrap_or_default(),
        methods: text(headers, "url-methods").unwrap_or_default(),
        expires: text(headers, "url-expires").unwrap_or_default(),
        signature: signature.to_str().unwrap_or_default(),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

fn client(headers: &HeaderMap, limits: &Limits) -> Result<ClientId, HttpError> {
    let Some(value) = headers.get("client-id") else {
        return Err(HttpError::MissingHeader { name: "Client-Id" });
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match limits.client_ids {
        ClientIds::Strict => ClientId::uuid(text.trim()).ok_or_else(|| HttpError::Header {
            title: "Wrong UUID value".to_owned(),
            description: "Malformed hexadecimal UUID.",
        }),
        ClientIds::Off { min, max } => {
            let chars = text.chars().count();
            if (min..=max).contains(&chars) {
                return Ok(ClientId::new(&text));
            }
            Err(HttpError::Header {
                title: format!(
                    "Length of client id must be at least {min} and no greater than {max}."
                ),
                description: "The Client-ID header is too short or too long.",
            })
        }
    }
}

fn project(headers: &HeaderMap, kind: Kind) -> Result<ProjectId, HttpError> {
    let Some(value) = headers.get("x-project-id") else {
        return Err(HttpError::Header {
            title: "Project-Id Missing".to_owned(),
            description: "The header X-PROJECT-ID was missing",
        });
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    ProjectId::new(text.trim()).map_err(|error| match error {
        NameError::ProjectEmpty => HttpError::Header {
            title: "Empty project header not allowed".to_owned(),
            description: "X-PROJECT-ID cannot be an empty string. Specify the right header \
                          X-PROJECT-ID and retry.",
        },
        NameError::ProjectTooLong { .. }
        | NameError::QueueTooLong { .. }
        | NameError::QueueCharacters => HttpError::Header {
            title: format!("Invalid {} identification", kind.as_str()),
            description: "Project ids may not be more than 256 characters long.",
        },
    })
}

/// The queue or topic of a path.
pub(crate) fn queue(kind: Kind, name: &str) -> Result<QueueRef, HttpError> {
    match QueueName::new(name) {
        Ok(name) => Ok(QueueRef { kind, name }),
        Err(error) => {
            let kind = kind.as_str();
            let rule = match error {
                NameError::QueueTooLong { chars, max } => {
                    format!("a {kind} name has at most {max} characters, this one has {chars}")
                }
                NameError::QueueCharacters
                | NameError::ProjectEmpty
                | NameError::ProjectTooLong { .. } => format!(
                    "a {kind} name has 1 to {} ASCII letters, digits, underscores, dots and dashes",
                    QueueName::MAX_CHARS
                ),
            };
            Err(HttpError::Identification { kind, rule })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn json_must_be_acceptable() {
        for (accept, taken) in [
            ("application/json", true),
            ("*/*", true),
            ("*", true),
            ("application/*", true),
            ("", true),
            ("text/plain, application/json;q=0.1", true),
            ("application/json; charset=utf-8", true),
            ("application/json;q=0", false),
            ("text/html", false),
            ("garbage", false),
            ("application/json-home", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(check_accept(&headers, "").is_ok(), taken, "{accept}");
        }
        assert!(check_accept(&HeaderMap::new(), "").is_ok());
    }

    #[test]
    fn client_ids_follow_the_configuration() {
        let mut headers = HeaderMap::new();
        headers.insert("client-id", HeaderValue::from_static("short"));
        headers.insert("x-project-id", HeaderValue::from_static("p"));
        let strict = Limits::default();
        assert!(caller(&headers, Kind::Queue, &strict).is_err());
        let off =
            |min, max| Limits { client_ids: ClientIds::Off { min, max }, ..Limits::default() };
        assert!(caller(&headers, Kind::Queue, &off(5, 5)).is_ok());
        assert!(caller(&headers, Kind::Queue, &off(6, 9)).is_err());
        assert!(caller(&headers, Kind::Queue, &off(1, 4)).is_err());
    }
}
