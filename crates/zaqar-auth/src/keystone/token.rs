//! A token's contents.

use std::sync::Arc;

use serde_json::{Value, json};
use zaqar_api::{Attributes, Identity};
use zaqar_core::{ProjectId, Timestamp, iso8601};

use crate::policy::Credentials;

/// A valid token, as Keystone describes it.
#[derive(Debug, Clone)]
pub struct Token {
    /// The owner.
    pub user: Named,
    /// The project that it is scoped to; `None` for other scopes and without a scope.
    pub project: Option<Named>,
    /// The domain that it is scoped to: id and name.
    pub domain: Option<(String, String)>,
    /// Whether it is scoped to the system (the whole deployment).
    pub is_system: bool,
    /// The names of the owner's roles in its scope.
    pub roles: Vec<String>,
    /// When it expires.
    pub expires: Timestamp,
    /// The caller as policies see it.
    pub credentials: Credentials,
    /// The caller as the stack sees it; `None` for a token that is not scoped to a project.
    pub identity: Option<Arc<Identity>>,
    /// The access rules of its application credential; `None` if that has none.
    pub access_rules: Option<Vec<AccessRule>>,
    /// The types of the services in its catalog; `None` without a catalog.
    pub catalog: Option<Vec<String>>,
    /// The trust that it was issued for.
    pub trust_id: Option<String>,
}

/// A user or project, with its domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The id of its domain.
    pub domain_id: String,
    /// The name of its domain.
    pub domain_name: String,
}

/// One access rule of an application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// The type of the service.
    pub service: String,
    /// The method.
    pub method: String,
    /// The path, with `*`, `**` and `{name}`.
    pub path: String,
}

/// A document that is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token document lacks {0}")]
pub struct TokenError(&'static str);

impl Token {
    /// Parses the response to a validation.
    ///
    /// # Errors
    /// [`TokenError`] if the user or the expiry is missing.
    pub fn read(document: &Value) -> Result<Self, TokenError> {
        let token = &document["token"];
        let user = named(&token["user"]).ok_or(TokenError("user"))?;
        let project = named(&token["project"]);
        let domain = token.get("domain").filter(|domain| domain.is_object());
        let domain = domain.map(|domain| (text(&domain["id"]), text(&domain["name"])));
        let is_system = token["system"]["all"].as_bool() == Some(true);
        let expires = token["expires_at"].as_str().ok_or(TokenError("expires_at"))?;
        let expires = iso8601::parse(expires).map_err(|_| TokenError("a readable expires_at"))?;
        let roles: Vec<_> = array(&token["roles"]).map(|role| text(&role["name"])).collect();
        let catalog = token["catalog"].as_array();
        let catalog = catalog.map(|all| all.iter().map(|one| text(&one["type"])).collect());
        let access_rules = access_rules(&token["application_credential"]["access_rules"])?;
        let trust_id = token["OS-TRUST:trust"]["id"].as_str().map(str::to_owned);
        // If it is absent, no admin project is configured, and every project counts as one.
        let is_admin_project = token["is_admin_project"].as_bool().unwrap_or(true);
        let mut new = Self {
            user,
            project,
            domain,
            is_system,
            roles,
            expires,
            credentials: Credentials::default(),
            identity: None,
            access_rules,
            catalog,
            trust_id,
        };
        new.credentials = new.to_credentials(is_admin_project);
        new.identity = new.to_identity()?;
        Ok(new)
    }

    fn to_identity(&self) -> Result<Option<Arc<Identity>>, TokenError> {
        let Some(project) = &self.project else { return Ok(None) };
        let project = ProjectId::new(&project.id).map_err(|_| TokenError("a usable project id"))?;
        let attributes = Arc::clone(self.credentials.attributes());
        Ok(Some(Arc::new(Identity {
            attributes: Arc::new(Attributes::new(project.clone(), attributes)),
            project,
            user: self.user.id.clone(),
            roles: self.roles.clone(),
            expires: self.expires,
            requests: None,
            token: None,
        })))
    }

    /// In both spellings of oslo.context: `to_policy_values` and the older `to_dict`.
    fn to_credentials(&self, is_admin_project: bool) -> Credentials {
        let project = self.project.as_ref();
        let project_id = project.map(|project| project.id.as_str());
        let project_domain = project.map(|project| project.domain_id.as_str());
        let domain_id = self.domain.as_ref().map(|(id, _)| id.as_str());
        let system_scope = self.is_system.then_some("all");
        // First what most rules look at.
        Credentials::new(json!({
            "roles": self.roles,
            "project_id": project_id,
            "user_id": self.user.id,
            "user": self.user.id,
            "user_domain_id": self.user.domain_id,
            "user_domain": self.user.domain_id,
            "project": project_id,
            "tenant": project_id,
            "project_domain_id": project_domain,
            "project_domain": project_domain,
            "domain_id": domain_id,
            "domain": domain_id,
            "system_scope": system_scope,
            "is_admin_project": is_admin_project,
            "is_admin": false,
        }))
    }

    /// Whether it has one of these roles.
    pub fn has_any_role(&self, roles: &[String]) -> bool {
        roles.iter().any(|role| self.roles.contains(role))
    }
}

fn named(value: &Value) -> Option<Named> {
    Some(Named {
        id: value["id"].as_str()?.to_owned(),
        name: text(&value["name"]),
        domain_id: text(&value["domain"]["id"]),
        domain_name: text(&value["domain"]["name"]),
    })
}

fn access_rules(rules: &Value) -> Result<Option<Vec<AccessRule>>, TokenError> {
    match rules {
        Value::Null => Ok(None),
        // An access rule that is not understood is an error: without it the credential would be
        // unlimited.
        Value::Array(rules) => rules.iter().map(access_rule).collect::<Result<_, _>>().map(Some),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(TokenError("readable access_rules"))
        }
    }
}

fn access_rule(rule: &Value) -> Result<AccessRule, TokenError> {
    let part = |name: &str| rule[name].as_str().map(str::to_owned);
    let rule = || {
        Some(AccessRule { service: part("service")?, method: part("method")?, path: part("path")? })
    };
    rule().ok_or(TokenError("readable access_rules"))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_token_is_read() {
        let token = Token::read(&json!({"token": {
            "user": {"id": "u", "name": "ann", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "1", "name": "member"}, {"id": "2", "name": "reader"}],
            "expires_at": "2026-11-29T06:00:00.000000Z",
            "catalog": [{"type": "messaging", "endpoints": []}],
        }}));
        let token = token.unwrap();
        assert_eq!(token.project.as_ref().map(|project| project.id.as_str()), Some("p"));
        assert_eq!(token.roles, ["member", "reader"]);
        assert_eq!(token.expires.as_secs(), 1_795_932_000);
        assert_eq!(token.catalog, Some(vec!["messaging".to_owned()]));
        assert_eq!(token.access_rules, None);
        assert_eq!(token.credentials.get("tenant"), Some(&json!("p")));
        assert_eq!(token.credentials.scope(), crate::policy::Scope::Project);
    }

    #[test]
    fn scopes_other_than_a_project() {
        let user = json!({"id": "u", "name": "ann", "domain": {"id": "d", "name": "D"}});
        let expires_at = "2026-11-29T06:00:00Z";
        let of = |scope: &str, value: Value| {
            let document = json!({"token": {"user": user, "expires_at": expires_at, scope: value}});
            Token::read(&document).unwrap().credentials.scope()
        };
        assert_eq!(of("system", json!({"all": true})), crate::policy::Scope::System);
        assert_eq!(of("domain", json!({"id": "d", "name": "D"})), crate::policy::Scope::Domain);
    }

    #[test]
    fn what_is_no_token_is_an_error() {
        let user = json!({"id": "u"});
        for document in [
            json!(null),
            json!({}),
            json!({"token": {"user": user}}),
            json!({"token": {"user": user, "expires_at": "soon"}}),
            json!({"token": {"expires_at": "2026-11-29T06:00:00Z"}}),
            json!({"token": {
                "user": user, "expires_at": "2026-11-29T06:00:00Z",
                "application_credential": {"access_rules": [{"service": "messaging"}]},
            }}),
        ] {
            assert!(Token::read(&document).is_err(), "{document}");
        }
    }
}
