//! Quotas of single projects, for administrators.

use serde_json::{Value, json};
use zaqar_api::{GetQuotas, ListQuotas, ManagedQuotas, SetQuotas, UnsetQuotas};
use zaqar_core::ProjectId;

use super::{Exchange, HandlerResult};
use crate::error::WsError;
use crate::reply::Reply;

impl Exchange {
    pub(super) async fn list_quotas(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let body = &self.request.body;
        let request = ListQuotas { marker: body.text("marker"), limit: body.integer("limit") };
        let row =
            |row: ManagedQuotas| json!({ "project": row.project.as_str(), "quotas": row.quotas });
        let rows: Vec<_> = self.call(request).await?.into_iter().map(row).collect();
        Ok(Reply::json(200, json!({ "quotas": rows })))
    }

    pub(super) async fn get_quotas(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let quotas = self.call(GetQuotas { project: self.named_project()? }).await?;
        Ok(Reply::json(200, quotas.into()))
    }

    pub(super) async fn set_quotas(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let quotas = match self.members(&["quotas"]).remove("quotas") {
            Some(Value::Object(quotas)) => quotas,
            Some(_) | None => serde_json::Map::new(),
        };
        let project = self.named_project()?;
        Ok(Reply::json(200, self.call(SetQuotas { project, quotas }).await?.into()))
    }

    pub(super) async fn unset_quotas(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let project = self.named_project()?;
        let text = format!("Quotas of project {project} removed.");
        self.call(UnsetQuotas { project }).await?;
        Ok(Reply::json(204, text.into()))
    }

    fn named_project(&self) -> Result<ProjectId, WsError> {
        ProjectId::new(&self.text("project"))
            .map_err(|error| WsError::invalid(format!("project is no project: {error}.")))
    }
}
