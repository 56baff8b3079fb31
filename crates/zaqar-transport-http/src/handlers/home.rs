//! The version list and the home document.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::respond;

pub(super) const MEDIA_TYPE: &str = "application/json-home";

const VERSIONS: &str = concat!(
    r#"{"versions":[{"id":"2","status":"CURRENT","updated":"2014-9-24T04:06:47Z","#,
    r#""media-types":[{"base":"application/json","#,
    r#""type":"application/vnd.openstack.messaging-v2+json"}],"#,
    r#""links":[{"href":"/v2/","rel":"self"}]}]}"#
);

/// `GET /`: 300, with the only version.
pub(super) fn versions() -> Response<Full<Bytes>> {
    respond::json(StatusCode::MULTIPLE_CHOICES, VERSIONS)
}

/// `GET /v2/`: the paths of the resources (draft-nottingham-json-home-03), cacheable for a day.
pub(super) fn document(home: Bytes) -> Response<Full<Bytes>> {
    let mut response = respond::json(StatusCode::OK, home);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=86400"));
    response
}
