//! Pools and flavors, for administrators.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use zaqar_api::pools::{
    drain_document, flavor_document, pool_document, read_flavor, read_move, read_pool,
    read_pool_change, read_pool_list,
};
use zaqar_api::{
    CreateFlavor, CreatePool, DeleteFlavor, DeletePool, DrainPool, GetFlavor, GetPool, ListFlavors,
    ListPools, ReadDrain, StopDrain, UpdateFlavor, UpdatePool,
};
use zaqar_core::NameError;
use zaqar_core::pools::{FlavorName, PoolName};

use super::queues::next_page;
use super::{Exchange, HandlerResult};
use crate::body;
use crate::error::HttpError;
use crate::respond;

impl Exchange<'_> {
    pub(super) async fn list_pools(self) -> HandlerResult {
        let (given, detailed) = (self.repeated_parameters()?, self.is_detailed()?);
        let request = ListPools { marker: self.query.text("marker"), limit: self.limit()? };
        let pools = self.call(request).await?;
        let next = pools.last().map(|pool| next_page("pools", &given, pool.name.as_str()));
        let documents = pools.iter().map(|pool| with_href(pool_document(pool, detailed), "pools"));
        Ok(page("pools", documents.collect(), next))
    }

    pub(super) async fn on_pool(mut self, method: &Method, name: &str) -> HandlerResult {
        let name = PoolName::new(name).map_err(|error| invalid_name("pool", &error))?;
        match method.as_str() {
            "PUT" => {
                let pool = read_pool(name, &self.object().await?)?;
                let path = format!("/v2/pools/{}", pool.name);
                self.call(CreatePool { pool }).await?;
                Ok(created(path))
            }
            "PATCH" => {
                let change = read_pool_change(&self.object().await?)?;
                let pool = self.call(UpdatePool { name, change }).await?;
                Ok(object_response(with_href(pool_document(&pool, false), "pools")))
            }
            "DELETE" => {
                self.call(DeletePool { name }).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => {
                let detailed = self.is_detailed()?;
                let pool = self.call(GetPool { name }).await?;
                Ok(object_response(with_href(pool_document(&pool, detailed), "pools")))
            }
        }
    }

    pub(super) async fn on_drain(self, method: &Method, name: &str) -> HandlerResult {
        let pool = PoolName::new(name).map_err(|error| invalid_name("pool", &error))?;
        match method.as_str() {
            "POST" => {
                self.call(DrainPool { pool }).await?;
                Ok(respond::empty(StatusCode::ACCEPTED))
            }
            "DELETE" => {
                self.call(StopDrain { pool }).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => {
                let drain = self.call(ReadDrain { pool }).await?;
                Ok(respond::json(StatusCode::OK, drain_document(&drain).to_string()))
            }
        }
    }

    pub(super) async fn move_queue(mut self, name: &str) -> HandlerResult {
        let pool = PoolName::new(name).map_err(|error| invalid_name("pool", &error))?;
        let request = read_move(pool, &self.object().await?)?;
        self.call(request).await?;
        Ok(respond::empty(StatusCode::ACCEPTED))
    }

    pub(super) async fn list_flavors(self) -> HandlerResult {
        let (given, detailed) = (self.repeated_parameters()?, self.is_detailed()?);
        let request = ListFlavors { marker: self.query.text("marker"), limit: self.limit()? };
        let flavors = self.call(request).await?;
        let next = flavors.last().map(|flavor| next_page("flavors", &given, flavor.name.as_str()));
        let documents =
            flavors.iter().map(|flavor| with_href(flavor_document(flavor, detailed), "flavors"));
        Ok(page("flavors", documents.collect(), next))
    }

    pub(super) async fn on_flavor(mut self, method: &Method, name: &str) -> HandlerResult {
        let name = FlavorName::new(name).map_err(|error| invalid_name("flavor", &error))?;
        match method.as_str() {
            "PUT" => {
                let pools = read_flavor(&self.object().await?)?;
                let path = format!("/v2/flavors/{name}");
                self.call(CreateFlavor { name, pools }).await?;
                Ok(created(path))
            }
            "PATCH" => {
                let pools = read_pool_list(&self.object().await?)?;
                let flavor = self.call(UpdateFlavor { name, pools }).await?;
                Ok(object_response(with_href(flavor_document(&flavor, true), "flavors")))
            }
            "DELETE" => {
                self.call(DeleteFlavor { name }).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => {
                let flavor = self.call(GetFlavor { name }).await?;
                Ok(object_response(with_href(flavor_document(&flavor, true), "flavors")))
            }
        }
    }

    pub(super) fn limit(&self) -> Result<Option<i64>, HttpError> {
        self.query.integer("limit")
    }

    /// The query parameters that the link to the next page repeats.
    fn repeated_parameters(&self) -> Result<Vec<(String, String)>, HttpError> {
        let (limit, detailed) = (self.limit()?, self.query.boolean("detailed")?);
        let limit = limit.map(|limit| ("limit".to_owned(), limit.to_string()));
        let detailed = detailed.map(|detailed| ("detailed".to_owned(), detailed.to_string()));
        Ok(limit.into_iter().chain(detailed).collect())
    }

    fn is_detailed(&self) -> Result<bool, HttpError> {
        Ok(self.query.boolean("detailed")?.unwrap_or(false))
    }

    pub(super) async fn object(&mut self) -> Result<Map<String, Value>, HttpError> {
        let document = self.small_document().await?;
        body::decode(&document)
    }
}

fn invalid_name(kind: &'static str, error: &NameError) -> HttpError {
    let text = error.to_string();
    HttpError::Identification { kind, rule: text.replace("queue", kind) }
}

fn with_href(mut document: Map<String, Value>, collection: &str) -> Map<String, Value> {
    let name = document.get("name").and_then(Value::as_str).unwrap_or_default();
    let href = format!("/v2/{collection}/{name}");
    document.insert("href".to_owned(), href.into());
    document
}

pub(super) fn page(
    collection: &str,
    documents: Vec<Map<String, Value>>,
    next: Option<String>,
) -> Response<Full<Bytes>> {
    let links: Vec<_> =
        next.into_iter().map(|href| json!({ "rel": "next", "href": href })).collect();
    respond::json(StatusCode::OK, json!({ collection: documents, "links": links }).to_string())
}

pub(super) fn object_response(document: Map<String, Value>) -> Response<Full<Bytes>> {
    respond::json(StatusCode::OK, Value::Object(document).to_string())
}

fn created(path: String) -> Response<Full<Bytes>> {
    let mut response = respond::empty(StatusCode::CREATED);
    respond::set(&mut response, header::LOCATION, path);
    response
}
