//! One worker's way to the server: HTTP or WebSocket.

use serde::Deserialize;
use serde_json::json;
use zaqar_client::websocket::{Events, WebSocket};
use zaqar_client::{
    Claim, ClaimOptions, Client, Error, Listed, Message, MessageId, NewMessage, Queue,
};

/// Seconds that a claim of the benchmark lives.
pub(crate) const CLAIM_TTL: u64 = 300;

/// Which transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    Http,
    Websocket,
}

/// A queue over one transport.
pub(crate) enum Link {
    Http(Queue),
    /// The events are kept, as the connection closes with them.
    WebSocket {
        socket: WebSocket,
        queue: String,
        _events: Events,
    },
}

/// What a claim got.
pub(crate) struct Claimed {
    pub(crate) messages: Vec<Message>,
    /// Renewed and deleted through this over HTTP.
    claim: Option<Claim>,
}

/// A page of a reader.
pub(crate) struct Page {
    pub(crate) messages: Vec<Message>,
    /// Where the next one begins; `None` without messages.
    pub(crate) marker: Option<MessageId>,
}

#[derive(Deserialize)]
struct Messages {
    #[serde(default)]
    messages: Vec<Message>,
}

impl Link {
    /// A connection of its own over WebSocket; over HTTP one of the client's.
    pub(crate) async fn open(
        client: &Client,
        websocket: Option<&str>,
        queue: &str,
    ) -> Result<Self, Error> {
        Ok(match websocket {
            None => Self::Http(client.queue(queue)?),
            Some(url) => {
                let (socket, events) = client.websocket(url).await?;
                Self::WebSocket { socket, queue: queue.to_owned(), _events: events }
            }
        })
    }

    pub(crate) async fn post(&self, messages: Vec<NewMessage>) -> Result<(), Error> {
        match self {
            Self::Http(queue) => queue.post(messages).await.map(drop),
            Self::WebSocket { socket, queue, .. } => socket.post(queue, messages).await.map(drop),
        }
    }

    pub(crate) async fn claim(&self, limit: u32) -> Result<Option<Claimed>, Error> {
        match self {
            Self::Http(queue) => {
                let options = ClaimOptions { limit, ttl: CLAIM_TTL, ..ClaimOptions::default() };
                let claim = queue.claim(&options).await?;
                Ok(claim.map(|claim| Claimed {
                    messages: claim.messages().to_vec(),
                    claim: Some(claim),
                }))
            }
            Self::WebSocket { socket, queue, .. } => {
                let body =
                    json!({"queue_name": queue, "ttl": CLAIM_TTL, "grace": 60, "limit": limit});
                let reply = socket.request("claim_create", body).await?;
                let messages = read("claim_create", &reply.body)?;
                Ok((!messages.is_empty()).then_some(Claimed { messages, claim: None }))
            }
        }
    }

    /// Deletes all that a claim got.
    pub(crate) async fn delete(&self, claimed: &Claimed) -> Result<(), Error> {
        match (self, &claimed.claim) {
            (Self::Http(_), Some(claim)) => claim.delete_all().await,
            (Self::Http(queue), None) => queue.delete_messages(&ids(claimed)).await,
            (Self::WebSocket { socket, queue, .. }, _) => {
                let claims: Vec<_> =
                    claimed.messages.iter().filter_map(|one| one.claim_id.clone()).collect();
                let body = json!({
                    "queue_name": queue, "message_ids": ids(claimed), "claim_ids": claims,
                });
                socket.request("message_delete_many", body).await.map(drop)
            }
        }
    }

    /// The page behind a marker, or the first. Claimed messages are included behind a marker only:
    /// the original on Redis cannot list them without one.
    pub(crate) async fn list(&self, marker: Option<&MessageId>) -> Result<Page, Error> {
        let claimed = marker.is_some();
        match self {
            Self::Http(queue) => {
                let listed = Listed { claimed, ..Listed::default() };
                let (messages, marker) = queue.page_and_marker(&listed, marker).await?;
                Ok(Page { messages, marker })
            }
            Self::WebSocket { socket, queue, .. } => {
                let mut body =
                    json!({"queue_name": queue, "echo": true, "include_claimed": claimed});
                if let Some(marker) = marker {
                    body["marker"] = marker.as_str().into();
                }
                let reply = socket.request("message_list", body).await?;
                let messages = read("message_list", &reply.body)?;
                let marker = messages.last().map(|last| last.id.clone());
                Ok(Page { messages, marker })
            }
        }
    }
}

fn ids(claimed: &Claimed) -> Vec<MessageId> {
    claimed.messages.iter().map(|message| message.id.clone()).collect()
}

fn read(action: &str, body: &zaqar_client::Body) -> Result<Vec<Message>, Error> {
    let read: Result<Messages, _> = body.parse();
    read.map(|read| read.messages).map_err(|source| Error::Malformed {
        method: action.to_owned(),
        path: "over WebSocket".to_owned(),
        source: source.into(),
    })
}
