//! A ping over WebSocket (RFC 6455): one message in each direction.

use std::io::{self, Read};

use serde_json::{Value, json};

use super::connection::Duplex;
use super::{Answer, MAX_ANSWER, PROJECT, not_http, parse};

/// The opening handshake. Its key need not be random: it only shows caches that this is WebSocket.
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: emFxYXItaGVhbHRoLWFzaw==\r\n\r\n";
/// The first bytes of frames that are whole messages, and the bits of their kind.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const KIND: u8 = 0x0f;
/// The second byte: the frame is masked. The mask is zero, so the bytes stay as they are.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0; 4];
/// Frames of other kinds that are skipped before the answer, at most.
const SKIPPED: usize = 16;

/// Sends `ping_node` and returns the status of the answer, or that of a refused handshake.
pub(super) fn ping(stream: &mut dyn Duplex, client: &str) -> io::Result<Answer> {
    stream.write_all(UPGRADE.as_bytes())?;
    stream.flush()?;
    let (status, said) = parse(&read_head(stream)?).ok_or_else(not_http)?;
    if status != 101 {
        return Ok((status, said));
    }
    let headers = json!({ "Client-ID": client, "X-Project-ID": PROJECT });
    let request = json!({ "action": "ping_node", "headers": headers, "body": {} });
    stream.write_all(&frame(TEXT, request.to_string().as_bytes()))?;
    stream.flush()?;
    let answer = read_message(stream)?;
    // A polite end; the answer is known.
    let _ = stream.write_all(&frame(CLOSE, &[])).and_then(|()| stream.flush());
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the answer has no status");
    let answer: Value = serde_json::from_slice(&answer)?;
    let status = answer["headers"]["status"].as_u64().and_then(|status| status.try_into().ok());
    Ok((status.ok_or_else(invalid)?, answer["body"].to_string()))
}

fn read_head(stream: &mut dyn Duplex) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() as u64 <= MAX_ANSWER {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => frame.push(MASKED | length),
        (_, length) => {
            frame.push(MASKED | 126);
            frame.extend(length.unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload);
    frame
}

/// The first message; frames that are none are skipped.
fn read_message(stream: &mut dyn Duplex) -> io::Result<Vec<u8>> {
    for _ in 0..SKIPPED {
        let mut start = [0; 2];
        stream.read_exact(&mut start)?;
        let length = match start[1] {
            length @ ..126 => u64::from(length),
            126 => {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            _ => MAX_ANSWER + 1,
        };
        if length > MAX_ANSWER {
            break;
        }
        let mut payload = Vec::new();
        (&mut *stream).take(length).read_to_end(&mut payload)?;
        if start[0] & KIND == TEXT & KIND {
            return Ok(payload);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_length_of_its_payload() {
        assert_eq!(frame(CLOSE, &[]), [0x88, 0x80, 0, 0, 0, 0]);
        assert_eq!(frame(TEXT, b"ab"), [0x81, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(frame(TEXT, &[b'x'; 125])[..6], [0x81, 0xfd, 0, 0, 0, 0]);
        assert_eq!(frame(TEXT, &[b'x'; 126])[..8], [0x81, 0xfe, 0, 126, 0, 0, 0, 0]);
        assert_eq!(frame(TEXT, &[b'x'; 1300])[..4], [0x81, 0xfe, 5, 20]);
    }
}
