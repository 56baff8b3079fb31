//! Maps paths to resources, and lists the methods of each resource.

use std::borrow::Cow;

use http::Method;
use memchr::memchr;
use percent_encoding::percent_decode_str;
use zaqar_core::Kind;

/// A resource of the API, with the variable parts of its path unvalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Versions,
    Home,
    Ping,
    Queues(Kind),
    Queue(Kind, &'a str),
    Stats(Kind, &'a str),
    Purge(Kind, &'a str),
    Messages(Kind, &'a str),
    Message(Kind, &'a str, &'a str),
    Claims(&'a str),
    Claim(&'a str, &'a str),
    Share(&'a str),
    Subscriptions(Kind, &'a str),
    Subscription(Kind, &'a str, &'a str),
    Confirm(Kind, &'a str, &'a str),
    Secret(Kind, &'a str, &'a str),
    Deliveries(Kind, &'a str, &'a str),
    Delivery(Kind, &'a str, &'a str, &'a str),
    Retry(Kind, &'a str, &'a str, &'a str),
    SubscriberHealth(Kind, &'a str, &'a str),
    Resume(Kind, &'a str, &'a str),
    Test(Kind, &'a str, &'a str),
    Recover(Kind, &'a str, &'a str),
    Recovery(Kind, &'a str, &'a str, &'a str),
    Health,
    Pools,
    Pool(&'a str),
    Drain(&'a str),
    PoolQueues(&'a str),
    Flavors,
    Flavor(&'a str),
    QuotaList,
    Quotas(&'a str),
}

/// A path, percent-decoded once: the form that is routed and that signatures cover.
pub(crate) fn decode(path: &str) -> Cow<'_, str> {
    if memchr(b'%', path.as_bytes()).is_some() {
        percent_decode_str(path).decode_utf8_lossy()
    } else {
        path.into()
    }
}

impl<'a> Route<'a> {
    /// Finds the resource of a decoded path.
    pub(crate) fn find(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(Self::Versions);
        }
        let rest = path.strip_prefix("v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Home);
        }
        let mut parts = [""; 7];
        let mut count = 0;
        let mut rest = rest.strip_prefix('/')?;
        while let Some(end) = memchr(b'/', rest.as_bytes()) {
            *parts.get_mut(count)? = &rest[..end];
            rest = &rest[end + 1..];
            count += 1;
        }
        *parts.get_mut(count)? = rest;
        count += 1;
        let kind = match parts[0] {
            "queues" => Kind::Queue,
            "topics" => Kind::Topic,
            "ping" if count == 1 => return Some(Self::Ping),
            "health" if count == 1 => return Some(Self::Health),
            "pools" if count == 1 => return Some(Self::Pools),
            "pools" if count == 2 => return Some(Self::Pool(parts[1])),
            "pools" if count == 3 && parts[2] == "drain" => {
                return Some(Self::Drain(parts[1]));
            }
            "pools" if count == 3 && parts[2] == "queues" => {
                return Some(Self::PoolQueues(parts[1]));
            }
            "flavors" if count == 1 => return Some(Self::Flavors),
            "flavors" if count == 2 => return Some(Self::Flavor(parts[1])),
            "quotas" if count == 1 => return Some(Self::QuotaList),
            "quotas" if count == 2 => return Some(Self::Quotas(parts[1])),
            _ => return None,
        };
        let name = parts[1];
        Some(match (kind, &parts[2..], count) {
            (_, _, 1) => Self::Queues(kind),
            (_, _, 2) => Self::Queue(kind, name),
            (_, ["stats", ..], 3) => Self::Stats(kind, name),
            (_, ["purge", ..], 3) => Self::Purge(kind, name),
            (_, ["messages", ..], 3) => Self::Messages(kind, name),
            (_, ["messages", id, ..], 4) => Self::Message(kind, name, id),
            (Kind::Queue, ["claims", ..], 3) => Self::Claims(name),
            (Kind::Queue, ["claims", id, ..], 4) => Self::Claim(name, id),
            (Kind::Queue, ["share", ..], 3) => Self::Share(name),
            (_, ["subscriptions", ..], 3) => Self::Subscriptions(kind, name),
            (_, ["subscriptions", id, ..], 4) => Self::Subscription(kind, name, id),
            (_, ["subscriptions", id, what, ..], 5) => match *what {
                "confirm" => Self::Confirm(kind, name, id),
                "secret" => Self::Secret(kind, name, id),
                "deliveries" => Self::Deliveries(kind, name, id),
                "health" => Self::SubscriberHealth(kind, name, id),
                "resume" => Self::Resume(kind, name, id),
                "test" => Self::Test(kind, name, id),
                "recover" => Self::Recover(kind, name, id),
                _ => return None,
            },
            (_, ["subscriptions", id, "deliveries", delivery, ..], 6) => {
                Self::Delivery(kind, name, id, delivery)
            }
            (_, ["subscriptions", id, "recover", recovery, ..], 6) => {
                Self::Recovery(kind, name, id, recovery)
            }
            (_, ["subscriptions", id, "deliveries", delivery, "retry"], 7) => {
                Self::Retry(kind, name, id, delivery)
            }
            _ => return None,
        })
    }

    /// The methods of the resource without HEAD and OPTIONS, in the order of the `Allow` header.
    pub(crate) const fn methods(&self) -> &'static [Method] {
        const GET: &[Method] = &[Method::GET];
        match self {
            Self::Versions
            | Self::Home
            | Self::Ping
            | Self::Health
            | Self::Pools
            | Self::Flavors
            | Self::QuotaList
            | Self::Queues(_)
            | Self::Stats(..)
            | Self::Deliveries(..)
            | Self::Delivery(..)
            | Self::SubscriberHealth(..) => GET,
            Self::Queue(..) | Self::Pool(_) | Self::Flavor(_) => {
                &[Method::DELETE, Method::GET, Method::PATCH, Method::PUT]
            }
            Self::Drain(_) => &[Method::DELETE, Method::GET, Method::POST],
            Self::Quotas(_) => &[Method::DELETE, Method::GET, Method::PUT],
            Self::Purge(..)
            | Self::PoolQueues(_)
            | Self::Claims(_)
            | Self::Share(_)
            | Self::Secret(..)
            | Self::Retry(..)
            | Self::Resume(..)
            | Self::Test(..)
            | Self::Recover(..) => &[Method::POST],
            Self::Subscriptions(..) => &[Method::GET, Method::POST],
            Self::Confirm(..) => &[Method::PUT],
            Self::Messages(..) => &[Method::DELETE, Method::GET, Method::POST],
            Self::Message(..) | Self::Recovery(..) => &[Method::DELETE, Method::GET],
            Self::Claim(..) | Self::Subscription(..) => {
                &[Method::DELETE, Method::GET, Method::PATCH]
            }
        }
    }

    /// Whether it is served in admin mode only.
    pub(crate) const fn is_for_admins(&self) -> bool {
        matches!(self, Self::Health) || self.is_of_quotas() || self.is_of_pooling()
    }

    /// Whether it is served only where administrators set quotas of single projects.
    pub(crate) const fn is_of_quotas(&self) -> bool {
        matches!(self, Self::QuotaList | Self::Quotas(_))
    }

    /// Whether it is served only where pools are configured.
    pub(crate) const fn is_of_pooling(&self) -> bool {
        matches!(
            self,
            Self::Pools
                | Self::Pool(_)
                | Self::Drain(_)
                | Self::PoolQueues(_)
                | Self::Flavors
                | Self::Flavor(_)
        )
    }

    /// Whether the path is about queues or topics, for the texts of errors.
    pub(crate) fn kind(&self) -> Kind {
        if let Self::Queues(kind) = self {
            return *kind;
        }
        self.queue().map_or(Kind::Queue, |(kind, _)| kind)
    }

    /// The queue or topic that the path names.
    pub(crate) fn queue(&self) -> Option<(Kind, &'a str)> {
        match self {
            Self::Versions
            | Self::Home
            | Self::Ping
            | Self::Health
            | Self::Pools
            | Self::Pool(_)
            | Self::Drain(_)
            | Self::PoolQueues(_)
            | Self::Flavors
            | Self::Flavor(_)
            | Self::QuotaList
            | Self::Quotas(_)
            | Self::Queues(_) => None,
            Self::Queue(kind, name)
            | Self::Stats(kind, name)
            | Self::Purge(kind, name)
            | Self::Messages(kind, name)
            | Self::Message(kind, name, _)
            | Self::Subscriptions(kind, name)
            | Self::Subscription(kind, name, _)
            | Self::Confirm(kind, name, _)
            | Self::Secret(kind, name, _)
            | Self::Deliveries(kind, name, _)
            | Self::Delivery(kind, name, ..)
            | Self::Retry(kind, name, ..)
            | Self::SubscriberHealth(kind, name, _)
            | Self::Resume(kind, name, _)
            | Self::Test(kind, name, _)
            | Self::Recover(kind, name, _)
            | Self::Recovery(kind, name, ..) => Some((*kind, name)),
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
            ("/v2/queues/", Some(Route::Queue(Kind::Queue, ""))),
            ("/v2//queues", None),
            ("/v2/topics/q", Some(Route::Queue(Kind::Topic, "q"))),
            ("/v2/queues/q/", None),
            ("/v2/queues/q/stats", Some(Route::Stats(Kind::Queue, "q"))),
            ("/v2/queues/q/stats/", None),
            ("/v2/queues/q/messages/7", Some(Route::Message(Kind::Queue, "q", "7"))),
            ("/v2/queues/q/messages/7/x", None),
            ("/v2/queues/q/claims", Some(Route::Claims("q"))),
            ("/v2/topics/q/claims", None),
            ("/v2/topics/q/share", None),
            ("/v2/health", Some(Route::Health)),
            ("/v2/health/", None),
            ("/v2/pools", Some(Route::Pools)),
            ("/v2/pools/p", Some(Route::Pool("p"))),
            ("/v2/pools/p/drain", Some(Route::Drain("p"))),
            ("/v2/pools/p/queues", Some(Route::PoolQueues("p"))),
            ("/v2/pools/p/messages", None),
            ("/v2/quotas/p", Some(Route::Quotas("p"))),
            ("/v2/quotas", Some(Route::QuotaList)),
            ("/v2/quotas/", Some(Route::Quotas(""))),
            ("/v2/pools/p/x", None),
            ("/v2/flavors", Some(Route::Flavors)),
            ("/v2/flavors/f", Some(Route::Flavor("f"))),
            ("/v2/topics/q/subscriptions/7/confirm", Some(Route::Confirm(Kind::Topic, "q", "7"))),
            (
                "/v2/queues/q/subscriptions/7/deliveries/8",
                Some(Route::Delivery(Kind::Queue, "q", "7", "8")),
            ),
            (
                "/v2/topics/q/subscriptions/7/deliveries/8/retry",
                Some(Route::Retry(Kind::Topic, "q", "7", "8")),
            ),
            (
                "/v2/queues/q/subscriptions/7/recover/8",
                Some(Route::Recovery(Kind::Queue, "q", "7", "8")),
            ),
            ("/v2/queues/q/subscriptions/7/recover/8/x", None),
            ("/v2/queues/q/subscriptions/7/deliveries/8/retry/", None),
            ("/v2/queues/q/subscriptions/7/deliveries/8/again", None),
            ("/v2/queues/q/subscriptions/7/confirm/8", None),
            ("/v2/queues/q/messages/7/8/9", None),
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
