//! Who a connection belongs to, once it has said so: the hook for token validation.

use async_trait::async_trait;
use zaqar_core::{ProjectId, Secret, Timestamp};

/// What a valid token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The project that the token is for.
    pub project: ProjectId,
    /// Its roles there.
    pub roles: Vec<String>,
    /// From then on it stands for nothing: the connection is closed with 4003.
    pub expires: Timestamp,
}

/// Why a token was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is unknown, expired or revoked: 401.
    #[error("the token is not valid")]
    Invalid,
    /// Nobody can tell at the moment: 503.
    #[error("tokens cannot be checked at the moment")]
    Unavailable {
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Checks tokens.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// What a token stands for.
    ///
    /// # Behavior
    /// - Called once an `authenticate` action, again for a token known: the implementation caches.
    /// - Answers in bounded time: the connection's later requests wait for it.
    async fn authenticate(&self, token: &Secret<String>) -> Result<Identity, Refusal>;
}
