//! NATS's text protocol, as far as JetStream needs it: a queue is a stream that keeps a message
//! until it is acknowledged, with one durable pull consumer.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::wire::{Wire, line_length, number, text, unreadable};
use crate::error::Error;

/// The consumer of every stream.
const CONSUMER: &str = "workers";
/// How often a message is asked for, each time for [`EXPIRES`], before the client gives up.
const TRIES: usize = 3;
/// Nanoseconds that the server holds a request for a message.
const EXPIRES: u64 = 5_000_000_000;

/// The subscriptions of a connection; the number tells what a message answers.
const ANSWERS: u64 = 1;
const DELIVERIES: u64 = 2;

/// A connection that publishes to one stream and pulls from it.
#[derive(Debug)]
pub(super) struct Nats {
    wire: Wire,
    publish: Bytes,
    pull: Bytes,
    /// Where answers go.
    answers: String,
}

impl Nats {
    /// Connects. [`Self::create`] makes the stream.
    pub(super) async fn open(address: SocketAddr, stream: &str, body: &str) -> Result<Self, Error> {
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        Self::with_inbox(address, &inbox, stream, body).await
    }

    async fn with_inbox(
        address: SocketAddr,
        inbox: &str,
        stream: &str,
        body: &str,
    ) -> Result<Self, Error> {
        let (answers, deliveries) = (format!("{inbox}.a"), format!("{inbox}.d"));
        let (subject, length) = (subject(stream), body.len());
        let pull = format!("{{\"batch\":1,\"expires\":{EXPIRES}}}");
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER}");
        let mut client = Self {
            wire: Wire::open(address).await?,
            publish: format!("PUB {subject} {answers} {length}\r\n{body}\r\n").into(),
            pull: format!("PUB {next} {deliveries} {}\r\n{pull}\r\n", pull.len()).into(),
            answers,
        };
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\
             \"no_responders\":true,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}}\r\n\
             SUB {} {ANSWERS}\r\nSUB {deliveries} {DELIVERIES}\r\nPING\r\n",
            client.answers
        );
        client.wire.send(hello.as_bytes()).await?;
        while client.incoming().await? != Incoming::Pong {}
        Ok(client)
    }

    /// Makes the stream, on disk, and its consumer.
    pub(super) async fn create(&mut self, stream: &str) -> Result<(), Error> {
        let config = format!(
            "{{\"name\":\"{stream}\",\"subjects\":[\"{}\"],\"retention\":\"workqueue\",\
             \"storage\":\"file\",\"num_replicas\":1}}",
            subject(stream)
        );
        self.ask(&format!("$JS.API.STREAM.CREATE.{stream}"), &config).await?;
        let config = format!(
            "{{\"stream_name\":\"{stream}\",\"config\":{{\"durable_name\":\"{CONSUMER}\",\
             \"ack_policy\":\"explicit\",\"deliver_policy\":\"all\"}}}}"
        );
        self.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{CONSUMER}"), &config).await
    }

    /// Deletes the stream.
    pub(super) async fn delete(&mut self, stream: &str) -> Result<(), Error> {
        self.ask(&format!("$JS.API.STREAM.DELETE.{stream}"), "").await
    }

    /// Publishes a message and waits until the stream has it.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        self.wire.send(&self.publish).await?;
        self.message(ANSWERS).await?.check()
    }

    /// Pulls a message, acknowledges it, and waits for the confirmation of that.
    pub(super) async fn consume(&mut self) -> Result<(), Error> {
        let reply = self.pull().await?;
        let ack = format!("PUB {} {} 4\r\n+ACK\r\n", text(&reply)?, self.answers);
        self.wire.send(ack.as_bytes()).await?;
        self.message(ANSWERS).await?.check()
    }

    /// Where the next message is to be acknowledged.
    async fn pull(&mut self) -> Result<Bytes, Error> {
        for _ in 0..TRIES {
            self.wire.send(&self.pull).await?;
            let message = self.message(DELIVERIES).await?;
            match (message.status, message.reply) {
                (None, Some(reply)) => return Ok(reply),
                // No message came before the request expired.
                (Some(404 | 408), _) => {}
                (status, _) => {
                    return Err(unreadable(format!("NATS answers a pull with status {status:?}")));
                }
            }
        }
        Err(unreadable("NATS has no message".to_owned()))
    }

    async fn ask(&mut self, subject: &str, request: &str) -> Result<(), Error> {
        let length = request.len();
        let request = format!("PUB {subject} {} {length}\r\n{request}\r\n", self.answers);
        self.wire.send(request.as_bytes()).await?;
        self.message(ANSWERS).await?.check()
    }

    /// The next message for a subscription.
    async fn message(&mut self, wanted: u64) -> Result<Message, Error> {
        loop {
            match self.incoming().await? {
                Incoming::Message(message) if message.subscription == wanted => {
                    return Ok(message);
                }
                Incoming::Message(_) | Incoming::Ping | Incoming::Pong | Incoming::Other => {}
            }
        }
    }

    /// What the server sends next; a ping is answered.
    async fn incoming(&mut self) -> Result<Incoming, Error> {
        let incoming = self.wire.next(parse).await?;
        if incoming == Incoming::Ping {
            self.wire.send(b"PONG\r\n").await?;
        }
        Ok(incoming)
    }
}

fn subject(stream: &str) -> String {
    format!("zaqar-measure.{stream}")
}

/// What the server sends.
#[derive(Debug, PartialEq, Eq)]
enum Incoming {
    Message(Message),
    Ping,
    Pong,
    /// `INFO` and `+OK`.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    subscription: u64,
    /// Where it is to be answered.
    reply: Option<Bytes>,
    /// Of a message that the server itself makes, in the headers.
    status: Option<u16>,
    payload: Bytes,
}

impl Message {
    /// Answers of JetStream are JSON, with an `error` where something failed.
    fn check(&self) -> Result<(), Error> {
        let payload = String::from_utf8_lossy(&self.payload);
        if let Some(status) = self.status {
            return Err(unreadable(format!("NATS answers with status {status}: {payload}")));
        }
        if memmem::find(&self.payload, b"\"error\":").is_some() {
            return Err(unreadable(format!("JetStream says {payload}")));
        }
        Ok(())
    }
}

fn parse(buffer: &mut BytesMut) -> Result<Option<Incoming>, Error> {
    let Some(end) = line_length(buffer)? else { return Ok(None) };
    let line = text(&buffer[..end])?;
    let verb = line.split(' ').next().unwrap_or_default();
    let control = match verb {
        "MSG" | "HMSG" => return parse_message(buffer, end),
        "PING" => Incoming::Ping,
        "PONG" => Incoming::Pong,
        "INFO" | "+OK" => Incoming::Other,
        _ => return Err(unreadable(format!("NATS says {line}"))),
    };
    drop(buffer.split_to(end + 2));
    Ok(Some(control))
}

/// `MSG subject subscription [reply] length`, or with headers
/// `HMSG subject subscription [reply] length-of-headers length`.
fn parse_message(buffer: &mut BytesMut, end: usize) -> Result<Option<Incoming>, Error> {
    let line = text(&buffer[..end])?;
    let words: Vec<&str> = line.split(' ').collect();
    let fixed = if words[0] == "HMSG" { 5 } else { 4 };
    if words.len() < fixed || words.len() > fixed + 1 {
        return Err(unreadable(format!("NATS says {line}")));
    }
    let subscription = number(words.get(2).copied())?;
    let length: usize = number(words.last().copied())?;
    let headers: usize = if fixed == 5 { number(words.get(words.len() - 2).copied())? } else { 0 };
    // The start and length of the reply subject.
    let reply = (words.len() > fixed).then(|| {
        let start = words[..3].iter().map(|word| word.len() + 1).sum::<usize>();
        start..start + words[3].len()
    });
    let total = end + 2 + length + 2;
    if buffer.len() < total {
        return Ok(None);
    }
    let message = buffer.split_to(total).freeze();
    if headers > length || &message[total - 2..] != b"\r\n" {
        return Err(unreadable("a message is not as long as its line says".to_owned()));
    }
    let start = end + 2 + headers;
    Ok(Some(Incoming::Message(Message {
        subscription,
        reply: reply.map(|range| message.slice(range)),
        status: status(&message[end + 2..start]),
        payload: message.slice(start..total - 2),
    })))
}

/// Headers begin with `NATS/1.0`, and a status where the server itself made the message.
fn status(headers: &[u8]) -> Option<u16> {
    let rest = headers.strip_prefix(b"NATS/1.0 ")?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::wire::tests::{Script, converse, parse_split};

    fn message(bytes: &[u8]) -> Message {
        let incoming = parse_split(bytes, parse);
        let Incoming::Message(message) = incoming else { panic!("{incoming:?}") };
        message
    }

    #[test]
    fn messages_are_read_whole() {
        let plain = message(b"MSG a.b 2 5\r\na\r\nbc\r\n");
        assert_eq!((plain.subscription, plain.reply, plain.status), (2, None, None));
        assert_eq!(plain.payload, "a\r\nbc");
        let replied = message(b"MSG a 1 $JS.ACK.x 0\r\n\r\n");
        assert_eq!(replied.reply.as_deref(), Some(&b"$JS.ACK.x"[..]));
        assert!(replied.payload.is_empty());
        let headers = message(b"HMSG a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
        assert_eq!((headers.reply.as_deref(), headers.status), (Some(&b"r"[..]), None));
        assert_eq!(headers.payload, "hi");
        let status = message(b"HMSG a 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n");
        assert_eq!((status.status, status.reply), (Some(404), None));
        assert_eq!(parse_split(b"PING\r\n", parse), Incoming::Ping);
        assert_eq!(parse_split(b"INFO {\"version\":\"2\"}\r\n", parse), Incoming::Other);
    }

    #[test]
    fn wrong_messages_are_errors() {
        for wrong in [
            &b"-ERR 'Authorization Violation'\r\n"[..],
            b"MSG a 1\r\n",
            b"MSG a x 2\r\nhi\r\n",
            b"MSG a 1 r s 2\r\nhi\r\n",
            b"MSG a 1 2\r\nhigh\r\n",
            b"HMSG a 1 9 2\r\nhi\r\n",
        ] {
            assert!(parse(&mut BytesMut::from(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_of_jetstream_are_errors() {
        let good = message(b"MSG a 1 25\r\n{\"stream\":\"S\", \"seq\":123}\r\n");
        assert!(good.check().is_ok());
        let full = b"{\"error\":{\"code\":503,\"description\":\"insufficient resources\"}}";
        let bad = Message { payload: full.as_slice().into(), ..good };
        assert!(bad.check().unwrap_err().to_string().contains("insufficient"));
        let nobody = message(b"HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
        assert!(nobody.check().unwrap_err().to_string().contains("503"));
    }

    #[test]
    fn a_message_is_published_pulled_and_acknowledged() {
        let connect = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
            \"no_responders\":true,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\n\
            SUB i.a 1\r\nSUB i.d 2\r\nPING\r\n";
        let publish = b"PUB zaqar-measure.s i.a 2\r\nhi\r\n";
        let pull = b"PUB $JS.API.CONSUMER.MSG.NEXT.s.workers i.d 32\r\n\
            {\"batch\":1,\"expires\":5000000000}\r\n";
        let script = [
            Script::Sends(b"INFO {}\r\n"),
            Script::Expects(connect),
            Script::Sends(b"PONG\r\n"),
            Script::Expects(publish),
            Script::Sends(b"PING\r\n"),
            Script::Expects(b"PONG\r\n"),
            Script::Sends(b"MSG i.a 1 23\r\n{\"stream\":\"s\",\"seq\":12}\r\n"),
            Script::Expects(pull),
            Script::Sends(b"HMSG i.d 2 26 26\r\nNATS/1.0 408 Timeout 1\r\n\r\n\r\n"),
            Script::Expects(pull),
            Script::Sends(b"MSG zaqar-measure.s 2 $JS.ACK.7 2\r\nhi\r\n"),
            Script::Expects(b"PUB $JS.ACK.7 i.a 4\r\n+ACK\r\n"),
            Script::Sends(b"MSG i.a 1 0\r\n\r\n"),
            Script::Expects(publish),
            Script::Sends(b"MSG i.a 1 12\r\n{\"error\":{}}\r\n"),
        ];
        let last = converse(&script, async |address| {
            let mut client = Nats::with_inbox(address, "i", "s", "hi").await?;
            client.publish().await?;
            client.consume().await?;
            Ok(client.publish().await)
        });
        assert!(last.unwrap().is_err());
    }
}
