//! The body of a request, with what the memory of its connection is charged to.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use zaqar_core::Holder;

/// The body of a request that [`crate::Server`] received. [`crate::HttpService`] charges such a
/// request to its connection; one with any other body only to its project and the process.
#[derive(Debug)]
pub struct ConnectionBody {
    body: Incoming,
    holder: Holder,
}

impl ConnectionBody {
    pub(crate) const fn new(body: Incoming, holder: Holder) -> Self {
        Self { body, holder }
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
