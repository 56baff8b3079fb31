//! One request from its head to its response.

mod admin;
mod claims;
mod home;
mod messages;
mod queues;
mod subscriptions;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use zaqar_api::Caller;

use crate::body::{self, Bound};
use crate::error::HttpError;
use crate::query::Query;
use crate::route::{self, Route};
use crate::{Inner, request, respond};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

type Answered = Result<Response<Full<Bytes>>, HttpError>;

/// A request that has said who asks, on its way to its operation.
struct Exchange<'a, B> {
    inner: &'a Inner,
    caller: Caller,
    query: Query<'a>,
    headers: &'a http::HeaderMap,
    body: B,
}

/// Answers a request. Every path through it ends in a response with a request id.
pub(crate) async fn handle<B>(inner: &Inner, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let (head, body) = request.into_parts();
    let id = request_id();
    let answered = answer(inner, &head, body).await;
    let told = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (ours, project) = (id.to_str().unwrap_or_default(), told("x-project-id"));
    let (method, path) = (head.method.as_str(), head.uri.path());
    let mut response = answered.unwrap_or_else(|error| {
        let about = tracing::error_span!("request", request_id = ours, project, method, path);
        about.in_scope(|| error.into_response())
    });
    tracing::debug!(
        request_id = ours,
        // So that one request can be followed through several services.
        global_request_id = told(REQUEST_ID.as_str()),
        project,
        method,
        path,
        status = response.status().as_u16(),
        "request"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    if head.method == Method::HEAD { respond::without_body(response) } else { response }
}

async fn answer<B>(inner: &Inner, head: &http::request::Parts, body: B) -> Answered
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let path = route::decode(head.uri.path());
    let method = &head.method;
    let served = |route: &Route| inner.options.admin || *route != Route::Health;
    let Some(route) = Route::find(&path).filter(served) else {
        if method == Method::OPTIONS {
            return Ok(respond::empty(StatusCode::OK));
        }
        return Err(HttpError::NoSuchPath);
    };
    if method == Method::OPTIONS {
        let mut response = respond::empty(StatusCode::OK);
        respond::set(&mut response, header::ALLOW, allow(&route));
        return Ok(response);
    }
    let signed = request::signed(&head.headers);
    if route == Route::Versions && signed.is_none() {
        request::check_accept(&head.headers, "")?;
        check_method(&route, method)?;
        return Ok(home::versions());
    }
    // A signature that does not hold is told nothing else.
    if let Some(signed) = &signed {
        let probe = zaqar_core::ClientId::new("");
        let caller = inner.api.signed_caller(signed, probe, method.as_str(), &path);
        caller.ok_or(HttpError::NoSuchPath)?;
    }
    request::check_content_type(&head.headers)?;
    request::check_accept(&head.headers, home::MEDIA_TYPE)?;
    let kind = route.kind();
    let mut caller = request::caller(&head.headers, kind, inner.api.limits())?;
    if signed.is_some() {
        caller.roles.clear();
    }
    let queue = route.queue().map(|(kind, name)| request::queue(kind, name)).transpose()?;
    check_method(&route, method)?;
    let query = Query::new(head.uri.query());
    let exchange = Exchange { inner, caller, query, headers: &head.headers, body };
    match queue {
        Some(queue) => exchange.in_queue(&route, method, queue).await,
        None => match route {
            Route::Queues(kind) => exchange.list_queues(kind).await,
            Route::Health => exchange.health().await,
            Route::Ping => {
                inner.api.ping().await.map_err(HttpError::from)?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => Ok(home::document()),
        },
    }
}

impl<B> Exchange<'_, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    async fn in_queue(
        self,
        route: &Route,
        method: &Method,
        queue: zaqar_api::QueueRef,
    ) -> Answered {
        match (route, method.as_str()) {
            (Route::Queue(..), "PUT") => self.create_queue(queue).await,
            (Route::Queue(..), "PATCH") => self.patch_queue(queue).await,
            (Route::Queue(..), "DELETE") => self.delete_queue(queue).await,
            (Route::Queue(..), _) => self.get_queue(queue).await,
            (Route::Stats(..), _) => self.stats(queue).await,
            (Route::Purge(..), _) => self.purge(queue).await,
            (Route::Messages(..), "POST") => self.post_messages(queue).await,
            (Route::Messages(..), "DELETE") => self.delete_messages(queue).await,
            (Route::Messages(..), _) => self.list_messages(queue).await,
            (Route::Message(_, _, id), "DELETE") => self.delete_message(queue, id).await,
            (Route::Message(_, _, id), _) => self.get_message(queue, id).await,
            (Route::Claims(_), _) => self.create_claim(queue).await,
            (Route::Claim(_, id), "PATCH") => self.renew_claim(queue, id).await,
            (Route::Claim(_, id), "DELETE") => self.release_claim(queue, id).await,
            (Route::Claim(_, id), _) => self.get_claim(queue, id).await,
            (Route::Share(_), _) => self.share(queue).await,
            (Route::Subscriptions(..), "POST") => self.create_subscription(queue).await,
            (Route::Subscriptions(..), _) => self.list_subscriptions(queue).await,
            (Route::Subscription(_, _, id), "PATCH") => self.change_subscription(queue, id).await,
            (Route::Subscription(_, _, id), "DELETE") => self.delete_subscription(queue, id).await,
            (Route::Subscription(_, _, id), _) => self.get_subscription(queue, id).await,
            (Route::Confirm(_, _, id), _) => self.confirm_subscription(queue, id).await,
            (Route::Versions | Route::Home | Route::Ping | Route::Health | Route::Queues(_), _) => {
                Err(HttpError::NoSuchPath)
            }
        }
    }

    /// Reads queue metadata, or a patch of it.
    async fn metadata_document(&mut self) -> Result<Bytes, HttpError> {
        self.document(self.inner.api.limits().max_queue_metadata, |max| HttpError::TooLarge {
            reason: format!("Queue metadata is too large. Max size: {max}"),
        })
        .await
    }

    /// Reads a claim, a subscription or the like.
    async fn small_document(&mut self) -> Result<Bytes, HttpError> {
        self.document(self.inner.api.limits().max_queue_metadata, |max| HttpError::TooLarge {
            reason: format!("The request body is too large. Max size: {max}"),
        })
        .await
    }

    async fn document(
        &mut self,
        max: u64,
        too_large: impl FnOnce(u64) -> HttpError,
    ) -> Result<Bytes, HttpError> {
        let expects = self.headers.contains_key(header::EXPECT);
        let bound = Bound { max, timeout: self.inner.options.body_timeout, expects };
        body::read(&mut self.body, &bound, too_large).await
    }
}

fn check_method(route: &Route, method: &Method) -> Result<(), HttpError> {
    let get = || route.methods().contains(&Method::GET);
    if route.methods().contains(method) || (method == Method::HEAD && get()) {
        return Ok(());
    }
    const STANDARD: [Method; 8] = [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    if !STANDARD.contains(method) {
        return Err(HttpError::UnknownMethod);
    }
    Err(HttpError::MethodNotAllowed { allow: allow(route) })
}

fn allow(route: &Route) -> String {
    let mut names: Vec<&str> = route.methods().iter().map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.sort_unstable();
    names.push("OPTIONS");
    names.join(", ")
}

/// A new request id: `req-` and a random UUID, version 4.
pub(crate) fn request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = *b"req-xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx";
    let mut chance: u128 = rand::random();
    for place in &mut id[4..] {
        let digit = DIGITS[(chance & 15) as usize];
        match *place {
            b'x' => *place = digit,
            // The variant: 8, 9, a or b.
            b'y' => *place = DIGITS[(8 | chance & 3) as usize],
            _ => continue,
        }
        chance >>= 4;
    }
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("req-"))
}

#[cfg(test)]
mod tests {
    use super::request_id;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = request_id();
        let text = id.to_str().unwrap();
        let uuid = text.strip_prefix("req-").unwrap();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(uuid.bytes().all(|b| b == b'-' || matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(&uuid[14..15], "4");
        assert!(["8", "9", "a", "b"].contains(&&uuid[19..20]), "{uuid}");
        assert_ne!(id, request_id());
    }
}
