//! The requests of a connection: read from its messages, begun in their turn, answered.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use zaqar_api::{AuthRequest, Error as ApiError, TraceParent};
use zaqar_core::{OverBudget, Permit, ProjectId};

use super::{Connection, Outcome, RESERVED};
use crate::action::Action;
use crate::actions::{self, Completed, Exchange};
use crate::error::{ErrorContext, WsError};
use crate::inbox::Inbox;
use crate::reply::Reply;
use crate::request::{Frame, RejectedFrame, Request};
use crate::{Inner, answer, session};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn receive(&mut self, message: Message) {
        self.last_received = Instant::now();
        let Some((encoding, read)) = Frame::read(message) else { return };
        let checked = match read {
            Ok(frame) => frame.check(),
            Err(error) => Err(RejectedFrame::boxed(Frame::empty(encoding), error)),
        };
        match checked {
            Ok(request) => {
                self.pipeline.push(request.footprint(), request.frame.size(), request);
            }
            Err(rejected) => {
                let RejectedFrame { frame, error } = *rejected;
                let reply = error.into_reply(&ErrorContext::default());
                let rejected = answered(&frame, &reply);
                self.pipeline.push_done(rejected.payload.len(), rejected);
            }
        }
    }

    pub(super) fn begin(&mut self, number: u64, request: Request) {
        let inner = Arc::clone(&self.inner);
        if request.action == Action::Authenticate {
            self.pipeline.run(number, async move { authenticate(&inner, request).await });
            return;
        }
        let mut context = match session::context(&request, self.identity.as_ref(), &inner.api) {
            Ok(context) => context,
            Err(error) => {
                let rejected =
                    answered(&request.frame, &error.into_reply(&ErrorContext::default()));
                self.pipeline.run(number, async move { rejected });
                return;
            }
        };
        self.last_request = Instant::now();
        let reserved = match self.reserve(&request, &context.project) {
            Ok(reserved) => reserved,
            Err(over) => {
                let error = WsError::over_budget(over);
                let rejected =
                    answered(&request.frame, &error.into_reply(&ErrorContext::default()));
                self.pipeline.run(number, async move { rejected });
                return;
            }
        };
        let encoding = request.frame.encoding;
        if request.subscribes_connection() && self.inbox.is_none() {
            self.inbox = Some(Inbox::new(&inner.api, inner.options.max_waiting_pushes));
        }
        context.connection = self.inbox.as_ref().map(|inbox| inbox.handle(encoding));
        let (api, admin, turns) = (inner.api.clone(), inner.options.admin, inner.turns.clone());
        let holder = self.permit.holder().clone();
        let exchange = Exchange { api, context, request, admin, turns, holder };
        self.pipeline.run(number, async move {
            let turns = exchange.turns.clone();
            let Completed { request, reply } = exchange.handle().await;
            let _turn = turns.for_bytes(reply.body.len()).await;
            // From now on the answer itself is charged.
            drop(reserved);
            answered(&request.frame, &reply)
        });
    }

    /// Charges the connection's memory to the project of the request too, and reserves memory for
    /// an answer with a page.
    fn reserve(
        &mut self,
        request: &Request,
        project: &ProjectId,
    ) -> Result<Option<Permit>, OverBudget> {
        self.permit.charge_project(project)?;
        if !request.action.returns_page() {
            return Ok(None);
        }
        self.permit.holder().try_acquire(RESERVED).map(Some)
    }
}

fn answered(frame: &Frame, reply: &Reply) -> Outcome {
    Outcome { encoding: frame.encoding, payload: answer::encode(reply, frame), identity: None }
}

async fn authenticate(inner: &Inner, request: Request) -> Outcome {
    // The original does not repeat headers and body of `authenticate`.
    let frame = Frame { headers: Bytes::from_static(b"{}"), body: None, ..request.frame };
    if inner.api.authenticator().is_none() {
        return answered(&frame, &actions::authenticated());
    }
    let text = |name| request.headers.text(name);
    let (user, service) = (text("X-Auth-Token"), text("X-Service-Token"));
    let auth = AuthRequest {
        user_token: user.as_deref(),
        service_token: service.as_deref(),
        request: None,
        trace_parent: text("traceparent").and_then(|parent| TraceParent::parse(&parent)),
    };
    let rejected = |status| {
        let reply = WsError::AuthenticationFailed { status }.into_reply(&ErrorContext::default());
        answered(&frame, &reply)
    };
    match inner.api.authenticate(auth).await {
        Ok(identity) => {
            // Keeps the token: a subscription may need it to act for its owner.
            let identity =
                Arc::new(identity.with_token(user.as_deref().unwrap_or_default().trim()));
            Outcome { identity: Some(identity), ..answered(&frame, &actions::authenticated()) }
        }
        Err(ApiError::NotAuthenticated) => rejected(401),
        Err(ApiError::NoProject) => {
            answered(&frame, &WsError::OtherProject.into_reply(&ErrorContext::default()))
        }
        Err(_) => rejected(503),
    }
}
