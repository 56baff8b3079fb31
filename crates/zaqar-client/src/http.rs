//! One HTTP exchange, bounded in time and size.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::error::{Error, Refusal};
use crate::tls::{self, Tls};

/// Connections that wait for their next request, at most, for each server.
const IDLE: usize = 256;
/// How long they wait: less than servers and proxies keep them, so that few requests meet a close.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// Characters of an error's text that is not JSON.
const SHOWN: usize = 300;

/// Bounds of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// For the connection alone.
    pub(crate) connect: Duration,
    /// For all of it.
    pub(crate) whole: Duration,
    /// Bytes of an answer's body.
    pub(crate) answer: usize,
}

/// Connections to any number of servers.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    bounds: Bounds,
}

/// What was answered, with a status of success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    method: Method,
    path: String,
}

impl Answer {
    /// Reads the body.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| self.malformed(source))
    }

    pub(crate) fn malformed(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Malformed {
            method: self.method.to_string(),
            path: self.path.clone(),
            source: source.into(),
        }
    }

    /// The last segment of the path that `Location` names.
    pub(crate) fn located(&self) -> Option<&str> {
        let location = self.headers.get(http::header::LOCATION)?.to_str().ok()?;
        location.split('?').next()?.rsplit('/').next().filter(|id| !id.is_empty())
    }
}

impl Http {
    pub(crate) fn new(tls: &Tls, bounds: Bounds) -> Result<Self, Error> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(bounds.connect));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_FOR)
            .build(connector);
        Ok(Self { client, bounds })
    }

    /// Sends a request once. Any status but 2xx is [`Error::Refused`].
    pub(crate) async fn send(
        &self,
        method: &Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let exchange = self.exchange(method, uri, &path, headers, body);
        let answer = tokio::time::timeout(self.bounds.whole, exchange).await.map_err(|_| {
            Error::Timeout {
                method: method.to_string(),
                path: path.clone(),
                limit: self.bounds.whole,
            }
        })??;
        if answer.status.is_success() { Ok(answer) } else { Err(refusal(&answer).into()) }
    }

    async fn exchange(
        &self,
        method: &Method,
        uri: Uri,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let interrupted = |source: Box<dyn std::error::Error + Send + Sync>| Error::Interrupted {
            method: method.to_string(),
            path: path.to_owned(),
            source,
        };
        let url = format!("{}://{}", uri.scheme_str().unwrap_or("http"), authority(&uri));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let answer = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                Error::Connect { url, source: error.into() }
            } else {
                interrupted(error.into())
            }
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.bounds.answer).collect().await;
        let body = body.map_err(|source| {
            if source.is::<LengthLimitError>() {
                let (method, path) = (method.to_string(), path.to_owned());
                Error::TooLong { method, path, limit: self.bounds.answer }
            } else {
                interrupted(source)
            }
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
            method: method.clone(),
            path: path.to_owned(),
        })
    }
}

fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

/// What an answer says of the error: `title` and `description`, Keystone's `error`, or text.
fn refusal(answer: &Answer) -> Box<Refusal> {
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let error = &document["error"];
    let (title, description) = if document.is_null() {
        let body = String::from_utf8_lossy(&answer.body);
        (String::new(), body.trim().chars().take(SHOWN).collect())
    } else if error.is_object() {
        (text(&error["title"]), text(&error["message"]))
    } else {
        (text(&document["title"]), text(&document["description"]))
    };
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = header("retry-after").and_then(|text| text.trim().parse().ok());
    Box::new(Refusal {
        method: answer.method.to_string(),
        path: answer.path.clone(),
        status: answer.status.as_u16(),
        title,
        description,
        retry_after: retry_after.map(Duration::from_secs),
        request_id: header("x-openstack-request-id").map(ToOwned::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            method: Method::GET,
            path: "/v2/queues".to_owned(),
        }
    }

    #[test]
    fn errors_of_every_kind_of_server_are_read() {
        for (body, title, description) in [
            (r#"{"title":"a","description":"b"}"#, "a", "b"),
            (r#"{"title":"a"}"#, "a", ""),
            (r#"{"error":{"code":401,"title":"a","message":"b"}}"#, "a", "b"),
            ("<h1>Bad Gateway</h1>", "", "<h1>Bad Gateway</h1>"),
            ("", "", ""),
        ] {
            let refusal = refusal(&answer(400, body));
            assert_eq!((&*refusal.title, &*refusal.description), (title, description), "{body}");
        }
        let long = refusal(&answer(502, &"x".repeat(1000)));
        assert_eq!(long.description.len(), SHOWN);
    }

    #[test]
    fn a_location_names_the_created_resource() {
        let mut answer = answer(201, "");
        assert_eq!(answer.located(), None);
        for (location, id) in [
            ("/v2/queues/q/claims/c1", Some("c1")),
            ("http://host/v2/queues/q/claims/c1?x=/y", Some("c1")),
            ("/v2/queues/q/claims/", None),
        ] {
            answer.headers.insert("location", location.parse().unwrap());
            assert_eq!(answer.located(), id, "{location}");
        }
    }
}
