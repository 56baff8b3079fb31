//! The body of a request, with what its connection has for all of its requests.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use zaqar_api::LastToken;
use zaqar_core::Holder;

use crate::error::HttpError;

/// The body of a request that [`crate::Server`] received. [`crate::HttpService`] charges such a
/// request to its connection; one with any other body only to its project and the process. It also
/// knows the token that such a connection sent last.
#[derive(Debug)]
pub struct ConnectionBody {
    body: Incoming,
    holder: Holder,
    last_token: Arc<LastToken>,
}

impl ConnectionBody {
    pub(crate) const fn new(body: Incoming, holder: Holder, last_token: Arc<LastToken>) -> Self {
        Self { body, holder, last_token }
    }

    /// The token that the connection sent last.
    pub(crate) const fn last_token(&self) -> &Arc<LastToken> {
        &self.last_token
    }

    /// What the connection's memory is charged to.
    pub(crate) const fn holder(&self) -> &Holder {
        &self.holder
    }
}

impl Body for ConnectionBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request from any server: one type, so that all that reads it is compiled once.
pub(crate) enum AnyBody {
    /// From [`crate::Server`].
    Connection(ConnectionBody),
    /// From another server.
    Other(UnsyncBoxBody<Bytes, HttpError>),
}

impl AnyBody {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let mut body = Some(body);
        let known = (&mut body as &mut dyn Any).downcast_mut::<Option<ConnectionBody>>();
        if let Some(body) = known.and_then(Option::take) {
            return Self::Connection(body);
        }
        let other = body.map(|body| body.map_err(|_| HttpError::BodyBroken).boxed_unsync());
        Self::Other(other.unwrap_or_default())
    }
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.get_mut() {
            Self::Connection(body) => {
                let polled = Pin::new(body).poll_frame(context);
                polled.map(|frame| frame.map(|frame| frame.map_err(|_| HttpError::BodyBroken)))
            }
            Self::Other(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Connection(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connection(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
