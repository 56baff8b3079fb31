//! The layer that authenticates callers by Keystone tokens.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_api::{AuthRequest, Authenticator, Identity, Remembered, RequestLimit, TokenError};
use zaqar_core::Clock;

use crate::keystone::{
    Error, Middleware, Options, Rejection, Session, Validator, Verified, limit_of,
};

/// Authenticates callers by tokens that Keystone issued.
#[derive(Debug)]
pub struct Keystone {
    middleware: Middleware,
    challenge: String,
}

impl Keystone {
    /// Uses the Keystone that the options name. Nothing is sent before the first token is
    /// validated.
    ///
    /// # Errors
    /// [`Error::Options`] if a certificate or key cannot be read.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let session = Arc::new(Session::new(options, Arc::clone(&clock))?);
        Ok(Self::with_session(session, clock))
    }

    /// Uses a session, which can be shared with others.
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
        // Only `delay_auth_decision` lets a request without a user get here. Zaqar itself then asks
        // for a project, which no header of a client can give.
        let Verified { user, service, may_use_expired } = verified;
        let user = user.ok_or(TokenError::NoProject)?;
        let identity = user.identity.as_ref().ok_or(TokenError::NoProject)?;
        let limit = match auth.request {
            Some(_) => None,
            None if service.is_some() => None,
            None => limit_of(&user, self.middleware.options()),
        };
        // A service may finish what its user began, until its own token expires.
        let extends = service.filter(|_| may_use_expired);
        let expires = extends.map_or(user.expires, |of| of.expires.max(user.expires));
        if limit.is_none() && expires == user.expires {
            return Ok(Arc::clone(identity));
        }
        let requests = limit.map(|limit| Arc::new(limit) as Arc<dyn RequestLimit>);
        Ok(Arc::new(Identity { expires, requests, ..Identity::clone(identity) }))
    }

    fn remembered(&self, auth: AuthRequest<'_>) -> Option<Remembered> {
        let (user, until) = self.middleware.remembered(auth)?;
        let is_limited = user.access_rules.is_some();
        // The limits of a connection's token are made by `authenticate`.
        if auth.request.is_none() && is_limited {
            return None;
        }
        let identity = user.identity.clone()?;
        Some(Remembered { identity, until: (!is_limited).then_some(until) })
    }

    fn challenge(&self) -> String {
        self.challenge.clone()
    }
}
