//! Quotas of single projects, for administrators.

use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value};
use zaqar_api::{Error, GetQuotas, ListQuotas, ManagedQuotas, Part, SetQuotas, UnsetQuotas};
use zaqar_core::ProjectId;

use super::pools::{object_response, page};
use super::queues::{ESCAPED, next_page};
use super::{Exchange, HandlerResult};
use crate::error::HttpError;
use crate::respond;

impl Exchange<'_> {
    pub(super) async fn list_quotas(self) -> HandlerResult {
        let limit = self.limit()?;
        let request = ListQuotas { marker: self.query.text("marker"), limit };
        let rows = self.call(request).await?;
        let given: Vec<_> =
            limit.map(|limit| ("limit".to_owned(), limit.to_string())).into_iter().collect();
        let next = rows.last().map(|last| next_page("quotas", &given, last.project.as_str()));
        Ok(page("quotas", rows.into_iter().map(row).collect(), next))
    }

    pub(super) async fn on_quotas(mut self, method: &Method, project: &str) -> HandlerResult {
        let project = ProjectId::new(project).map_err(|error| {
            let reason = format!("{project:?} is no project: {error}.");
            HttpError::Api(Error::Invalid { part: Part::Request, reason })
        })?;
        match method.as_str() {
            "PUT" => {
                let quotas = self.object().await?;
                Ok(object_response(self.call(SetQuotas { project, quotas }).await?))
            }
            "DELETE" => {
                self.call(UnsetQuotas { project }).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => Ok(object_response(self.call(GetQuotas { project }).await?)),
        }
    }
}

fn row(ManagedQuotas { project, quotas }: ManagedQuotas) -> Map<String, Value> {
    let href = format!("/v2/quotas/{}", utf8_percent_encode(project.as_str(), ESCAPED));
    let members =
        [("project", project.as_str().into()), ("quotas", quotas.into()), ("href", href.into())];
    members.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect()
}
