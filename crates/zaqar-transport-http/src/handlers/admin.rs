//! Pre-signed URLs and the self-test.

use http::StatusCode;
use serde_json::{Map, Value, json};
use zaqar_api::{CheckHealth, Error, Part, QueueRef, Share};
use zaqar_core::iso8601;

use super::{Exchange, HandlerResult};
use crate::body;
use crate::error::HttpError;
use crate::respond;

impl Exchange<'_> {
    pub(super) async fn share(mut self, queue: QueueRef) -> HandlerResult {
        let document = self.small_document().await?;
        let mut fields: Map<String, Value> = body::decode(&document)?;
        let request = Share {
            queue,
            paths: texts(&mut fields, "paths")?,
            methods: texts(&mut fields, "methods")?,
            expires: match fields.remove("expires") {
                None | Some(Value::Null) => None,
                Some(Value::String(expires)) => Some(expires),
                Some(other) => {
                    return Err(invalid(format!(
                        "`expires` should be date format, for example 2016-01-01T00:00:00, not: \
                         {other}"
                    )));
                }
            },
        };
        if let Some(unknown) = fields.keys().next() {
            return Err(invalid(format!("Unknown keys: {unknown:?}")));
        }
        let shared = self.call(request).await?;
        let body = json!({
            "paths": shared.grant.paths,
            "methods": shared.grant.methods,
            "project": shared.grant.project.as_str(),
            "expires": iso8601::format(shared.grant.expires),
            "signature": shared.signature,
        });
        Ok(respond::json(StatusCode::OK, body.to_string()))
    }

    pub(super) async fn health(self) -> HandlerResult {
        let health = self.call(CheckHealth).await?;
        Ok(respond::json(StatusCode::OK, health.document().to_string()))
    }
}

fn invalid(reason: String) -> HttpError {
    Error::Invalid { part: Part::Request, reason }.into()
}

/// A list of strings; absent and null are empty.
fn texts(fields: &mut Map<String, Value>, name: &str) -> Result<Vec<String>, HttpError> {
    let list = match fields.remove(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(invalid(format!("`{name}` should be a list"))),
    };
    list.into_iter()
        .map(|item| {
            let Value::String(text) = item else {
                return Err(invalid(format!("`{name}` should be a list of strings, not {item}")));
            };
            Ok(text)
        })
        .collect()
}
