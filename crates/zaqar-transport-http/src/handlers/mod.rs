//! Handles one request, from its head to its response.

mod admin;
mod claims;
mod deliveries;
mod home;
mod messages;
mod pools;
mod queues;
mod quotas;
mod subscriptions;

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use zaqar_api::{Callable, Context, LastToken, Ping, ReadHome, RequestId};
use zaqar_core::limits::MAX_DOCUMENT;
use zaqar_core::{Holder, Permit};

use crate::body::{Bound, RequestBody};
use crate::connection_body::AnyBody;
use crate::error::HttpError;
use crate::headers::{Claims, Headers};
use crate::query::Query;
use crate::route::{self, Route};
use crate::{Inner, request, respond};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// The fixed charge of every connection covers responses up to this size.
const FREE_BYTES: usize = 1024;

type HandlerResult = Result<Response<Full<Bytes>>, HttpError>;

/// One request, with the context of its caller, while it is handled.
struct Exchange<'a> {
    inner: &'a Inner,
    context: Context,
    query: Query<'a>,
    headers: &'a Headers<'a>,
    body: &'a mut RequestBody,
    holder: &'a Holder,
}

/// Bytes reserved for a response with a page before it is read from the store.
const RESERVED: usize = 512 * 1024;

/// Whether a response may be as large as a page of messages.
fn returns_page(route: &Route<'_>, method: &Method) -> bool {
    match route {
        Route::Messages(..) | Route::Subscriptions(..) => *method != Method::POST,
        Route::Queues(_) => true,
        // The recorded answers of receivers may be as large as messages.
        Route::Claims(_) | Route::Deliveries(..) | Route::Delivery(..) => true,
        Route::Claim(..) => *method == Method::GET,
        Route::Versions
        | Route::Home
        | Route::Ping
        | Route::Health
        | Route::Pools
        | Route::Pool(_)
        | Route::Drain(_)
        | Route::PoolQueues(_)
        | Route::Flavors
        | Route::Flavor(_)
        | Route::QuotaList
        | Route::Quotas(_)
        | Route::Queue(..)
        | Route::Stats(..)
        | Route::Purge(..)
        | Route::Message(..)
        | Route::Share(_)
        | Route::Subscription(..)
        | Route::Confirm(..)
        | Route::Secret(..)
        | Route::Retry(..)
        | Route::SubscriberHealth(..)
        | Route::Resume(..)
        | Route::Test(..)
        | Route::Recover(..)
        | Route::Recovery(..) => false,
    }
}

/// What a request and its response are charged to.
struct Charge {
    /// The connection, and the project once it is known.
    holder: Holder,
    /// Memory reserved for the response.
    reserved: Option<Permit>,
    /// Whether the client can repeat the request, so that the response may be replaced by a 503.
    is_repeatable: bool,
}

impl Charge {
    /// Charges a response's body until its last slice is dropped. Whatever tells of a change, such
    /// as popped messages or the ids of a post, is charged past the bounds, as it cannot be fetched
    /// again; the reservation before it, or the request's body, keeps that in proportion. A page
    /// that was only read is refused, and so is an error: what refuses them is small.
    ///
    /// # Errors
    /// [`HttpError::OverBudget`]; the response is dropped.
    fn response(self, response: Response<Full<Bytes>>) -> HandlerResult {
        let length = response.body().size_hint().exact().unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length <= FREE_BYTES {
            return Ok(response);
        }
        let mut permit = match self.reserved {
            Some(permit) => permit,
            None => self.holder.try_acquire(0)?,
        };
        if self.is_repeatable || !response.status().is_success() {
            permit.resize(length)?;
        } else {
            permit.resize_past_bounds(length);
        }
        let mut response = response;
        let body = respond::take_body(&mut response);
        *response.body_mut() = Full::new(permit.attach(body));
        Ok(response)
    }
}

/// Answers a request. Every response has a request id.
pub(crate) async fn handle(inner: &Inner, request: Request<AnyBody>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let claims = match inner.api.authenticator() {
        Some(_) => Claims::Ignored,
        None => Claims::Believed,
    };
    let headers = Headers::read(&head.headers, claims);
    let id = RequestId::random();
    // A request from elsewhere than the server of this crate has no connection to charge.
    let (holder, last_token) = match &body {
        AnyBody::Connection(body) => (body.holder().clone(), Some(Arc::clone(body.last_token()))),
        AnyBody::Other(_) => (inner.api.memory().holder(), None),
    };
    let mut body = RequestBody::new(body);
    let is_repeatable = head.method.is_safe();
    let mut charge = Charge { holder, reserved: None, is_repeatable };
    let last_token = last_token.as_deref();
    let asked = Asked { head: &head, headers: &headers, id, last_token };
    let outcome = answer(inner, &asked, &mut body, &mut charge).await;
    // Errors are charged too: some repeat what is wrong with a document.
    let response = outcome.unwrap_or_else(HttpError::into_response);
    let mut response = charge.response(response).unwrap_or_else(HttpError::into_response);
    tracing::debug!(
        request_id = id.as_str(),
        // The same id in the logs of all services that the request passes.
        global_request_id = headers.openstack_request_id.unwrap_or_default(),
        project = headers.project_id.unwrap_or_default(),
        method = head.method.as_str(),
        path = head.uri.path(),
        status = response.status().as_u16(),
        "request"
    );
    set_request_id(&mut response, id);
    if response.status() == StatusCode::UNAUTHORIZED
        && let Some(authenticator) = inner.api.authenticator()
    {
        respond::set(&mut response, header::WWW_AUTHENTICATE, authenticator.challenge());
    }
    // The next request on the connection would be read from the middle of an unread body.
    if !body.has_ended() && !body.drain(headers.expect.is_some()).await {
        respond::close(&mut response);
    }
    if head.method == Method::HEAD { respond::without_body(response) } else { response }
}

/// Sets the id of the request that a response answers.
pub(crate) fn set_request_id(response: &mut Response<Full<Bytes>>, id: RequestId) {
    respond::set(response, REQUEST_ID, Bytes::copy_from_slice(id.as_bytes()));
}

/// A request without its body.
struct Asked<'a> {
    head: &'a http::request::Parts,
    headers: &'a Headers<'a>,
    id: RequestId,
    /// The token that its connection sent last.
    last_token: Option<&'a LastToken>,
}

/// Whether a route exists as the server is configured.
fn is_served(inner: &Inner, route: &Route<'_>) -> bool {
    (inner.options.admin || !route.is_for_admins())
        && (inner.api.has_pools() || !route.is_of_pooling())
        && (inner.api.has_project_quotas() || !route.is_of_quotas())
}

async fn answer(
    inner: &Inner,
    asked: &Asked<'_>,
    body: &mut RequestBody,
    charge: &mut Charge,
) -> HandlerResult {
    let Asked { head, headers, id, last_token } = *asked;
    let path = route::decode(head.uri.path());
    let method = &head.method;
    let found = Route::find(&path).filter(|route| is_served(inner, route));
    let signed = request::signed(headers);
    // An unknown caller learns nothing, not even which resources exist.
    let token = match (inner.api.authenticator(), &signed, &found) {
        (None, _, _) | (_, None, Some(Route::Versions)) => None,
        (Some(_), Some(_), _) if method == Method::OPTIONS => {
            return Err(zaqar_api::Error::NotGranted.into());
        }
        (Some(_), Some(_), _) => None,
        (Some(_), None, _) => {
            headers.check_identity()?;
            // Creating a trust needs the caller's token.
            let keeps_token =
                matches!(found, Some(Route::Subscriptions(..) | Route::Subscription(..)))
                    && matches!(*method, Method::POST | Method::PATCH);
            let auth = request::auth(headers, (method, &path));
            let identity = match inner.api.recognize(last_token, auth) {
                Some(identity) => identity,
                None => inner.api.authenticate(auth).await?,
            };
            Some(request::authenticated(identity, auth, keeps_token))
        }
    };
    let Some(route) = found else {
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
    headers.check_identity()?;
    if route == Route::Versions && signed.is_none() {
        request::check_accept(headers, "")?;
        check_method(&route, method)?;
        return Ok(home::versions());
    }
    // An invalid signature, or one that does not cover the request, gets no other answer than 404.
    let authentication = match (&signed, token) {
        (Some(signed), _) => request::granted(&inner.api, signed, method, &path)?,
        (None, Some(token)) => token,
        (None, None) => request::unchecked(headers),
    };
    request::check_content_type(headers)?;
    request::check_accept(headers, home::MEDIA_TYPE)?;
    let limits = inner.api.limits();
    let context = request::context(headers, route.kind(), limits, authentication, id)?;
    let queue = route.queue().map(|(kind, name)| request::queue(kind, name)).transpose()?;
    check_method(&route, method)?;
    let query = Query::new(head.uri.query());
    charge.holder = charge.holder.for_project(&context.project);
    if returns_page(&route, method) {
        charge.reserved = Some(charge.holder.try_acquire(RESERVED)?);
    }
    let holder = &charge.holder;
    let exchange = Exchange { inner, context, query, headers, body, holder };
    match queue {
        Some(queue) => exchange.on_queue(&route, method, queue).await,
        None => exchange.on_service(&route, method).await,
    }
}

impl Exchange<'_> {
    fn call<O: Callable>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<O::Answer, zaqar_api::Error>> + use<'_, O> {
        self.inner.api.call(&self.context, operation)
    }

    /// Handles requests for resources outside of queues.
    async fn on_service(self, route: &Route<'_>, method: &Method) -> HandlerResult {
        match route {
            Route::Queues(kind) => self.list_queues(*kind).await,
            Route::Pools => self.list_pools().await,
            Route::Pool(name) => self.on_pool(method, name).await,
            Route::Drain(name) => self.on_drain(method, name).await,
            Route::PoolQueues(name) => self.move_queue(name).await,
            Route::Flavors => self.list_flavors().await,
            Route::Flavor(name) => self.on_flavor(method, name).await,
            Route::QuotaList => self.list_quotas().await,
            Route::Quotas(project) => self.on_quotas(method, project).await,
            Route::Health => self.health().await,
            Route::Ping => {
                self.call(Ping).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            Route::Home => Ok(home::document(self.call(ReadHome).await?)),
            // The list of versions is outcome earlier; all others name a queue.
            Route::Versions
            | Route::Queue(..)
            | Route::Stats(..)
            | Route::Purge(..)
            | Route::Messages(..)
            | Route::Message(..)
            | Route::Claims(_)
            | Route::Claim(..)
            | Route::Share(_)
            | Route::Subscriptions(..)
            | Route::Subscription(..)
            | Route::Confirm(..)
            | Route::Secret(..)
            | Route::Deliveries(..)
            | Route::Delivery(..)
            | Route::Retry(..)
            | Route::SubscriberHealth(..)
            | Route::Resume(..)
            | Route::Test(..)
            | Route::Recover(..)
            | Route::Recovery(..) => Err(HttpError::NoSuchPath),
        }
    }

    async fn on_queue(
        self,
        route: &Route<'_>,
        method: &Method,
        queue: zaqar_api::QueueRef,
    ) -> HandlerResult {
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
            (Route::Secret(_, _, id), _) => self.rotate_secret(queue, id).await,
            (Route::Deliveries(_, _, id), _) => self.list_deliveries(queue, id).await,
            (Route::Delivery(_, _, id, delivery), _) => {
                self.get_delivery(queue, id, delivery).await
            }
            (Route::Retry(_, _, id, delivery), _) => self.retry_delivery(queue, id, delivery).await,
            (Route::SubscriberHealth(_, _, id), _) => self.subscriber_health(queue, id).await,
            (Route::Resume(_, _, id), _) => self.resume_subscription(queue, id).await,
            (Route::Test(_, _, id), _) => self.test_subscription(queue, id).await,
            (Route::Recover(_, _, id), _) => self.recover_deliveries(queue, id).await,
            (Route::Recovery(_, _, id, recovery), "DELETE") => {
                self.cancel_recovery(queue, id, recovery).await
            }
            (Route::Recovery(_, _, id, recovery), _) => {
                self.get_recovery(queue, id, recovery).await
            }
            (
                Route::Versions
                | Route::Home
                | Route::Ping
                | Route::Health
                | Route::Pools
                | Route::Pool(_)
                | Route::Drain(_)
                | Route::PoolQueues(_)
                | Route::Flavors
                | Route::Flavor(_)
                | Route::QuotaList
                | Route::Quotas(_)
                | Route::Queues(_),
                _,
            ) => Err(HttpError::NoSuchPath),
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
        self.document(MAX_DOCUMENT, |max| HttpError::TooLarge {
            reason: format!("The request body is too large. Max size: {max} bytes"),
        })
        .await
    }

    async fn document(
        &mut self,
        max: u64,
        too_large: impl FnOnce(u64) -> HttpError,
    ) -> Result<Bytes, HttpError> {
        let timeout = self.inner.options.body_timeout;
        self.body.read(&Bound { max, timeout, holder: self.holder }, too_large).await
    }
}

fn check_method(route: &Route<'_>, method: &Method) -> Result<(), HttpError> {
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
