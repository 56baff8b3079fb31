//! The body of a request, with what its connection has for all of its requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use zaqar_api::LastToken;
use zaqar_core::Holder;

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
