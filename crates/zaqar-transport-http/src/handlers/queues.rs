//! Queues and topics.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use zaqar_api::{
    Change, CreateQueue, DeleteQueue, Error, GetQueue, GetQueueStats, ListQueues, ListedQueue,
    Part, PatchQueue, Purge, QueueList, QueueRef, json,
};
use zaqar_core::{Kind, Metadata};

use super::{Exchange, HandlerResult};
use crate::error::HttpError;
use crate::respond::{self, queue_path};
use crate::{Inner, body, request};

/// Characters that are percent-encoded in a query value, or in a segment of a path.
pub(super) const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

const OWN_PARAMETERS: [&str; 5] = ["marker", "limit", "detailed", "name", "with_count"];

impl Exchange<'_> {
    pub(super) async fn list_queues(self, kind: Kind) -> HandlerResult {
        let query = self.query;
        let filters: Vec<(String, String)> = query
            .pairs()
            .filter(|(name, _)| !OWN_PARAMETERS.contains(&name.as_ref()))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let (limit, detailed) = (query.integer("limit")?, query.boolean("detailed")?);
        let (name, with_count) = (query.text("name"), query.boolean("with_count")?);
        let mut given: Vec<(String, String)> = Vec::new();
        let mut keep = |parameter: &str, value: Option<String>| {
            given.extend(value.map(|value| (parameter.to_owned(), value)));
        };
        keep("limit", limit.map(|limit| limit.to_string()));
        keep("detailed", detailed.map(|detailed| detailed.to_string()));
        keep("name", name.clone());
        keep("with_count", with_count.map(|with_count| with_count.to_string()));
        given.extend_from_slice(&filters);
        let request = ListQueues {
            kind,
            marker: query.text("marker"),
            limit,
            detailed: detailed.unwrap_or(false),
            name,
            with_count: with_count.unwrap_or(false),
            filters,
        };
        let collection = match kind {
            Kind::Queue => "queues",
            Kind::Topic => "topics",
            Kind::Internal => "internal",
        };
        let list = self.call(request).await?;
        let href = list.next.as_ref().map(|next| next_page(collection, &given, next.as_str()));
        let document = queue_list(self.inner, collection, kind, list, href).await;
        Ok(respond::json(StatusCode::OK, document))
    }

    pub(super) async fn create_queue(mut self, queue: QueueRef) -> HandlerResult {
        let document = self.metadata_document().await?;
        let metadata = if document.is_empty() {
            Metadata::default()
        } else {
            Metadata::new(body::decode::<Map<String, Value>>(&document)?)
        };
        let path = queue_path(queue.kind, &queue.name);
        let request = CreateQueue { queue, metadata };
        let created = self.call(request).await?;
        let status = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
        let mut response = respond::empty(status);
        respond::set(&mut response, header::LOCATION, path);
        Ok(response)
    }

    pub(super) async fn get_queue(self, queue: QueueRef) -> HandlerResult {
        let kind = queue.kind;
        let metadata = self.call(GetQueue { queue }).await?;
        Ok(self.whole_metadata(kind, metadata.unwrap_or_default()))
    }

    pub(super) async fn patch_queue(mut self, queue: QueueRef) -> HandlerResult {
        let document = self.metadata_document().await?;
        if !request::is_patch(self.headers) {
            return Err(HttpError::PatchType);
        }
        if document.is_empty() {
            return Err(HttpError::body("PATCH body could not be empty for update."));
        }
        let operations: Vec<Value> = body::decode(&document)?;
        let changes = operations.iter().map(change).collect::<Result<_, _>>()?;
        let kind = queue.kind;
        let request = PatchQueue { queue, changes };
        let metadata = self.call(request).await?;
        Ok(self.whole_metadata(kind, metadata))
    }

    pub(super) async fn delete_queue(self, queue: QueueRef) -> HandlerResult {
        self.call(DeleteQueue { queue }).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn stats(self, queue: QueueRef) -> HandlerResult {
        let base = queue_path(queue.kind, &queue.name);
        let stats = self.call(GetQueueStats { queue }).await?.unwrap_or_default();
        let now = self.inner.api.clock().now();
        let location = |id| ("href", format!("{base}/messages/{id}"));
        Ok(respond::json(StatusCode::OK, json::stats(&stats, now, location).to_string()))
    }

    pub(super) async fn purge(mut self, queue: QueueRef) -> HandlerResult {
        const TYPES: [&str; 2] = ["messages", "subscriptions"];
        let document = self.small_document().await?;
        let asked = if document.is_empty() {
            TYPES.map(str::to_owned).to_vec()
        } else {
            resource_types(&body::decode(&document)?)?
        };
        if let Some(unknown) = asked.iter().find(|name| !TYPES.contains(&name.as_str())) {
            return Err(invalid(format!(
                "Resource types must be a sub set of messages, subscriptions; {unknown:?} is none \
                 of them."
            )));
        }
        let [messages, subscriptions] = TYPES.map(|name| asked.iter().any(|asked| asked == name));
        let request = Purge { queue, messages, subscriptions };
        self.call(request).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    fn whole_metadata(&self, kind: Kind, metadata: Metadata) -> Response<Full<Bytes>> {
        let whole = metadata.with_defaults(kind, self.inner.api.limits());
        respond::json(StatusCode::OK, whole.to_json())
    }
}

fn invalid(reason: String) -> HttpError {
    Error::Invalid { part: Part::Request, reason }.into()
}

/// The `resource_types` of a purge document.
fn resource_types(document: &Value) -> Result<Vec<String>, HttpError> {
    let types = match document {
        Value::Object(members) => members.get("resource_types"),
        Value::Array(_) => None,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(HttpError::body(format!("Request body could not be parsed: {document}.")));
        }
    };
    let missing = || invalid("Post body must contain key \"resource_types\".".to_owned());
    let Value::Array(types) = types.ok_or_else(missing)? else {
        return Err(invalid("Resource types must be a list of strings.".to_owned()));
    };
    let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    Ok(types.iter().map(text).collect())
}

/// The path of the next page: the same request with a marker.
pub(super) fn next_page(collection: &str, given: &[(String, String)], marker: &str) -> String {
    let mut href = format!("/v2/{collection}?");
    for (name, value) in given {
        let name = utf8_percent_encode(name, ESCAPED);
        href.push_str(&format!("{name}={}&", utf8_percent_encode(value, ESCAPED)));
    }
    format!("{href}marker={}", utf8_percent_encode(marker, ESCAPED))
}

/// A large list is encoded in turns.
async fn queue_list(
    inner: &Inner,
    collection: &str,
    kind: Kind,
    list: QueueList,
    next: Option<String>,
) -> Bytes {
    let limits = inner.api.limits();
    let mut out = BytesMut::new();
    out.put_slice(b"{\"");
    out.put_slice(collection.as_bytes());
    out.put_slice(b"\":[");
    let one = |out: &mut BytesMut, queue: ListedQueue| {
        let name = queue.name.as_str().as_bytes();
        out.put_slice(b"{\"name\":\"");
        out.put_slice(name);
        out.put_slice(b"\",\"href\":\"/v2/");
        out.put_slice(collection.as_bytes());
        out.put_u8(b'/');
        out.put_slice(name);
        out.put_u8(b'"');
        if let Some(metadata) = queue.metadata {
            out.put_slice(b",\"metadata\":");
            out.put_slice(metadata.with_defaults(kind, limits).to_json().as_bytes());
        }
        out.put_u8(b'}');
    };
    inner.turns.joined(&mut out, list.queues, one).await;
    out.put_u8(b']');
    respond::links(&mut out, next);
    if let Some(count) = list.count.filter(|count| *count > 0) {
        out.put_slice(b",\"count\":");
        json::number(&mut out, count);
    }
    out.put_u8(b'}');
    out.freeze()
}

/// One operation of a metadata patch: RFC 6902's add, remove and replace under `/metadata/`.
fn change(operation: &Value) -> Result<Change, HttpError> {
    const OPERATIONS: &str = "It must be one of the following: add, remove, replace.";
    let Value::Object(operation) = operation else {
        return Err(HttpError::body("Operations must be JSON objects."));
    };
    let name = match operation.get("op") {
        None | Some(Value::Null) => {
            let reason = format!("Unable to find `op` in JSON Schema change. {OPERATIONS}");
            return Err(HttpError::body(reason));
        }
        Some(Value::String(name)) if ["add", "remove", "replace"].contains(&name.as_str()) => name,
        Some(other) => {
            let shown = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            return Err(HttpError::body(format!("Invalid operation: `{shown}`. {OPERATIONS}")));
        }
    };
    let path = match operation.get("path") {
        Some(Value::String(path)) => path,
        Some(_) => return Err(HttpError::body("'path' must be a string.")),
        None => return Err(HttpError::body("Unable to find 'path' in JSON Schema change")),
    };
    let attribute = metadata_attribute(path)?;
    if name == "remove" {
        return Ok(Change::Remove { attribute });
    }
    let Some(value) = operation.get("value").cloned() else {
        let reason = format!("Operation \"{name}\" requires a member named \"value\".");
        return Err(HttpError::body(reason));
    };
    Ok(match name.as_str() {
        "add" => Change::Add { attribute, value },
        _ => Change::Replace { attribute, value },
    })
}

/// The attribute that a JSON pointer of the form `/metadata/…` names.
fn metadata_attribute(pointer: &str) -> Result<String, HttpError> {
    let Some(path) = pointer.strip_prefix('/') else {
        return Err(HttpError::body(format!("Pointer `{pointer}` does not start with \"/\".")));
    };
    if path.ends_with('/') {
        return Err(HttpError::body(format!("Pointer `{pointer}` end with \"/\".")));
    }
    let parts: Vec<&str> = path.split('/').collect();
    if path.contains('/') && parts.iter().any(|part| part.trim().is_empty()) {
        return Err(HttpError::body(format!("Pointer `{pointer}` contains adjacent \"/\".")));
    }
    let tildes = pointer.matches('~').count();
    if tildes != pointer.matches("~0").count() + pointer.matches("~1").count() {
        return Err(HttpError::body(format!(
            "Pointer `{pointer}` contains \"~\" not part of a recognized escape sequence."
        )));
    }
    match parts.as_slice() {
        [root, attribute] if root.eq_ignore_ascii_case("metadata") => {
            Ok(attribute.replace("~1", "/").replace("~0", "~"))
        }
        [_, _] => Err(HttpError::body("The root of path must be metadata, e.g /metadata/key.")),
        _ => Err(HttpError::body(format!(
            "Invalid JSON pointer for this resource: '/{path}, e.g /metadata/key'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_name_one_attribute() {
        assert_eq!(metadata_attribute("/metadata/a~1b~0c").unwrap(), "a/b~c");
        assert_eq!(metadata_attribute("/Metadata/a").unwrap(), "a");
        for (pointer, says) in [
            ("", "does not start"),
            ("metadata/a", "does not start"),
            ("/", "Invalid JSON pointer"),
            ("/metadata", "Invalid JSON pointer"),
            ("/metadata/", "end with"),
            ("/metadata//b", "adjacent"),
            ("/metadata/a/b", "Invalid JSON pointer"),
            ("/foo/a", "root of path"),
            ("/metadata/t~2", "escape sequence"),
            ("/metadata/t~", "escape sequence"),
        ] {
            let error = metadata_attribute(pointer).unwrap_err().to_string();
            assert!(error.contains(says), "{pointer}: {error}");
        }
    }

    #[test]
    fn the_next_page_asks_for_the_same() {
        let given = [("limit", "2"), ("name", "^a&b"), ("n", "5"), ("k", "v w")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            next_page("queues", &given, "q01"),
            "/v2/queues?limit=2&name=%5Ea%26b&n=5&k=v%20w&marker=q01"
        );
    }
}
