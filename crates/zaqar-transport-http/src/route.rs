//! Which resource a path names, and which methods the resource takes.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;
use zaqar_core::Kind;

/// A resource of the API, with the parts of its path as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Versions,
    Home,
    Ping,
    Queues(Kind),
    Queue(Kind, String),
    Stats(Kind, String),
    Purge(Kind, String),
    Messages(Kind, String),
    Message(Kind, String, String),
    Claims(String),
    Claim(String, String),
    Share(String),
    Subscriptions(Kind, String),
    Subscription(Kind, String, String),
    Confirm(Kind, String, String),
    Health,
}

/// The path as the router and the signed paths see it: percent-decoded once.
pub(crate) fn decode(path: &str) -> Cow<'_, str> {
    if path.contains('%') { percent_decode_str(path).decode_utf8_lossy() } else { path.into() }
}

impl Route {
    /// Finds the resource of a decoded path.
    pub(crate) fn find(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(Self::Versions);
        }
        let rest = path.strip_prefix("v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Home);
        }
        let mut parts = [""; 5];
        let mut count = 0;
        for part in rest.strip_prefix('/')?.split('/') {
            *parts.get_mut(count)? = part;
            count += 1;
        }
        let kind = match parts[0] {
            "queues" => Kind::Queue,
            "topics" => Kind::Topic,
            "ping" if count == 1 => return Some(Self::Ping),
            "health" if count == 1 => return Some(Self::Health),
            _ => return None,
        };
        let name = || parts[1].to_owned();
        Some(match (kind, &parts[2..], count) {
            (_, _, 1) => Self::Queues(kind),
            (_, _, 2) => Self::Queue(kind, name()),
            (_, ["stats", ..], 3) => Self::Stats(kind, name()),
            (_, ["purge", ..], 3) => Self::Purge(kind, name()),
            (_, ["messages", ..], 3) => Self::Messages(kind, name()),
            (_, ["messages", id, _], 4) => Self::Message(kind, name(), (*id).to_owned()),
            (Kind::Queue, ["claims", ..], 3) => Self::Claims(name()),
            (Kind::Queue, ["claims", id, _], 4) => Self::Claim(name(), (*id).to_owned()),
            (Kind::Queue, ["share", ..], 3) => Self::Share(name()),
            (_, ["subscriptions", ..], 3) => Self::Subscriptions(kind, name()),
            (_, ["subscriptions", id, _], 4) => Self::Subscription(kind, name(), (*id).to_owned()),
            (_, ["subscriptions", id, "confirm"], 5) => {
                Self::Confirm(kind, name(), (*id).to_owned())
            }
            _ => return None,
        })
    }

    /// The methods of the resource, but HEAD and OPTIONS, in the order of the `Allow` header.
    pub(crate) const fn methods(&self) -> &'static [Method] {
        const GET: &[Method] = &[Method::GET];
        match self {
            Self::Versions
            | Self::Home
            | Self::Ping
            | Self::Health
            | Self::Queues(_)
            | Self::Stats(..) => GET,
            Self::Queue(..) => &[Method::DELETE, Method::GET, Method::PATCH, Method::PUT],
            Self::Purge(..) | Self::Claims(_) | Self::Share(_) => &[Method::POST],
            Self::Subscriptions(..) => &[Method::GET, Method::POST],
            Self::Confirm(..) => &[Method::PUT],
            Self::Messages(..) => &[Method::DELETE, Method::GET, Method::POST],
            Self::Message(..) => &[Method::DELETE, Method::GET],
            Self::Claim(..) | Self::Subscription(..) => {
                &[Method::DELETE, Method::GET, Method::PATCH]
            }
        }
    }

    /// What the path is about, for the words of an error.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Queues(kind) => *kind,
            other => other.queue().map_or(Kind::Queue, |(kind, _)| kind),
        }
    }

    /// The queue or topic that the path names.
    pub(crate) fn queue(&self) -> Option<(Kind, &str)> {
        match self {
            Self::Versions | Self::Home | Self::Ping | Self::Health | Self::Queues(_) => None,
            Self::Queue(kind, name)
            | Self::Stats(kind, name)
            | Self::Purge(kind, name)
            | Self::Messages(kind, name)
            | Self::Message(kind, name, _)
            | Self::Subscriptions(kind, name)
            | Self::Subscription(kind, name, _)
            | Self::Confirm(kind, name, _) => Some((*kind, name)),
            Self::Claims(name) | Self::Claim(name, _) | Self::Share(name) => {
                Some((Kind::Queue, name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let queue = || "q".to_owned();
        for (path, route) in [
            ("/", Some(Route::Versions)),
            ("", Some(Route::Versions)),
            ("/v2", Some(Route::Home)),
            ("/v2/", Some(Route::Home)),
            ("/v2/ping", Some(Route::Ping)),
            ("/v2/ping/", None),
            ("/v2/ping/x", None),
            ("/v2x", None),
            ("/v1/queues", None),
            ("/v2/queues", Some(Route::Queues(Kind::Queue))),
            ("/v2/queues/", Some(Route::Queue(Kind::Queue, String::new()))),
            ("/v2//queues", None),
            ("/v2/topics/q", Some(Route::Queue(Kind::Topic, queue()))),
            ("/v2/queues/q/", None),
            ("/v2/queues/q/stats", Some(Route::Stats(Kind::Queue, queue()))),
            ("/v2/queues/q/stats/", None),
            ("/v2/queues/q/messages/7", Some(Route::Message(Kind::Queue, queue(), "7".into()))),
            ("/v2/queues/q/messages/7/x", None),
            ("/v2/queues/q/claims", Some(Route::Claims(queue()))),
            ("/v2/topics/q/claims", None),
            ("/v2/topics/q/share", None),
            ("/v2/health", Some(Route::Health)),
            ("/v2/health/", None),
            (
                "/v2/topics/q/subscriptions/7/confirm",
                Some(Route::Confirm(Kind::Topic, queue(), "7".into())),
            ),
            ("/v2/queues/q/subscriptions/7/confirmed", None),
            ("/v2/queues/q/subscriptions/7/confirm/x", None),
        ] {
            assert_eq!(Route::find(path), route, "{path}");
        }
    }

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(decode("/v2/queues/%61%252F"), "/v2/queues/a%2F");
        assert_eq!(decode("/v2/queues/%ff"), "/v2/queues/\u{fffd}");
    }
}
