//! Authenticates one request by its tokens.

use std::sync::Arc;
use std::time::Instant;

use tracing::warn;
use zaqar_api::AuthRequest;
use zaqar_core::StateLog;

use super::access_rules;
use super::token::Token;
use super::validate::{Validator, Validity};
use super::{Error, Options};

/// Characters of a path that are logged.
const LOGGED_PATH: usize = 200;

/// The caller of a request.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The user's token; `None` only with `delay_auth_decision`, where the request goes on without
    /// an identity.
    pub user: Option<Arc<Token>>,
    /// The token of the service that calls on the user's behalf.
    pub service: Option<Arc<Token>>,
    /// The service's token has a service's role, so that the service may use the user's token after
    /// it has expired. Without `service_token_roles_required`, others count as services, too.
    pub may_use_expired: bool,
}

/// Why a request is rejected.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// No valid token: 401, with [`Middleware::challenge`].
    #[error("The request you have made requires authentication.")]
    Unauthorized,
    /// Keystone cannot be asked at the moment: 503.
    #[error("The Keystone service is temporarily unavailable.")]
    Unavailable(#[source] Error),
}

/// Decides as keystonemiddleware's `auth_token` does.
#[derive(Debug)]
pub struct Middleware {
    validator: Validator,
    options: Options,
    /// Limits logs about application credentials that are refused.
    refused: StateLog,
}

impl Middleware {
    /// Decides by the answers of a validator.
    pub fn new(validator: Validator) -> Self {
        let options = validator.options().clone();
        Self { validator, options, refused: StateLog::new() }
    }

    /// The options.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The value of `WWW-Authenticate` in a 401.
    pub fn challenge(&self) -> String {
        let uri = self.options.www_authenticate_uri.as_ref().unwrap_or(&self.options.auth_url);
        format!("Keystone uri=\"{uri}\"")
    }

    /// The caller of a request. The service's token is checked first: if it is not valid, or lacks
    /// a service's role, the request is rejected, whatever the user's token is.
    ///
    /// # Errors
    /// [`Rejection`].
    pub async fn verify(&self, request: AuthRequest<'_>) -> Result<Verified, Rejection> {
        let service = match present(request.service_token) {
            None => None,
            Some(token) => Some(self.service(token).await?),
        };
        let may_use_expired = service.as_ref().is_some_and(|service| service.may_use_expired);
        let is_refused = service.as_ref().is_some_and(|service| service.token.is_none());
        let user = match present(request.user_token) {
            None => None,
            Some(token) => self.user(token, request, service.is_some(), may_use_expired).await?,
        };
        if (user.is_none() || is_refused) && !self.options.delay_auth_decision {
            return Err(Rejection::Unauthorized);
        }
        let user = user.filter(|_| !is_refused);
        let service = service.and_then(|service| service.token);
        Ok(Verified { user, service, may_use_expired })
    }

    /// The user of a request with a token that is remembered, which may use it for the request, and
    /// until when it is. The token may have expired. `None` says nothing: [`Middleware::verify`]
    /// decides.
    pub fn remembered(&self, request: AuthRequest<'_>) -> Option<(Arc<Token>, Instant)> {
        if present(request.service_token).is_some() {
            return None;
        }
        let (token, until) = self.validator.remembered(present(request.user_token)?)?;
        let service_type = self.options.service_type.as_deref();
        let allowed = access_rules::allow(&token, service_type, false, request.request);
        allowed.ok().map(|()| (token, until))
    }

    async fn service(&self, token: &str) -> Result<Service, Rejection> {
        let refused = Service { token: None, may_use_expired: false };
        let Some(token) = self.validate(token, false).await? else { return Ok(refused) };
        let rules = &self.options.service_tokens;
        let has_role = token.has_any_role(&rules.roles);
        if rules.required && !has_role {
            return Ok(refused);
        }
        Ok(Service { token: Some(token), may_use_expired: has_role })
    }

    async fn user(
        &self,
        token: &str,
        request: AuthRequest<'_>,
        is_chained: bool,
        may_be_expired: bool,
    ) -> Result<Option<Arc<Token>>, Rejection> {
        let Some(token) = self.validate(token, may_be_expired).await? else { return Ok(None) };
        let service_type = self.options.service_type.as_deref();
        match access_rules::allow(&token, service_type, is_chained, request.request) {
            Ok(()) => Ok(Some(token)),
            Err(reason) => {
                if let Some(requests) = self.refused.failure() {
                    let (method, path) = request.request.unzip();
                    let path = path.map(start_of);
                    warn!(reason, method, path, requests, "application credential refused");
                }
                Ok(None)
            }
        }
    }

    /// With `delay_auth_decision`, a token that cannot be validated now is treated as not valid.
    async fn validate(
        &self,
        token: &str,
        may_be_expired: bool,
    ) -> Result<Option<Arc<Token>>, Rejection> {
        match self.validator.validate(token, may_be_expired).await {
            Ok(Validity::Valid(token)) => Ok(Some(token)),
            Ok(Validity::Invalid) => Ok(None),
            Err(_) if self.options.delay_auth_decision => Ok(None),
            Err(error) => Err(Rejection::Unavailable(error)),
        }
    }
}

/// A service's token, and what it permits.
struct Service {
    /// `None` for a token that does not count as a service's.
    token: Option<Arc<Token>>,
    may_use_expired: bool,
}

/// At most the first [`LOGGED_PATH`] characters.
fn start_of(path: &str) -> &str {
    path.char_indices().nth(LOGGED_PATH).map_or(path, |(end, _)| &path[..end])
}

/// An empty header counts as absent.
fn present(token: Option<&str>) -> Option<&str> {
    token.map(str::trim).filter(|token| !token.is_empty())
}
