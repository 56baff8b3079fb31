//! Errors as text, with what to do about them.

use std::error::Error as _;

use zaqar_client::{Error, Refusal};

use crate::Failure;

/// The error, its causes, and what to do.
pub(crate) fn text(failure: &Failure) -> String {
    match failure {
        Failure::Usage(reason) => reason.clone(),
        Failure::Io(error) => error.to_string(),
        Failure::Partly(failure, progress) => format!("{}\n  {progress}", text(failure)),
        Failure::Client(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(one) = cause {
                text += &format!(": {one}");
                cause = one.source();
            }
            if let Error::Refused(refusal) = error
                && let Some(id) = &refusal.request_id
            {
                // Only failures of its own are in the server's log, not what callers did wrong.
                let place = if refusal.status >= 500 { " (see the server's log)" } else { "" };
                text += &format!("\n  request: {id}{place}");
            }
            if let Some(advice) = advice(error) {
                text += &format!("\n  hint: {advice}");
            }
            text
        }
    }
}

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Connect { .. } => Some(
            "is the server running there, with TLS if the URL is https? --url, OS_ENDPOINT or a cloud \
             (--cloud) says where it is",
        ),
        Error::Config { what, .. } if what == "url" => {
            Some("say --url http://HOST:8888, or set OS_ENDPOINT, OS_AUTH_URL or OS_CLOUD")
        }
        Error::Config { what, .. } if what.contains("catalog") => {
            Some("say --url, or check OS_REGION_NAME and OS_INTERFACE")
        }
        Error::Keystone { .. } => Some("check the OS_ variables, or the cloud in clouds.yaml"),
        Error::Timeout { .. } => Some("the server is slow or away; --timeout gives it longer"),
        Error::Interrupted { .. } => Some("look whether it was done before you repeat it"),
        Error::Refused(refusal) => refused(refusal),
        Error::Config { .. }
        | Error::TooLong { .. }
        | Error::Malformed { .. }
        | Error::ClaimLost { .. }
        | Error::Closed { .. } => None,
        _ => None,
    }
}

fn refused(refusal: &Refusal) -> Option<&'static str> {
    let Refusal { method, path, status, title, .. } = refusal;
    let is_for_administrators = ["/v2/health", "/v2/pools", "/v2/flavors", "/v2/quotas"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    match *status {
        400 if title.contains("Project-Id") => {
            Some("say --project, or use credentials for a project")
        }
        401 => Some("the server wants a token: set OS_AUTH_URL and credentials, or OS_CLOUD"),
        // Other refusals with this status say themselves what to do: a quota, a pool in use.
        403 if title == "Unable to delete" && method == "DELETE" && path.contains("/messages") => {
            Some("a claim holds the message: say --claim with the claim's id")
        }
        403 if title != "Not authorized" => None,
        403 if is_for_administrators => {
            Some("only administrators may: --roles admin where the server does not authenticate")
        }
        403 => Some("the server's policy does not allow it to this user"),
        404 if is_for_administrators => Some(
            "is it there? The server has these paths with [DEFAULT] admin_mode (pools: and \
             pooling; quotas: and [quotas] managed) only",
        ),
        409 if path.contains("/subscriptions") => {
            Some("the subscriber is subscribed already: `zaqar subscription list` shows it")
        }
        426 => Some("this port is of the WebSocket transport: --url is that of the HTTP transport"),
        503 => Some("the server or its store has too much to do or is away: try again later"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_hint() {
        for (method, status, path, title, hint) in [
            ("GET", 400, "/v2/queues", "Project-Id Missing", "--project"),
            ("GET", 401, "/v2/queues", "Unauthorized", "OS_AUTH_URL"),
            ("DELETE", 403, "/v2/queues/q/messages/m", "Unable to delete", "--claim"),
            ("DELETE", 403, "/v2/queues/q/messages/m", "Not authorized", "policy"),
            ("POST", 403, "/v2/queues/q/messages", "Not authorized", "policy"),
            ("GET", 403, "/v2/pools", "Not authorized", "--roles admin"),
            ("DELETE", 403, "/v2/pools/p", "Unable to delete", ""),
            ("POST", 403, "/v2/queues/q/messages", "Quota exceeded", ""),
            ("GET", 500, "/v2/queues", "", ""),
            ("GET", 404, "/v2/health", "404 Not Found", "admin_mode"),
            ("GET", 426, "/v2/queues", "", "WebSocket"),
            ("GET", 503, "/v2/queues", "", "again"),
        ] {
            let refusal = Refusal {
                method: method.to_owned(),
                path: path.to_owned(),
                status,
                title: title.to_owned(),
                description: String::new(),
                retry_after: None,
                request_id: None,
            };
            let found = refused(&refusal).unwrap_or_default();
            let is_hint = found.contains(hint) && hint.is_empty() == found.is_empty();
            assert!(is_hint, "{method} {status} {path} {title}: {found}");
            let id = Some("req-1".to_owned());
            let error = Error::Refused(Box::new(Refusal { request_id: id, ..refusal }));
            let text = text(&Failure::Client(error));
            let is_in_log = text.contains("request: req-1 (see the server's log)");
            assert_eq!(is_in_log, status >= 500, "{text}");
        }
        let source = "connection refused".into();
        let error = Error::Connect { url: "http://h".to_owned(), source };
        let text = text(&Failure::Client(error));
        assert!(text.starts_with("cannot connect to http://h: connection refused\n  hint: "));
    }
}
