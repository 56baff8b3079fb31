//! The two encodings of the wire: JSON in text frames, MessagePack in binary frames.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::{members, msgpack};

/// The encoding of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Text frames.
    Json,
    /// Binary frames.
    MessagePack,
}

impl Encoding {
    /// Its name in answers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "text (JSON)",
            Self::MessagePack => "binary (MessagePack)",
        }
    }

    /// The tag that pushes in this encoding have.
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::MessagePack => 1,
        }
    }

    /// The encoding with this tag.
    pub(crate) const fn from_tag(tag: u8) -> Self {
        if tag == Self::MessagePack.tag() { Self::MessagePack } else { Self::Json }
    }

    /// The operation code of its frames.
    pub(crate) const fn opcode(self) -> u8 {
        match self {
            Self::Json => 1,
            Self::MessagePack => 2,
        }
    }

    /// Decodes a document to JSON text that passes [`members::check`].
    ///
    /// # Errors
    /// A description of the fault, for the client.
    pub(crate) fn decode(self, document: Bytes) -> Result<Bytes, String> {
        match self {
            Self::Json => members::check(&document).map(|()| document),
            Self::MessagePack => match msgpack::to_json(&document) {
                Ok(text) => members::check(text.as_bytes()).map(|()| Bytes::from(text)),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Encodes JSON text.
    pub(crate) fn encode(self, text: Bytes) -> Bytes {
        match self {
            Self::Json => text,
            Self::MessagePack => Bytes::from(msgpack::from_json(&text)),
        }
    }

    /// A frame with the payload that [`Encoding::encode`] returned.
    pub(crate) fn frame(self, payload: Bytes) -> Message {
        let data = match self {
            Self::Json => Data::Text,
            Self::MessagePack => Data::Binary,
        };
        // `Message::Frame`, as `Message::Text` would validate UTF-8 again for every receiver.
        Message::Frame(Frame::message(payload, OpCode::Data(data), true))
    }
}
