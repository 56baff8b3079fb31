//! A Zaqar server as a target: finished requests for one queue, and the ids in its answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Uri;
use memchr::memmem;

use crate::error::Error;
use crate::http::Connection;

/// Bytes of a message's body.
pub(crate) const BODY: usize = 1024;
/// Messages that a page, a claim and a deletion ask for.
pub(crate) const PAGE: usize = 10;
/// Messages of one request that fills a queue: what a server's default of 256 KiB takes.
const FILL: usize = 240;
/// Seconds that messages live: longer than any run.
const MESSAGE_TTL: u32 = 6 * 3600;

/// Where requests go and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    host: String,
    prefix: String,
    /// The header lines that every request has.
    headers: String,
}

/// Who sends the requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sender {
    pub(crate) project: String,
    pub(crate) token: Option<String>,
}

impl Target {
    /// Reads a URL such as `http://host:8888/prefix` and looks its host up.
    pub(crate) async fn new(url: &str, sender: &Sender) -> Result<Self, Error> {
        let wrong = |reason| Error::Url { url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http:// is spoken"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let port = authority.port_u16().unwrap_or(80);
        let name = authority.host().trim_matches(['[', ']']).to_owned();
        let mut found = tokio::net::lookup_host((name, port))
            .await
            .map_err(|source| Error::Connect { address: authority.to_string(), source })?;
        let address = found.next().ok_or_else(|| wrong("its host has no address"))?;
        let mut headers = format!(
            "Client-ID: {:032x}\r\nX-Project-ID: {}\r\nAccept: application/json\r\n",
            rand::random::<u128>(),
            sender.project
        );
        if let Some(token) = &sender.token {
            headers += &format!("X-Auth-Token: {token}\r\n");
        }
        Ok(Self {
            url: url.to_owned(),
            address,
            host: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            headers,
        })
    }

    /// A queue of this server.
    pub(crate) fn queue(&self, name: impl Into<String>) -> Queue<'_> {
        Queue { target: self, name: name.into() }
    }

    /// A finished request; `path` is a path below `/v2/queues`, or a query of it.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&str>) -> Bytes {
        let Self { host, prefix, headers, .. } = self;
        let slash = if path.starts_with('?') { "" } else { "/" };
        let mut request = format!(
            "{method} {prefix}/v2/queues{slash}{path} HTTP/1.1\r\nHost: {host}\r\n{headers}"
        );
        if let Some(body) = body {
            let length = body.len();
            request +=
                &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
            request += body;
        } else {
            request += "\r\n";
        }
        request.into()
    }
}

/// The requests of one queue.
#[derive(Debug)]
pub(crate) struct Queue<'a> {
    target: &'a Target,
    name: String,
}

impl Queue<'_> {
    /// Posts `count` messages.
    pub(crate) fn post(&self, count: usize) -> Bytes {
        let message = format!("{{\"ttl\":{MESSAGE_TTL},\"body\":{}}}", body());
        let messages = vec![message; count].join(",");
        let document = format!("{{\"messages\":[{messages}]}}");
        self.target.request("POST", &format!("{}/messages", self.name), Some(&document))
    }

    /// Lists the page behind a message, or the first.
    pub(crate) fn list(&self, marker: Option<&str>) -> Bytes {
        let marker = marker.map(|id| format!("&marker={id}")).unwrap_or_default();
        let path = format!("{}/messages?limit={PAGE}&echo=true{marker}", self.name);
        self.target.request("GET", &path, None)
    }

    /// Gets one message.
    pub(crate) fn get(&self, id: &str) -> Bytes {
        self.target.request("GET", &format!("{}/messages/{id}", self.name), None)
    }

    /// Claims up to `count` messages for `ttl` seconds.
    pub(crate) fn claim(&self, count: usize, ttl: u32) -> Bytes {
        let document = format!("{{\"ttl\":{ttl},\"grace\":60}}");
        let path = format!("{}/claims?limit={count}", self.name);
        self.target.request("POST", &path, Some(&document))
    }

    /// Releases a claim.
    pub(crate) fn release(&self, claim: &str) -> Bytes {
        self.target.request("DELETE", &format!("{}/claims/{claim}", self.name), None)
    }

    /// Deletes messages by their ids.
    pub(crate) fn delete_messages(&self, ids: &[&str]) -> Bytes {
        let path = format!("{}/messages?ids={}", self.name, ids.join(","));
        self.target.request("DELETE", &path, None)
    }

    /// Deletes the queue.
    pub(crate) fn delete(&self) -> Bytes {
        self.target.request("DELETE", &self.name, None)
    }

    /// Posts `count` messages in large batches, over one connection.
    pub(crate) async fn fill(&self, count: usize) -> Result<(), Error> {
        let mut connection = Connection::open(self.target.address).await?;
        let batch = self.post(FILL);
        for _ in 0..count / FILL {
            connection.expect("a post", &batch).await?;
        }
        let rest = count % FILL;
        if rest > 0 {
            connection.expect("a post", &self.post(rest)).await?;
        }
        Ok(())
    }
}

/// The JSON of a message's body: [`BODY`] bytes, as an event that a service posts.
pub(crate) fn body() -> String {
    let start = r#"{"event":"instance.create.end","tries":3,"ok":true,"tags":["a","b"],"text":""#;
    let text = "Zaqar keeps messages until somebody takes them. ".repeat(BODY / 48 + 1);
    format!("{start}{}\"}}", &text[..BODY - start.len() - 2])
}

/// The ids of the messages in an answer, in their order. No JSON is parsed: a body must not have a
/// key `id`.
pub(crate) fn message_ids(answer: &[u8]) -> impl Iterator<Item = &str> {
    memmem::find_iter(answer, b"\"id\"").filter_map(|at| {
        let rest = &answer[at + 4..];
        let start = 1 + memchr::memchr(b'"', rest)?;
        let length = memchr::memchr(b'"', &rest[start..])?;
        std::str::from_utf8(&rest[start..start + length]).ok()
    })
}

/// The ids in the answer to a post, which names the messages by their paths.
pub(crate) fn posted_ids(answer: &[u8]) -> impl Iterator<Item = &str> {
    const BEFORE: &[u8] = b"/messages/";
    memmem::find_iter(answer, BEFORE).filter_map(|at| {
        let rest = &answer[at + BEFORE.len()..];
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    })
}

/// The id of the claim in the answer to a claim: each message's path has it.
pub(crate) fn claim_id(answer: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = b"claim_id=";
    let rest = &answer[memmem::find(answer, BEFORE)? + BEFORE.len()..];
    std::str::from_utf8(&rest[..memchr::memchr2(b'"', b'&', rest)?]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_kib_without_an_id() {
        assert_eq!(body().len(), BODY);
        assert_eq!(message_ids(body().as_bytes()).count(), 0);
    }

    #[test]
    fn ids_are_found_with_and_without_spaces() {
        let answer =
            br#"{"messages": [{"id": "a1", "href": "/v2/queues/q/messages/a1?claim_id=c7"},
            {"id":"b2","href":"/v2/queues/q/messages/b2?claim_id=c7","body":{"idle":1}}]}"#;
        assert_eq!(message_ids(answer).collect::<Vec<_>>(), ["a1", "b2"]);
        assert_eq!(claim_id(answer), Some("c7"));
        let posted = br#"{"resources":["/v2/queues/q/messages/a1","/v2/queues/q/messages/b2"]}"#;
        assert_eq!(posted_ids(posted).collect::<Vec<_>>(), ["a1", "b2"]);
        assert_eq!(claim_id(posted), None);
    }
}
