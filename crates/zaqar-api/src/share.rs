//! Creates and verifies pre-signed URLs.

use zaqar_core::iso8601;
use zaqar_core::signing::Grant;

use crate::{Api, Context, Error, Share, Shared};

const SHARED: [&str; 3] = ["claims", "messages", "subscriptions"];
const DAY: u64 = 86_400;

/// The headers of a pre-signed URL, which replace a token.
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
    /// Signs a grant for a queue. Creates no queue and does not access a store.
    ///
    /// # Errors
    /// [`Error::Invalid`] for paths, methods or a time that cannot be signed, and when no
    /// `[signed_url] secret_key` is configured.
    pub(crate) fn share(&self, context: &Context, request: Share) -> Result<Shared, Error> {
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
        let base = format!("/v2/{}s/{}", request.queue.kind.as_str(), request.queue.name);
        let paths = paths.iter().map(|path| format!("{base}/{path}")).collect();
        let grant = Grant::new(context.project.clone(), paths, methods, expires);
        let signature = grant.sign(key).map_err(|error| Error::request(format!("{error}.")))?;
        Ok(Shared { signature, grant })
    }

    /// The grant of a signed request, if the signature is valid. The stack checks that it covers
    /// the operation.
    pub fn verify_signature(&self, headers: &SignedHeaders<'_>) -> Option<Grant> {
        let key = self.inner.signing_key.as_ref()?;
        let project = zaqar_core::ProjectId::new(headers.project).ok()?;
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        let expires = iso8601::parse(headers.expires).ok()?;
        let grant = Grant::new(project, list(headers.paths), list(headers.methods), expires);
        let holds = grant.verify(key, headers.signature, self.inner.clock.now());
        holds.then_some(grant)
    }
}
