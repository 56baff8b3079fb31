//! Quotas of single projects, for administrators.

use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::body::Body;
use zaqar_api::{Error, GetQuotas, Part, SetQuotas, UnsetQuotas};
use zaqar_core::ProjectId;

use super::pools::object_response;
use super::{Exchange, HandlerResult};
use crate::error::HttpError;
use crate::respond;

impl<B> Exchange<'_, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
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
