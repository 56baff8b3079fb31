//! Pre-signed URLs: making them, and letting in who comes with one.

use zaqar_core::signing::Grant;
use zaqar_core::{ClientId, iso8601};

use crate::{Api, Caller, Error, Share, Shared};

const SHARED: [&str; 3] = ["claims", "messages", "subscriptions"];
const DAY: u64 = 86_400;

/// What a request brings instead of a token.
#[derive(Debug, Clone)]
pub struct SignedHeaders<'a> {
    /// `X-Project-ID`.
    pub project: &'a str,
    /// `URL-Paths`, comma separated.
    pub paths: &'a str,
    /// `URL-Methods`, comma separated.
    pub methods: &'a str,
    /// `URL-Expires`.
    pub expires: &'a str,
    /// `URL-Signature`.
    pub signature: &'a str,
}

impl Api {
    /// Signs a grant for a queue. Makes no queue and asks no store.
    ///
    /// # Errors
    /// [`Error::Invalid`] for paths, methods or a time that cannot be signed, and when no `[signed_url] secret_key` is configured.
    pub fn share(&self, caller: &Caller, request: Share) -> Result<Shared, Error> {
        let Some(key) = &self.inner.signing_key else {
            return Err(Error::request(
                "URLs cannot be signed: [signed_url] secret_key is not configured.",
            ));
        };
        let mut paths = request.paths;
        if let Some(unknown) = paths.iter().find(|path| !SHARED.contains(&path.as_str())) {
            return Err(Error::request(format!(
                "Invalid paths: {unknown:?} is none of claims, messages, subscriptions."
            )));
        }
        if paths.is_empty() {
            paths.push("messages".to_owned());
        }
        let methods =
            if request.methods.is_empty() { vec!["GET".to_owned()] } else { request.methods };
        let now = self.inner.clock.now();
        let expires = match request.expires {
            None => now.plus_secs(DAY),
            Some(text) => iso8601::parse(&text).map_err(|_| {
                Error::request(format!(
                    "Unable to parse date string {text:?}: `expires` should be date format, for \
                     example 2016-01-01T00:00:00."
                ))
            })?,
        };
        if expires <= now {
            return Err(Error::request("`expires` is lower than the current time"));
        }
        let base = request.base;
        let paths = paths.iter().map(|path| format!("{base}/{path}")).collect();
        let grant = Grant::new(caller.project.clone(), paths, methods, expires);
        Ok(Shared { signature: grant.sign(key), grant })
    }

    /// The caller of a signed request, if the signature holds and covers the method and path. It has the signed project and no roles.
    pub fn signed_caller(
        &self,
        headers: &SignedHeaders<'_>,
        client: ClientId,
        method: &str,
        path: &str,
    ) -> Option<Caller> {
        let key = self.inner.signing_key.as_ref()?;
        let project = zaqar_core::ProjectId::new(headers.project).ok()?;
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        let expires = iso8601::parse(headers.expires).ok()?;
        let grant =
            Grant::new(project.clone(), list(headers.paths), list(headers.methods), expires);
        let holds = grant.verify(key, headers.signature, self.inner.clock.now());
        (holds && grant.covers(method, path)).then(|| Caller::new(project, client))
    }
}
