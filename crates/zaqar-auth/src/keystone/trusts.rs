//! Trusts: what a notification needs to act for its subscriber later.

use http::Method;
use serde_json::json;
use zaqar_core::{Secret, Timestamp, iso8601};

use super::Error;
use super::options::{Credential, Scope};
use super::session::{Session, add_token, json_headers, subject, v3};
use super::token::Token;

/// The last time that Keystone's dates can say.
const LAST_SECS: u64 = 253_402_300_799;

/// A trust to make.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The token of the one who trusts.
    pub token: &'a Secret<String>,
    /// Who that is, and for which project, with which roles.
    pub trustor: &'a Token,
    /// When the trust ends; a time past the year 9999 is that year's end.
    pub expires: Timestamp,
}

impl Session {
    /// Makes a trust in ourselves; its id.
    ///
    /// # Errors
    /// [`Error`]: also where the trustor's token may not make one.
    pub async fn create_trust(&self, trust: Trust<'_>) -> Result<String, Error> {
        let own = self.own().await?;
        let secs = trust.expires.as_secs().min(LAST_SECS);
        let expires = iso8601::format(Timestamp::from_millis(0).plus_secs(secs));
        let roles: Vec<_> = trust.trustor.roles.iter().map(|name| json!({"name": name})).collect();
        let project = trust.trustor.project.as_ref().map(|project| project.id.as_str());
        let document = json!({"trust": {
            "trustor_user_id": trust.trustor.user.id,
            "trustee_user_id": own.user_id,
            "project_id": project,
            "impersonation": true,
            "roles": roles,
            "expires_at": format!("{expires}.000000Z"),
        }});
        let mut headers = json_headers();
        let url = format!("{}/OS-TRUST/trusts", own.identity);
        let question = "for a trust";
        if !add_token(&mut headers, "x-auth-token", trust.token.expose()) {
            return Err(Error::Refused { url, question, status: 401 });
        }
        let answer = self.http.send(Method::POST, &url, &headers, Some(&document)).await?;
        if answer.status != 201 {
            return Err(answer.refused(question));
        }
        let document = answer.json()?;
        let id = document["trust"]["id"].as_str();
        id.map(str::to_owned).ok_or_else(|| answer.malformed("a trust without an id"))
    }

    /// A fresh token of a trust, with what it is for.
    ///
    /// # Errors
    /// [`Error`]: also where the trust is over.
    pub async fn trust_token(&self, trust_id: &str) -> Result<Secret<String>, Error> {
        let credential = match &self.options.credential {
            Credential::Password { user, domain, password, .. } => Credential::Password {
                user: user.clone(),
                domain: domain.clone(),
                password: password.clone(),
                scope: Scope::Trust(trust_id.to_owned()),
            },
            Credential::Application { .. } => {
                return Err(Error::Options {
                    option: "auth_type",
                    reason: "a trust needs auth_type = password: an application credential \
                             cannot use one"
                        .to_owned(),
                });
            }
        };
        subject(&self.authenticate(&credential).await?)
    }

    /// Where Keystone is, as it was configured.
    pub fn url(&self) -> String {
        v3(&self.options.auth_url)
    }
}
