//! Keystone as the layer that knows callers by their tokens.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_api::{AuthRequest, Authenticator, Identity, RequestLimit, TokenError};
use zaqar_core::Clock;

use crate::keystone::{
    Error, Middleware, Options, Rejection, Session, Validator, Verified, limit_of,
};

/// Knows callers by tokens that Keystone issued.
#[derive(Debug)]
pub struct Keystone {
    middleware: Middleware,
    challenge: String,
}

impl Keystone {
    /// Asks the Keystone of the options. Nothing is sent before the first token is to be checked.
    ///
    /// # Errors
    /// [`Error::Options`] for certificates and keys that cannot be read.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let session = Arc::new(Session::new(options, Arc::clone(&clock))?);
        Ok(Self::with_session(session, clock))
    }

    /// Asks through a session, which others may use too.
    pub fn with_session(session: Arc<Session>, clock: Arc<dyn Clock>) -> Self {
        let middleware = Middleware::new(Validator::new(session, clock));
        let challenge = middleware.challenge();
        Self { middleware, challenge }
    }
}

#[async_trait]
impl Authenticator for Keystone {
    async fn authenticate(&self, auth: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
        let verified = self.middleware.verify(auth).await.map_err(|rejection| match rejection {
            Rejection::Unauthorized => TokenError::Invalid,
            Rejection::Unavailable(error) => TokenError::Unavailable { source: error.into() },
        })?;
        // Without a user only `delay_auth_decision` lets a request get here. Zaqar itself then asks
        // for a project, which no header of a client can give.
        let Verified { user, service } = verified;
        let user = user.ok_or(TokenError::NoProject)?;
        let identity = user.identity.as_ref().ok_or(TokenError::NoProject)?;
        let limit = match auth.request {
            Some(_) => None,
            None if service.is_some() => None,
            None => limit_of(&user, self.middleware.options()),
        };
        // A service may finish what its user began, for as long as its own token holds.
        let expires = service.as_ref().map_or(user.expires, |of| of.expires.max(user.expires));
        if limit.is_none() && expires == user.expires {
            return Ok(Arc::clone(identity));
        }
        let requests = limit.map(|limit| Arc::new(limit) as Arc<dyn RequestLimit>);
        Ok(Arc::new(Identity { expires, requests, ..Identity::clone(identity) }))
    }

    fn challenge(&self) -> String {
        self.challenge.clone()
    }
}
