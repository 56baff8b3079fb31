//! Frames and methods of AMQP 0-9-1, as far as one channel needs them that publishes, consumes and
//! acknowledges. Numbers are big-endian; a frame is its kind, channel, length, payload and an end
//! mark.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::unreadable;
use crate::error::Error;

/// What a client says first.
pub(super) const HELLO: &[u8] = b"AMQP\0\0\x09\x01";
/// The longest frame in bytes: what RabbitMQ proposes.
pub(super) const LONGEST_FRAME: u32 = 131_072;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;
/// Bytes before a payload.
const BEFORE: usize = 7;
/// The class of the methods that move messages.
const BASIC: u16 = 60;

/// A method's class and number.
pub(super) type Method = (u16, u16);

pub(super) const CONNECTION_START: Method = (10, 10);
pub(super) const CONNECTION_START_OK: Method = (10, 11);
pub(super) const CONNECTION_TUNE: Method = (10, 30);
pub(super) const CONNECTION_TUNE_OK: Method = (10, 31);
pub(super) const CONNECTION_OPEN: Method = (10, 40);
pub(super) const CONNECTION_OPEN_OK: Method = (10, 41);
pub(super) const CONNECTION_CLOSE: Method = (10, 50);
pub(super) const CHANNEL_OPEN: Method = (20, 10);
pub(super) const CHANNEL_OPEN_OK: Method = (20, 11);
pub(super) const CHANNEL_CLOSE: Method = (20, 40);
pub(super) const QUEUE_DECLARE: Method = (50, 10);
pub(super) const QUEUE_DECLARE_OK: Method = (50, 11);
pub(super) const QUEUE_DELETE: Method = (50, 40);
pub(super) const QUEUE_DELETE_OK: Method = (50, 41);
pub(super) const BASIC_QOS: Method = (BASIC, 10);
pub(super) const BASIC_QOS_OK: Method = (BASIC, 11);
pub(super) const BASIC_CONSUME: Method = (BASIC, 20);
pub(super) const BASIC_CONSUME_OK: Method = (BASIC, 21);
pub(super) const BASIC_PUBLISH: Method = (BASIC, 40);
pub(super) const BASIC_DELIVER: Method = (BASIC, 60);
pub(super) const BASIC_ACK: Method = (BASIC, 80);
pub(super) const CONFIRM_SELECT: Method = (85, 10);
pub(super) const CONFIRM_SELECT_OK: Method = (85, 11);

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A method and its arguments.
    Method(Method, Bytes),
    /// The length of the body that follows, in bytes.
    Header(u64),
    /// A part of a body, of so many bytes.
    Body(usize),
    Heartbeat,
}

/// Takes a frame from the start of a buffer; `None` while it is not complete.
pub(super) fn parse(buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
    let Some(mut head) = buffer.get(..BEFORE) else { return Ok(None) };
    let (kind, _channel, length) = (head.get_u8(), head.get_u16(), head.get_u32());
    if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) || length > LONGEST_FRAME {
        return Err(unreadable(format!("a frame of kind {kind} and {length} bytes")));
    }
    let total = BEFORE + length as usize + 1;
    if buffer.len() < total {
        return Ok(None);
    }
    let mut frame = buffer.split_to(total).freeze();
    if frame[total - 1] != END {
        return Err(unreadable("a frame without its end".to_owned()));
    }
    frame.truncate(total - 1);
    frame.advance(BEFORE);
    Ok(Some(match kind {
        METHOD => Frame::Method((take_u16(&mut frame)?, take_u16(&mut frame)?), frame),
        HEADER => {
            // The class and its weight.
            take_u32(&mut frame)?;
            Frame::Header(take_u64(&mut frame)?)
        }
        BODY => Frame::Body(frame.len()),
        _ => Frame::Heartbeat,
    }))
}

/// Takes a number from the start of arguments.
pub(super) fn take_u16(arguments: &mut Bytes) -> Result<u16, Error> {
    arguments.try_get_u16().map_err(|_| short())
}

/// Takes a number from the start of arguments.
pub(super) fn take_u32(arguments: &mut Bytes) -> Result<u32, Error> {
    arguments.try_get_u32().map_err(|_| short())
}

/// Takes a number from the start of arguments.
pub(super) fn take_u64(arguments: &mut Bytes) -> Result<u64, Error> {
    arguments.try_get_u64().map_err(|_| short())
}

/// Takes a short string from the start of arguments.
pub(super) fn take_string(arguments: &mut Bytes) -> Result<Bytes, Error> {
    let length = usize::from(arguments.try_get_u8().map_err(|_| short())?);
    if arguments.len() < length {
        return Err(short());
    }
    Ok(arguments.split_to(length))
}

fn short() -> Error {
    unreadable("the arguments of a method are too short".to_owned())
}

/// The arguments of a method that is sent.
#[derive(Debug, Default)]
pub(super) struct Arguments(Vec<u8>);

impl Arguments {
    pub(super) fn bits(mut self, bits: u8) -> Self {
        self.0.put_u8(bits);
        self
    }

    pub(super) fn u16(mut self, number: u16) -> Self {
        self.0.put_u16(number);
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.put_u32(number);
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// A string of at most 255 bytes; what is longer is cut.
    pub(super) fn string(mut self, text: &str) -> Self {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.0.put_u8(length);
        self.0.put_slice(&text.as_bytes()[..usize::from(length)]);
        self
    }

    /// A long string.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.put_slice(bytes);
        self
    }

    /// A table whose values are strings.
    pub(super) fn table(self, entries: &[(&str, &str)]) -> Self {
        let table = entries.iter().fold(Self::default(), |mut table, (name, value)| {
            table = table.string(name);
            table.0.put_u8(b'S');
            table.bytes(value.as_bytes())
        });
        self.bytes(&table.0)
    }
}

/// Appends a method.
pub(super) fn put_method(out: &mut Vec<u8>, channel: u16, method: Method, arguments: Arguments) {
    let (class, number) = method;
    let payload = Arguments::default().u16(class).u16(number).0;
    put_frame(out, METHOD, channel, &[&payload, &arguments.0]);
}

/// Appends a message: the method that publishes it to a queue, its header, which asks for it to be
/// kept, and its body, which must fit into one frame.
pub(super) fn put_message(out: &mut Vec<u8>, channel: u16, queue: &str, body: &[u8]) {
    const HAS_DELIVERY_MODE: u16 = 1 << 12;
    const PERSISTENT: u8 = 2;
    let route = Arguments::default().u16(0).string("").string(queue).bits(0);
    put_method(out, channel, BASIC_PUBLISH, route);
    let header = Arguments::default().u16(BASIC).u16(0).u64(body.len() as u64);
    let header = header.u16(HAS_DELIVERY_MODE).bits(PERSISTENT);
    put_frame(out, HEADER, channel, &[&header.0]);
    put_frame(out, BODY, channel, &[body]);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for part in payload {
        out.put_slice(part);
    }
    out.put_u8(END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::wire::tests::parse_split;

    #[test]
    fn frames_are_read_whole() {
        let mut sent = Vec::new();
        put_method(&mut sent, 1, BASIC_ACK, Arguments::default().u64(7).bits(0));
        let Frame::Method(method, mut arguments) = parse_split(&sent, parse) else {
            panic!("no method")
        };
        assert_eq!((method, take_u64(&mut arguments).unwrap()), (BASIC_ACK, 7));
        assert!(take_u16(&mut arguments).is_err(), "one byte is left");
        assert_eq!(parse_split(b"\x08\0\0\0\0\0\0\xCE", parse), Frame::Heartbeat);
    }

    #[test]
    fn a_message_has_three_frames() {
        let mut sent = Vec::new();
        put_message(&mut sent, 1, "q", b"hello");
        let expected = b"\x01\0\x01\0\0\0\x0A\0\x3C\0\x28\0\0\0\x01q\0\xCE\
            \x02\0\x01\0\0\0\x0F\0\x3C\0\0\0\0\0\0\0\0\0\x05\x10\0\x02\xCE\
            \x03\0\x01\0\0\0\x05hello\xCE";
        assert_eq!(sent, expected);
        let mut buffer = BytesMut::from(&sent[..]);
        let mut next = || parse(&mut buffer).unwrap();
        assert!(matches!(next(), Some(Frame::Method(BASIC_PUBLISH, _))));
        assert_eq!(next(), Some(Frame::Header(5)));
        assert_eq!(next(), Some(Frame::Body(5)));
        assert_eq!(next(), None);
    }

    #[test]
    fn tables_and_strings_have_their_lengths() {
        let table = Arguments::default().table(&[("x-queue-type", "quorum")]);
        assert_eq!(table.0, b"\0\0\0\x18\x0Cx-queue-typeS\0\0\0\x06quorum");
        let mut arguments = Bytes::from_static(b"\x02hi!");
        assert_eq!(take_string(&mut arguments).unwrap(), "hi");
        assert!(take_string(&mut arguments).is_err(), "33 bytes are missing");
    }

    #[test]
    fn wrong_frames_are_errors() {
        // A server that speaks another version says so without a frame.
        for wrong in [
            &b"AMQP\0\0\x09\x01"[..],
            b"\x01\0\0\0\xFF\0\0",
            b"\x08\0\0\0\0\0\0\xCD",
            b"\x01\0\0\0\0\0\x02\0\x0A\xCE",
            b"\x02\0\0\0\0\0\x04\0\x3C\0\0\xCE",
        ] {
            assert!(parse(&mut BytesMut::from(wrong)).is_err(), "{wrong:?}");
        }
    }
}
