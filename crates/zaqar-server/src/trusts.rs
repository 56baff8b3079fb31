//! Trusts for subscribers that act for their owner: created when they subscribe, used when messages
//! are delivered.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::{info, warn};
use zaqar_api::{Authentication, Context, Error, Part, TrustRequest};
use zaqar_auth::keystone::{self, Session, Trust, TrustError, TrustTokens};
use zaqar_core::{Clock, ProjectId, Secret, StateLog};
use zaqar_notify::outcome::Failure;
use zaqar_notify::trust::TokenSource;

use crate::error::StartError;

/// The timeout of Keystone for a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The user of `[trustee]`.
#[derive(Debug)]
pub(crate) struct Trustee {
    tokens: TrustTokens,
    /// Limits logs about tokens that Keystone does not issue.
    log: StateLog,
    /// Limits logs about trusts that cannot be created or checked.
    requests: StateLog,
    /// Limits logs about unused trusts that cannot be deleted.
    deletions: StateLog,
}

impl Trustee {
    /// Nothing is sent until it is needed.
    ///
    /// # Errors
    /// Certificates or keys cannot be read.
    pub(crate) fn new(
        options: keystone::Options,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        info!(url = options.auth_url, "trusts are enabled: subscribers can act for their owners");
        let session = Session::new(options, Arc::clone(clock)).map_err(of_trustee)?;
        let tokens = TrustTokens::new(Arc::new(session), Arc::clone(clock));
        let [log, requests, deletions] = [const { StateLog::new() }; 3];
        Ok(Self { tokens, log, requests, deletions })
    }

    /// The id of a trust for a subscription: see [`zaqar_api::Subscribers::trust`].
    pub(crate) async fn trust(
        &self,
        context: &Context,
        request: TrustRequest<'_>,
    ) -> Result<String, Error> {
        let asked = async {
            match request.given {
                Some(given) => self.check(context, given).await,
                None => self.make(context, request).await,
            }
        };
        let asked = tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|elapsed| {
            Err(Error::AuthenticationUnavailable { source: elapsed.into() })
        });
        if let Err(error @ Error::AuthenticationUnavailable { .. }) = &asked
            && let Some(failures) = self.requests.failure()
        {
            let error = error as &dyn std::error::Error;
            warn!(error, failures, "a trust cannot be created or checked");
        }
        asked
    }

    async fn make(&self, context: &Context, request: TrustRequest<'_>) -> Result<String, Error> {
        let Authentication::Token(identity) = &context.authentication else {
            return Err(invalid(
                "A trust is created with the caller's token, and this request has none that was \
                 checked: the option trust_id can name a trust that was made before.",
            ));
        };
        let token = identity.token.as_ref().ok_or(Error::NotAuthenticated)?;
        let trust = Trust {
            token,
            user: &identity.user,
            project: identity.project.as_str(),
            roles: &identity.roles,
            expires: request.expires,
        };
        self.tokens.session().create_trust(trust).await.map_err(|error| match error {
            TrustError::Refused { status } => invalid(format!(
                "Keystone does not create a trust with the caller's token ({status}): one of an \
                 application credential or of another trust cannot create one."
            )),
            TrustError::Keystone(error) => unavailable(error),
        })
    }

    /// A caller must name a trust of its own, so that it cannot act as another user.
    async fn check(&self, context: &Context, given: &str) -> Result<String, Error> {
        let trustor = self.tokens.session().trustor(given).await;
        let trustor = trustor.map_err(|error| match error {
            TrustError::Refused { .. } => {
                invalid("The option trust_id names no trust whose trustee is this server's user.")
            }
            TrustError::Keystone(error) => unavailable(error),
        })?;
        let is_theirs = match &context.authentication {
            Authentication::Token(identity) => trustor.user == identity.user,
            Authentication::Unchecked { .. } | Authentication::Server => true,
            Authentication::Signature(_) => false,
        };
        if is_theirs && trustor.project == context.project.as_str() {
            return Ok(given.to_owned());
        }
        Err(invalid("The option trust_id names a trust of another user or project."))
    }

    /// The error for a subscription's owner, who need not know Keystone's URL.
    fn no_token(&self, trust: &str, error: &TrustError) -> Failure {
        match error {
            TrustError::Refused { .. } => {
                Failure::Unusable(format!("Keystone issues no token of the trust: {error}"))
            }
            TrustError::Keystone(error) => {
                if let Some(failures) = self.log.failure() {
                    let error = error as &dyn std::error::Error;
                    warn!(error, failures, trust, "Keystone issues no token of a trust");
                }
                Failure::NoToken("Keystone issues no token at the moment".to_owned())
            }
        }
    }

    /// Deletes an unused trust.
    pub(crate) async fn end(&self, context: &Context, id: &str) {
        let Authentication::Token(identity) = &context.authentication else { return };
        let Some(token) = &identity.token else { return };
        let deleting = self.tokens.session().delete_trust(id, token);
        let failed = match tokio::time::timeout(TIMEOUT, deleting).await {
            Ok(deleted) => deleted.err().map(|error| error.to_string()),
            Err(elapsed) => Some(elapsed.to_string()),
        };
        if let Some(error) = failed
            && let Some(failures) = self.deletions.failure()
        {
            warn!(error, trust = id, failures, "an unused trust could not be deleted in Keystone");
        }
    }
}

#[async_trait]
impl TokenSource for Trustee {
    async fn token(&self, trust: &str, project: &ProjectId) -> Result<Secret<String>, Failure> {
        let made = self.tokens.get(trust).await.map_err(|error| self.no_token(trust, &error))?;
        if let Some(failures) = self.log.success() {
            info!(failures, "Keystone issues tokens of trusts again");
        }
        if made.trustor.project != project.as_str() {
            let text = "the trust is for another project".to_owned();
            return Err(Failure::Unusable(text));
        }
        Ok(made.token.clone())
    }

    async fn forget(&self, trust: &str, token: &Secret<String>) -> bool {
        self.tokens.forget(trust, token).await
    }
}

/// The same error, with the section of these options.
fn of_trustee(error: keystone::Error) -> StartError {
    match error {
        keystone::Error::Options { option, reason } => {
            format!("[trustee] {option}: {reason}").into()
        }
        error @ (keystone::Error::Unreachable { .. }
        | keystone::Error::Refused { .. }
        | keystone::Error::Malformed { .. }
        | keystone::Error::Overloaded { .. }) => error.into(),
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Invalid { part: Part::Request, reason: reason.into() }
}

fn unavailable(error: keystone::Error) -> Error {
    Error::AuthenticationUnavailable { source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use zaqar_api::Identity;
    use zaqar_auth::keystone::{Credential, Name, Options, Scope};
    use zaqar_core::{ClientId, SystemClock, Timestamp};

    use crate::report::RecentErrors;

    fn options() -> Options {
        let credential = Credential::Password {
            user: Name::Id("zaqar".to_owned()),
            domain: Name::Id(String::new()),
            password: Secret::new("pw".to_owned()),
            scope: Scope::Unscoped,
        };
        Options::new("http://127.0.0.1:1/v3", credential)
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    #[test]
    fn a_wrong_option_is_named_with_its_section() {
        let mut options = options();
        options.tls.cafile = Some(PathBuf::from("/does/not/exist.pem"));
        let error = Trustee::new(options, &clock()).unwrap_err().to_string();
        assert!(error.starts_with("[trustee] cafile: "), "{error}");
    }

    #[tokio::test]
    async fn a_keystone_that_is_away_is_not_logged_for_each_subscription() {
        let (recent, _guard) = RecentErrors::keep();
        let options = Options { retries: 0, ..options() };
        let trustee = Trustee::new(options, &clock()).unwrap();
        let (project, now) = (ProjectId::new("p").unwrap(), Timestamp::from_millis(0));
        let identity = Identity::new(project.clone(), "ann", Vec::new(), now).with_token("t");
        let authentication = Authentication::Token(Arc::new(identity));
        let context = Context { authentication, ..Context::new(project, ClientId::new("client")) };
        for given in [None, Some("t1"), None, Some("t1")] {
            let error = trustee.trust(&context, TrustRequest { given, expires: now }).await;
            assert!(matches!(error, Err(Error::AuthenticationUnavailable { .. })), "{error:?}");
            trustee.end(&context, "t1").await;
        }
        let (warnings, _) = recent.counts();
        assert!((2..8).contains(&warnings), "{warnings}");
    }

    #[tokio::test]
    async fn errors_for_owners_do_not_name_the_keystone() {
        let trustee = Trustee::new(options(), &clock()).unwrap();
        let project = ProjectId::new("p").unwrap();
        let failure = trustee.token("t1", &project).await.unwrap_err();
        assert_eq!(failure.to_string(), "no token: Keystone issues no token at the moment");
    }
}
